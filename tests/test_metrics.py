"""Scores against scikit-learn, closed forms and simulated coverage."""

import json
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from finetune_kit import checks, metrics


def sample(n=300, classes=7, *, signal=1.5, seed=0, labels=None):
    """Returns labels int [n] and softmax probabilities float32 [n, classes]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n) if labels is None else np.asarray(labels)
    logits = generator.normal(size=(labels.size, classes))
    logits[np.arange(labels.size), labels] += signal
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, probabilities.astype(np.float32)


def test_values_are_those_of_sklearn() -> None:
    labels, probabilities = sample()
    predicted = probabilities.argmax(axis=1)
    scores = metrics.score(labels, probabilities)
    classes = np.arange(7)
    normalised = probabilities / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "top5": sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=classes),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "macro_f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "log_loss": sklearn.metrics.log_loss(labels, normalised),
    }
    assert scores.n == 300
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, rel=1e-6), name
        assert scores[name].low < value < scores[name].high, name


def test_values_hold_where_classes_are_missing_or_rare() -> None:
    labels, probabilities = sample(labels=[0] * 50 + [3] * 20 + [4])
    predicted = probabilities.argmax(axis=1)
    scores = metrics.score(labels, probabilities)
    recalls = [(predicted[labels == c] == c).mean() for c in (0, 3, 4)]
    assert scores["balanced_accuracy"].value == pytest.approx(np.mean(recalls))
    assert scores["macro_f1"].value == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )


def test_top5_is_left_out_up_to_five_classes() -> None:
    assert "top5" not in metrics.score(*sample(classes=5)).metrics
    assert "top5" in metrics.score(*sample(classes=6)).metrics


def test_ties_go_to_the_smaller_class_index() -> None:
    probabilities = np.full((6, 6), 1 / 6)
    scores = metrics.score(np.arange(6), probabilities)
    assert scores["accuracy"].value == pytest.approx(1 / 6)
    assert scores["top5"].value == pytest.approx(5 / 6)


def test_confusion_is_that_of_sklearn() -> None:
    labels, probabilities = sample()
    predicted = probabilities.argmax(axis=1)
    expected = sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(9))
    np.testing.assert_array_equal(metrics.confusion(labels, predicted, 9), expected)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (7, 10), (1, 1), (480, 1000)])
def test_wilson_is_that_of_scipy(successes, n) -> None:
    expected = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    estimate = metrics.wilson(successes, n)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_calibration_error_against_a_plain_loop() -> None:
    labels, probabilities = sample(n=450)
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    order = np.argsort(confidence)
    bins = np.array_split(order, metrics.CALIBRATION_BINS)
    gaps = [abs(confidence[b].mean() - correct[b].mean()) * len(b) / 450 for b in bins]
    score = metrics.score(labels, probabilities)
    assert score["calibration_error"].value == pytest.approx(sum(gaps), abs=1e-9)


def test_calibration_error_in_closed_form() -> None:
    # Confidence 0.9 throughout and 70 % correct: one bin, a gap of 0.2.
    labels = np.repeat([0, 1], [70, 30])
    probabilities = np.tile([0.9, 0.1], (100, 1))
    score = metrics.score(labels, probabilities)
    assert score["calibration_error"].value == pytest.approx(0.2)


@pytest.mark.parametrize(("sharpness", "truth"), [(1.0, 0.0), (0.5, 0.125)])
def test_calibration_interval_covers_the_truth(sharpness, truth) -> None:
    # The true odds are the stated ones, drawn halfway to even for sharpness 0.5; the mean gap of
    # uniform confidences is then that of (u - 0.5) / 2 for u in (0.5, 1).
    covered = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        stated = generator.random(1500)
        labels = (generator.random(1500) > 0.5 + sharpness * (stated - 0.5)).astype(int)
        scores = metrics.score(labels, np.stack([stated, 1 - stated], axis=1))
        estimate = scores["calibration_error"]
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 55


def test_log_loss_interval_is_the_normal_one_in_large_samples() -> None:
    # Within one class, resampling the images is resampling their mean loss.
    labels, probabilities = sample(n=4000, labels=np.zeros(4000, int))
    losses = -np.log(probabilities[:, 0].astype(np.float64))
    width = 1.96 * losses.std() / math.sqrt(4000)
    estimate = metrics.score(labels, probabilities)["log_loss"]
    assert estimate.low == pytest.approx(losses.mean() - width, abs=0.1 * width)
    assert estimate.high == pytest.approx(losses.mean() + width, abs=0.1 * width)


def test_resamples_are_drawn_within_classes() -> None:
    labels, probabilities = sample(n=90, classes=3, labels=np.repeat([0, 1, 2], [60, 20, 10]))
    statistics = metrics._Statistics.of(labels, probabilities.argmax(axis=1), probabilities)
    sums = np.concatenate(list(statistics.resample(0)))
    predicted_total = sums[:, -3:].sum(axis=1)
    correct = sums[:, -6:-3]
    assert sums.shape[0] == metrics.RESAMPLES
    np.testing.assert_allclose(predicted_total, 90)
    assert (correct <= [60, 20, 10]).all()
    assert correct.mean(axis=0) == pytest.approx(statistics.totals()[0, -6:-3], rel=0.05)


def test_chunks_of_resamples_add_up(monkeypatch) -> None:
    labels, probabilities = sample()
    monkeypatch.setattr(metrics, "RESAMPLED_AT_ONCE", 7 * 300)
    statistics = metrics._Statistics.of(labels, probabilities.argmax(axis=1), probabilities)
    assert sum(len(sums) for sums in statistics.resample(0)) == metrics.RESAMPLES


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1", "log_loss"])
def test_intervals_cover_the_truth_as_often_as_they_say(name) -> None:
    truth = metrics.score(*sample(n=120_000, classes=4, signal=1.2, seed=99))[name].value
    balanced = np.repeat(np.arange(4), 40)
    covered = 0
    for seed in range(150):
        labels, probabilities = sample(classes=4, signal=1.2, seed=seed, labels=balanced)
        estimate = metrics.score(labels, probabilities)[name]
        covered += estimate.low <= truth <= estimate.high
    assert 0.88 <= covered / 150 <= 1.0


@pytest.mark.parametrize(
    ("counts", "recall"),
    [
        ([36] * 10, [0.95] * 10),
        ([10] * 100, [0.95] * 100),
        ([100] * 5 + [10] * 5, [0.95] * 5 + [0.6] * 5),
        ([1000, 20], [0.99, 0.7]),
    ],
)
def test_balanced_accuracy_misses_the_truth_seldom_and_on_both_sides_alike(counts, recall) -> None:
    generator = np.random.default_rng(0)
    counts, recall = np.array(counts), np.array(recall)
    below = above = 0
    for _ in range(1000):
        correct = generator.binomial(counts, recall)
        matrix = np.diag(correct)
        matrix[:, 0] += counts - correct
        matrix[0] = 0
        matrix[0, :2] = correct[0], counts[0] - correct[0]
        estimate = metrics._balanced_accuracy(matrix)
        below += recall.mean() < estimate.low
        above += recall.mean() > estimate.high
    assert below <= 65 and above <= 65 and below + above <= 95


def test_balanced_accuracy_of_equal_classes_has_the_interval_of_accuracy() -> None:
    labels = np.repeat(np.arange(4), 25)
    probabilities = np.eye(4)[np.where(np.arange(100) % 25 < 20, labels, (labels + 1) % 4)]
    scores = metrics.score(labels, probabilities)
    for end in ("value", "low", "high"):
        expected = getattr(scores["accuracy"], end)
        assert getattr(scores["balanced_accuracy"], end) == pytest.approx(expected)


def test_a_set_without_mistakes_leaves_room_for_them() -> None:
    labels = np.repeat(np.arange(3), 10)
    scores = metrics.score(labels, np.eye(3)[labels])
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert scores[name].value == scores[name].high == 1.0
        assert 0.8 < scores[name].low < 0.95, name
    assert scores["log_loss"].value == pytest.approx(0, abs=1e-6)


def test_certain_and_wrong_has_a_finite_loss() -> None:
    scores = metrics.score(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]], np.float32))
    assert scores["log_loss"].value == pytest.approx(-math.log(np.finfo(np.float32).eps) / 2)


def test_same_seed_same_scores_and_order_of_images_is_free() -> None:
    labels, probabilities = sample()
    assert metrics.score(labels, probabilities) == metrics.score(labels, probabilities)
    order = np.random.default_rng(1).permutation(labels.size)
    shuffled = metrics.score(labels[order], probabilities[order])
    for name, estimate in metrics.score(labels, probabilities).metrics.items():
        assert shuffled[name].value == pytest.approx(estimate.value, rel=1e-9), name


def test_scores_survive_json() -> None:
    scores = metrics.score(*sample())
    assert metrics.Scores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores


def test_paired_difference_is_the_paired_t_interval() -> None:
    first, second = [0.91, 0.88, 0.93, 0.90], [0.85, 0.86, 0.88, 0.89]
    expected = scipy.stats.ttest_rel(first, second).confidence_interval(0.95)
    estimate = metrics.paired_difference(first, second)
    assert estimate.value == pytest.approx(0.035)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected))


def test_mean_is_the_t_interval() -> None:
    values = [0.8, 0.82, 0.87]
    expected = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    estimate = metrics.mean(values)
    assert (estimate.low, estimate.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([0, 1], [[0.5, 0.5]], r"labels \[n\] and probabilities \[n, C\]. Received: labels=\(2,\)"),
        (np.zeros(0, int), np.zeros((0, 3)), "at least one image"),
        ([0], [[1.0]], "two classes"),
        ([0.0], [[0.5, 0.5]], "integers. Received: dtype=float64"),
        ([2], [[0.5, 0.5]], "largest label"),
        ([-1], [[0.5, 0.5]], "smallest label"),
        ([0], [[3.0, -1.0]], "sum to 1; logits need a softmax"),
        ([0], [[1.5, -0.5]], "non-negative"),
    ],
)
def test_arguments_that_cannot_be_scored(labels, probabilities, words) -> None:
    with pytest.raises(checks.ConfigError, match=words):
        metrics.score(np.asarray(labels), np.asarray(probabilities))


def test_probabilities_that_are_not_numbers() -> None:
    with pytest.raises(checks.NumericsError, match="1 of 2 rows"):
        metrics.score(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]))


def test_other_arguments_are_checked() -> None:
    with pytest.raises(checks.ConfigError, match="n must lie in"):
        metrics.wilson(0, 0)
    with pytest.raises(checks.ConfigError, match="successes must lie in"):
        metrics.wilson(5, 4)
    with pytest.raises(checks.ConfigError, match="at least two finite numbers. Received: .0.5"):
        metrics.mean([0.5])
    with pytest.raises(checks.ConfigError, match="as many values on both sides"):
        metrics.paired_difference([1, 2], [1])
