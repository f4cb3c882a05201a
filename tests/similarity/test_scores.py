"""Scores against dense Gaussian evidence, small tables by hand, closed forms and scikit-learn."""

import numpy as np
import pytest
import scipy.optimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf, ledoit_wolf_shrinkage

from finetune_kit import checks
from finetune_kit.similarity import scores


def clouds(n=60, d=6, classes=3, spread=1.0, seed=0):
    """Returns features float64 [n, d] on unequal scales around class centres, and labels [n]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    rows = rng.normal(size=(n, d)) + spread * rng.normal(size=(classes, d))[labels]
    return rows * rng.uniform(0.1, 30, d) + 4.0, labels


def best_evidence(rows, columns):
    """Returns the mean log evidence of columns [m, C] under the best precisions of each, directly.

    A column is normal with covariance F F' / alpha + I / beta.
    """
    products, m = rows @ rows.T, len(rows)

    def cost(logs, column):
        covariance = np.exp(-logs[0]) * products + np.exp(-logs[1]) * np.eye(m)
        return -multivariate_normal.logpdf(column, np.zeros(m), covariance)

    values = []
    for column in columns.T:
        starts = [(a, b) for a in (-2.0, 2.0, 6.0) for b in (0.0, 3.0)]
        found = [
            scipy.optimize.minimize(cost, start, (column,), method="Nelder-Mead", tol=1e-8)
            for start in starts
        ]
        values.append(-min(result.fun for result in found) / m)
    return float(np.mean(values))


def without_the_mean(n):
    """Returns an orthonormal basis of what is left of n dimensions without the mean, [n, n - 1]."""
    return np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]


@pytest.mark.parametrize(("n", "d", "spread"), [(40, 5, 1.0), (40, 5, 0.0), (18, 30, 1.0)])
def test_logme_is_the_greatest_evidence(n, d, spread) -> None:
    rows, labels = clouds(n, d, spread=spread)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    basis, columns = without_the_mean(n), np.eye(3)[labels]
    expected = best_evidence(basis.T @ standard, basis.T @ columns)
    assert scores.logme(rows, labels) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (18, 30)])
def test_the_published_form_takes_features_and_columns_as_they_are(n, d) -> None:
    rows, labels = clouds(n, d)
    expected = best_evidence(rows, np.eye(3)[labels])
    assert scores.logme(rows, labels, standardised=False) == pytest.approx(expected, abs=2e-4)


def test_logme_does_not_know_the_unit_of_a_feature() -> None:
    rows, labels = clouds()
    other = rows * np.array([1e-3, 1, 1, 1e4, 1, 1]) - 70
    assert scores.logme(other, labels) == pytest.approx(scores.logme(rows, labels), abs=1e-6)
    raw = [scores.logme(x, labels, standardised=False) for x in (rows, other)]
    assert abs(raw[0] - raw[1]) > 0.01


def test_logme_of_features_that_say_nothing_is_that_of_the_labels_alone() -> None:
    labels = np.arange(30) % 3
    # Noise alone explains the centred columns: a normal with their mean square.
    square = (np.eye(3)[labels] - 1 / 3).var(axis=0).sum() * 30 / 29 / 3
    expected = -0.5 * (np.log(2 * np.pi * square) + 1)
    assert scores.logme(np.ones((30, 4)), labels) == pytest.approx(expected, abs=1e-6)
    # Each class holds as many of each value.
    balanced = np.stack([np.arange(30) // 3 % 2, np.arange(30) // 6 % 5 == 1], axis=1)
    assert scores.logme(balanced, labels) == pytest.approx(expected, abs=1e-6)


def test_separable_features_have_a_finite_logme_above_all_others() -> None:
    labels = np.arange(30) % 3
    perfect = scores.logme(np.eye(3)[labels], labels)
    assert np.isfinite(perfect)
    assert perfect > scores.logme(*clouds(30)) > scores.logme(*clouds(30, spread=0.0))


def test_h_score_of_gaussian_classes_with_known_covariance() -> None:
    rng = np.random.default_rng(1)
    mixing, shares = rng.normal(size=(5, 5)), np.array([0.5, 0.3, 0.2])
    centres = rng.normal(size=(3, 5))
    labels = rng.choice(3, size=100_000, p=shares)
    rows = rng.normal(size=(len(labels), 5)) @ mixing + centres[labels]
    away = centres - shares @ centres
    between = (away.T * shares) @ away
    expected = np.trace(np.linalg.solve(mixing.T @ mixing + between, between)) / 2
    assert 0.05 < expected < 0.95
    assert scores.h_score(rows, labels) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("n", "d"), [(60, 6), (20, 50)])
def test_h_score_is_shrunk_as_published(n, d) -> None:
    rows, labels = clouds(n, d)
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    covariance, amount = ledoit_wolf(standard)
    means = np.stack([standard[labels == c].mean(axis=0) for c in range(3)])[labels]
    between = means.T @ means / n
    expected = (1 - amount) * np.trace(np.linalg.pinv(covariance) @ between) / 2
    assert scores.h_score(rows, labels) == pytest.approx(expected, rel=1e-6)


def test_h_score_of_pure_noise_does_not_explode_with_few_images() -> None:
    rows, labels = clouds(30, 200, spread=0.0)
    # Unshrunk, as many features as images would explain every label: a score of 1.
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    means = np.stack([standard[labels == c].mean(axis=0) for c in range(3)])[labels]
    pinv = np.linalg.pinv(standard.T @ standard / 30, rcond=1e-10)
    assert np.trace(pinv @ (means.T @ means / 30)) / 2 == pytest.approx(1.0, abs=1e-6)
    assert scores.h_score(rows, labels) < 0.3


def test_h_score_of_collinear_and_constant_features() -> None:
    rows, labels = clouds()
    more = np.concatenate([rows, rows[:, :2] * 3 - 1, np.full((60, 1), 7.0)], axis=1)
    assert 0 < scores.h_score(more, labels) <= 1
    assert scores.h_score(np.ones((6, 2)), np.arange(6) % 2) == 0
    assert scores.h_score(np.eye(3)[labels], labels) == pytest.approx(1.0, abs=0.05)


def test_leep_of_a_small_table() -> None:
    shares = np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]])
    labels = np.array([0, 0, 1])
    # P(y=0|z) = (0.8 + 0.6) / 1.5 and (0.2 + 0.4) / 1.5; P(y=1|z) the rest.
    of_zero = np.array([1.4 / 1.5, 0.6 / 1.5])
    expected = np.mean(
        [
            np.log(0.8 * of_zero[0] + 0.2 * of_zero[1]),
            np.log(0.6 * of_zero[0] + 0.4 * of_zero[1]),
            np.log(0.1 * (1 - of_zero[0]) + 0.9 * (1 - of_zero[1])),
        ]
    )
    assert scores.leep(shares, labels) == pytest.approx(expected, abs=1e-12)


def test_nce_of_a_small_table() -> None:
    # z: 0 0 0 1 1 2 | y: 0 0 1 1 1 0: only z = 0 leaves a doubt, of one third against two.
    sources, labels = np.array([5, 5, 5, 9, 9, 2]), np.array([0, 0, 1, 1, 1, 0])
    expected = 0.5 * (2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert scores.nce(sources, labels) == pytest.approx(expected, abs=1e-12)


def test_leep_and_nce_reach_both_ends() -> None:
    labels = np.arange(12) % 3
    sure, blind = np.eye(5)[labels], np.full((12, 5), 0.2)
    assert scores.leep(sure, labels) == pytest.approx(0, abs=1e-12)
    assert scores.leep(blind, labels) == pytest.approx(-np.log(3), abs=1e-12)
    assert scores.nce(labels + 4, labels) == 0
    assert scores.nce(np.zeros(12, int), labels) == pytest.approx(-np.log(3), abs=1e-12)
    hard = np.random.default_rng(0).integers(0, 5, 12)
    # With hard predictions both are the same quantity (Nguyen et al., 2020, section 3).
    assert scores.leep(np.eye(5)[hard], labels) == pytest.approx(scores.nce(hard, labels))


@pytest.mark.parametrize(("n", "d"), [(40, 7), (15, 60)])
def test_shrinkage_is_that_of_scikit_learn(n, d) -> None:
    rows = scores.standardise(np.random.default_rng(2).normal(size=(n, d)) * np.arange(1, d + 1))
    expected = ledoit_wolf_shrinkage(rows, assume_centered=True)
    assert 0 < expected < 1
    assert scores.shrinkage(rows, width=d) == pytest.approx(expected, rel=1e-9)
    short = scores.compact(rows)
    assert short.shape == (n, min(n, d))
    np.testing.assert_allclose(short @ short.T, rows @ rows.T, atol=1e-9)
    assert scores.shrinkage(short, width=d) == pytest.approx(expected, rel=1e-9)
    covariance, _ = ledoit_wolf(rows, assume_centered=True)
    if d <= n:
        np.testing.assert_allclose(
            scores.shrunk(rows, expected, width=d), covariance, rtol=1e-9, atol=1e-12
        )


def test_compact_rows_have_the_same_scores() -> None:
    rows, labels = clouds(15, 80)
    standard = scores.standardise(rows)
    short = scores.compact(standard)
    assert scores.evidence(short, labels) == pytest.approx(scores.logme(rows, labels), abs=1e-6)
    given = scores.explained(short, labels, width=80)
    assert given == pytest.approx(scores.h_score(rows, labels), rel=1e-6)


@pytest.mark.parametrize("score", [scores.logme, scores.h_score])
def test_labels_are_names_and_two_are_needed(score) -> None:
    rows, labels = clouds()
    assert score(rows, np.array([40, -3, 7])[labels]) == pytest.approx(score(rows, labels))
    with pytest.raises(checks.DataError, match="at least 2 classes. Received: classes=1"):
        score(rows, np.zeros(60, int))


@pytest.mark.parametrize("score", [scores.logme, scores.h_score, scores.leep])
def test_what_is_no_table_is_refused(score) -> None:
    rows, labels = np.full((4, 2), 0.5), np.array([0, 0, 1, 1])
    for bad in (rows[:, 0], rows[:3], rows[:0], rows[:, :0]):
        with pytest.raises(checks.DataError, match=r"features \[n, d\] and labels \[n\].*Received"):
            score(bad, labels[: len(bad)] if bad is not rows[:3] and len(bad) == 0 else labels)
    rows[1, 1] = np.inf
    with pytest.raises(checks.DataError, match="must be finite.*bad_values=1"):
        score(rows, labels)


def test_logits_and_probabilities_where_others_are_needed() -> None:
    labels = np.array([0, 1])
    with pytest.raises(checks.DataError, match="logits need a softmax first.*smallest=-1.0"):
        scores.leep(np.array([[2.0, -1.0], [0.0, 1.0]]), labels)
    with pytest.raises(checks.DataError, match=r"one source class an image.*shape=\(2, 2\)"):
        scores.nce(np.eye(2), labels)
