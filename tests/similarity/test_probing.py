"""Probes by depth against Gaussian densities, scikit-learn's neighbours and built cases."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from finetune_kit import checks, metrics
from finetune_kit.similarity import probing, scores


def cloud(labels, d, spread, seed=0):
    """Returns features float32 [n, d] on unequal scales around class centres."""
    rng = np.random.default_rng(seed)
    centres = spread * rng.normal(size=(labels.max() + 1, d))
    return ((rng.normal(size=(len(labels), d)) + centres[labels]) * rng.uniform(1, 9, d)).astype(
        np.float32
    )


def stages(n=90, classes=3, spreads=(0.1, 0.5, 1.0, 1.0)):
    """Returns features of four stages that separate the classes ever better, and labels [n]."""
    labels = np.random.default_rng(5).permutation(np.arange(n) % classes)
    return {
        f"stage_{i}": cloud(labels, 4 + 4 * i, spread, seed=i) for i, spread in enumerate(spreads)
    }, labels


def by_densities(rows, labels, folds):
    """Returns which images Bayes' rule with one shrunk normal covariance recognises, bool [n]."""
    hits = np.zeros(len(labels), bool)
    for fold in np.unique(folds):
        own, out = folds != fold, folds == fold
        classes, counts = np.unique(labels[own], return_counts=True)
        means = np.stack([rows[own & (labels == c)].mean(axis=0) for c in classes])
        within = rows[own] - means[np.searchsorted(classes, labels[own])]
        covariance, _ = ledoit_wolf(within, assume_centered=True)
        logs = [
            multivariate_normal.logpdf(rows[out], mean, covariance) + np.log(count)
            for mean, count in zip(means, counts, strict=True)
        ]
        hits[out] = classes[np.argmax(logs, axis=0)] == labels[out]
    return hits


@pytest.mark.parametrize(("n", "d"), [(90, 8), (24, 60)])
def test_the_probe_is_bayes_rule_for_shrunk_normal_classes(n, d) -> None:
    # Unequal classes: the commoner one must win more often.
    labels = np.repeat([0, 1, 2], [n // 2, n // 3, n - n // 2 - n // 3])
    rows = cloud(labels, d, 0.35)
    fit = probing.probe({"only": rows}, labels, num_classes=3, seed=4)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    hits = by_densities(standard.astype(np.float64), labels, probing._folds(labels, seed=4))
    assert 0.4 < hits.mean() < 0.95
    assert fit.last.probe == metrics.wilson(int(hits.sum()), n)
    assert fit.concatenated.probe == fit.last_three.probe == fit.last.probe


def test_the_probe_agrees_with_logistic_regression() -> None:
    features, labels = stages(300)
    fit = probing.probe(features, labels, num_classes=3)
    for stage in fit.stages:
        rows = scores.standardise(features[stage.stage])
        expected = cross_val_score(LogisticRegression(C=0.1), rows, labels, cv=5).mean()
        assert stage.probe.value == pytest.approx(expected, abs=0.035)


def test_neighbours_are_those_of_scikit_learn() -> None:
    features, labels = stages()
    fit = probing.probe(features, labels, num_classes=3)
    for stage in fit.stages:
        rows = scores.standardise(features[stage.stage])
        twin = KNeighborsClassifier(
            5, metric="cosine", algorithm="brute", weights=lambda distances: 2 - distances
        )
        expected = cross_val_score(twin, rows, labels, cv=LeaveOneOut()).mean()
        assert stage.knn == pytest.approx(expected, abs=1e-12)
    assert fit.stages[0].knn < 0.7 < fit.last.knn


def test_neighbours_are_counted_in_blocks(monkeypatch) -> None:
    features, labels = stages()
    expected = probing.probe(features, labels, num_classes=3).last.knn
    monkeypatch.setattr(probing, "AT_ONCE", 7)
    assert probing.probe(features, labels, num_classes=3).last.knn == expected


def test_a_class_of_two_votes_with_one_neighbour() -> None:
    labels = np.array([0, 0, 1, 1, 1, 1, 1, 1])
    up, down = [[-1, 3.0], [-1, 3.1], [-1, 3.2]], [[-1, -3.0], [-1, -3.1], [-1, -3.2]]
    rows = np.array([[3, 0.1], [3, -0.1], *up, *down])
    fit = probing.probe({"only": rows}, labels, num_classes=2)
    assert fit.last.knn == 1.0  # with five, the pair would be outvoted


def test_scores_are_those_of_each_stage() -> None:
    features, labels = stages()
    fit = probing.probe(features, labels, num_classes=3)
    for stage in fit.stages:
        assert stage.logme == pytest.approx(scores.logme(features[stage.stage], labels))
        assert stage.h_score == pytest.approx(scores.h_score(features[stage.stage], labels))
    for part, names in ((fit.concatenated, list(features)), (fit.last_three, list(features)[1:])):
        rows = np.concatenate([features[name] for name in names], axis=1)
        assert part.logme == pytest.approx(scores.logme(rows, labels))
        assert part.h_score == pytest.approx(scores.h_score(rows, labels))
    assert (fit.last_three.stage, fit.concatenated.stage) == ("last three", "all stages")
    assert fit.last is fit.stages[-1] and fit.last.stage == "stage_3"


def test_folds_hold_every_class_in_each_and_all_images_once() -> None:
    labels = np.repeat([0, 1, 2], [10, 25, 2])
    folds = probing._folds(labels, seed=0)
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 1
    for c, count in ((0, 2), (1, 5)):
        assert (np.bincount(folds[labels == c], minlength=5) == count).all()
    assert len(set(folds[labels == 2])) == 2
    assert (probing._folds(labels, seed=1) != folds).any()
    np.testing.assert_array_equal(probing._folds(labels, seed=0), folds)
    assert probing._folds(np.array([0, 1, 0, 1]), seed=0).max() == 1


@pytest.mark.parametrize(
    ("spreads", "best"),
    [((0.1, 2.5, 0.3, 0.2), "stage_1"), ((1.0, 1.0, 1.0, 1.0), "stage_3")],
)
def test_best_is_the_last_stage_unless_another_is_clearly_better(spreads, best) -> None:
    features, labels = stages(spreads=spreads)
    fit = probing.probe(features, labels, num_classes=3)
    assert fit.best == best
    by_name = {stage.stage: stage.probe.value for stage in fit.stages}
    assert fit.specificity == pytest.approx(by_name[best] - by_name["stage_3"], abs=1e-12)
    assert (fit.specificity > 0.2) == (best == "stage_1")


def test_clearly_is_one_standard_error_image_by_image() -> None:
    last = np.arange(100) < 60
    # Better by 4 images of 100 where 4 differ: se 0.02. Where 36 differ: se 0.06.
    paired = last | (np.arange(100) >= 96)
    noisy = np.where((np.arange(100) < 16) | (np.arange(100) >= 80), ~last, last)
    assert paired.sum() - last.sum() == noisy.sum() - last.sum() == 4
    assert probing._best([paired, last]) == 0
    assert probing._best([noisy, last]) == 1
    better = last | (np.arange(100) >= 90)
    assert probing._best([paired, better, last]) == 1
    assert probing._best([better, paired, last]) == 0
    assert probing._best([None, None]) == 1


def test_fit_is_the_share_of_what_chance_leaves() -> None:
    features, labels = stages()
    fit = probing.probe(features, labels, num_classes=3)
    assert fit.chance == pytest.approx(1 / 3)
    assert fit.fit == pytest.approx((fit.last.probe.value - 1 / 3) / (2 / 3))
    deep = fit.above_chance(fit.concatenated)
    assert deep == pytest.approx(1.5 * fit.concatenated.probe.value - 0.5)
    labels = np.where(labels == 2, 1, labels)
    assert probing.probe(features, labels, num_classes=2).chance == pytest.approx(2 / 3)


def test_a_class_of_one_image_counts_for_the_scores_alone() -> None:
    features, labels = stages(30)
    rows = features["stage_3"]
    with_one = np.concatenate([labels, [3]])
    more = np.concatenate([rows, rows[:1] + 1])
    fit = probing.probe({"a": more}, with_one, num_classes=5)
    assert fit.images == 31
    # Wilson's interval of 30 images, not of 31, and a share of 30.
    hits = round(fit.last.probe.value * 30)
    assert fit.last.probe == metrics.wilson(hits, 30)
    assert fit.chance == pytest.approx(1 / 3)
    assert fit.last.logme == pytest.approx(scores.logme(more, with_one))
    assert fit.warning.startswith("1 of 4 classes have a single image")
    assert "1 of 5 classes have no image." in fit.warning


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 0, 1, 2], [1, 4]])
def test_too_few_labels_give_what_there_is(labels) -> None:
    labels = np.array(labels)
    rows = np.random.default_rng(0).normal(size=(len(labels), 6))
    fit = probing.probe({"a": rows, "b": rows[:, :2]}, labels, num_classes=5)
    for stage in (*fit.stages, fit.last_three, fit.concatenated):
        assert stage.probe is None and stage.knn is None
        assert np.isfinite(stage.logme) and 0 <= stage.h_score <= 1
    assert (fit.best, fit.fit, fit.specificity) == ("b", None, None)
    assert 0 < fit.chance < 1
    assert "single image" in fit.warning
    assert "NaN" not in json.dumps(dataclasses.asdict(fit))


def test_a_fit_is_plain_values_and_warns_of_scores() -> None:
    features, labels = stages(30)
    fit = probing.probe(features, labels, num_classes=3, static_prior="top-1 70.4 %")
    read = json.loads(json.dumps(dataclasses.asdict(fit)))
    assert read["stages"][1]["stage"] == "stage_1"
    assert read["last"]["probe"]["low"] == fit.last.probe.low
    assert read["static_prior"] == "top-1 70.4 %"
    assert (read["leep"], read["nce"]) == (None, None)
    assert fit.warning.startswith("Scores alone rank networks badly: Kendall's tau")


def test_a_source_head_gives_leep_and_nce() -> None:
    features, labels = stages(30)
    shares = np.random.default_rng(0).dirichlet(np.ones(7), 30)
    fit = probing.probe(features, labels, num_classes=3, source_probabilities=shares)
    assert fit.leep == pytest.approx(scores.leep(shares, labels))
    assert fit.nce == pytest.approx(scores.nce(shares.argmax(axis=1), labels))


def test_equal_seeds_give_equal_results_and_others_do_not() -> None:
    features, labels = stages(60, spreads=(0.3, 0.4, 0.5, 0.6))
    first, again = (probing.probe(features, labels, num_classes=3, seed=1) for _ in range(2))
    assert first == again
    others = [probing.probe(features, labels, num_classes=3, seed=s) for s in (2, 3, 4)]
    assert any(first.concatenated.probe != other.concatenated.probe for other in others)


def test_features_that_say_nothing() -> None:
    labels = np.arange(40) % 4
    fit = probing.probe({"a": np.ones((40, 3))}, labels, num_classes=4)
    assert fit.last.probe.value == pytest.approx(0.25, abs=0.26)
    assert np.isfinite(fit.last.logme) and fit.last.h_score == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"num_classes": 1}, checks.ConfigError, "num_classes must lie"),
        ({"features": {}}, checks.ConfigError, "at least one stage"),
        ({"labels": np.zeros(6, int)}, checks.DataError, "2 classes. Received: classes=1"),
        ({"labels": np.array([0, 1, 2, 0, 1, 2])}, checks.DataError, r"in \[0, 2\).*largest=2"),
        ({"labels": np.array([0, 1, -1, 0, 1, 1])}, checks.DataError, "smallest=-1"),
        ({"labels": np.zeros(5, int)}, checks.DataError, r"labels=\(5,\), a=\(6, 2\)"),
        ({"features": {"a": np.ones(6)}}, checks.DataError, r"a=\(6,\)"),
        ({"features": {"a": np.full((6, 2), np.nan)}}, checks.DataError, "finite.*stage='a'"),
    ],
)
def test_what_is_refused(change, error, words) -> None:
    given = {"features": {"a": np.eye(6, 2)}, "labels": np.arange(6) % 2, "num_classes": 2}
    with pytest.raises(error, match=words):
        probing.probe(**{**given, **change})


def test_what_is_recognised_is_what_the_probe_on_the_last_three_stages_counts() -> None:
    features, labels = stages()
    hits = probing.recognised(features, labels, num_classes=3, seed=2)
    fit = probing.probe(features, labels, num_classes=3, seed=2)
    assert fit.last_three.probe.value == hits.mean() and hits.shape == labels.shape
    shallow = {name: features[name] for name in list(features)[1:]}
    np.testing.assert_array_equal(hits, probing.recognised(shallow, labels, num_classes=3, seed=2))
    single = np.arange(len(labels))
    assert probing.recognised(features, single, num_classes=len(single)) is None
    # A sample of images may be of one class where the set is not.
    assert probing.recognised(features, np.ones_like(labels), num_classes=2) is None
    with pytest.raises(checks.DataError, match=r"Labels must lie in \[0, 2\)"):
        probing.recognised(features, labels, num_classes=2)


def test_mirrored_images_are_recognised_as_what_they_look_like() -> None:
    features, labels = stages()
    held = probing.recognised(features, labels, num_classes=3, seed=2)
    upright, same = probing.mirrored(features, features, labels, num_classes=3, seed=2)
    np.testing.assert_array_equal(upright, same)
    np.testing.assert_array_equal(upright, held)
    # In the mirror every image looks like one of the next class.
    others = np.array([np.flatnonzero(labels == (label + 1) % 3)[0] for label in labels])
    reflections = {name: rows[others] for name, rows in features.items()}
    upright, reflected = probing.mirrored(features, reflections, labels, num_classes=3, seed=2)
    assert upright.mean() > 0.8 and reflected.mean() < 0.1


def test_mirrored_images_are_not_asked_of_single_ones() -> None:
    features, labels = stages()
    single = np.arange(len(labels))
    assert probing.mirrored(features, features, single, num_classes=len(single)) is None
    assert probing.mirrored(features, features, np.ones_like(labels), num_classes=2) is None
    # A class of a single image is left out beside others.
    labels = np.append(labels[:-1], 3)
    upright, _ = probing.mirrored(features, features, labels, num_classes=4)
    assert len(upright) == len(labels) - 1
    with pytest.raises(checks.DataError, match="features"):
        short = {name: rows[1:] for name, rows in features.items()}
        probing.mirrored(features, short, labels, num_classes=4)
