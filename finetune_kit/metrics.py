"""Scores of a classifier with 95 % intervals, from labels and probabilities.

NumPy and SciPy only: a score can be computed, compared and tested without a network. A number
without its sample size and interval is an opinion, so none leaves this module without both.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_kit import checks

if TYPE_CHECKING:
    import scipy.sparse

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
RESAMPLES = 1000  # Efron & Tibshirani 1993, sec. 12.4: enough for the tails of a 95 % interval
CALIBRATION_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks", sec. 4
# float32 softmax cannot say less: a probability that underflowed to 0 counts as this one.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).eps)
BORROWED_IMAGES = 2
SUM_TOLERANCE = 1e-3
RESAMPLED_AT_ONCE = 4_000_000  # image draws held in memory together: 32 MB of int64


@dataclasses.dataclass(frozen=True)
class Description:
    """What a metric is called, whether it is a share, and what it says in a few words."""

    title: str
    share: bool
    meaning: str


# In the order in which people want to see them.
DESCRIPTIONS = {
    "accuracy": Description("Accuracy", True, "share of images recognised"),
    "top5": Description("Top-5 accuracy", True, "true class among the five likeliest"),
    "balanced_accuracy": Description("Balanced accuracy", True, "every class counts the same"),
    "macro_f1": Description("Macro-F1", True, "mean F1 over the classes"),
    "log_loss": Description("Log loss", False, "nats per image; lower is better"),
    "calibration_error": Description(
        "Calibration error", True, "confidence against accuracy; lower is better"
    ),
}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, all three in the unit of the metric."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Returns `{"value": …, "low": …, "high": …}`."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What `score` found.

    Attributes:
        n: Number of images scored.
        metrics: Name to estimate, in the order of `score`'s docstring.
    """

    n: int
    metrics: Mapping[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        return self.metrics[name]

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns (title, value, 95 % interval) of each metric, as text for a table."""
        return [
            (DESCRIPTIONS[name].title, *_as_text(self.metrics[name], DESCRIPTIONS[name].share))
            for name in DESCRIPTIONS
            if name in self.metrics
        ]

    def to_dict(self) -> dict[str, Any]:
        """Returns `{"n": …, "accuracy": {"value": …, "low": …, "high": …}, …}`."""
        return {"n": self.n} | {name: value.to_dict() for name, value in self.metrics.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Scores":
        """Rebuilds what `to_dict` returned."""
        return cls(
            n=int(values["n"]),
            metrics={name: Estimate(**value) for name, value in values.items() if name != "n"},
        )


def score(labels: np.ndarray, probabilities: np.ndarray, *, seed: int = 0) -> Scores:
    """Scores probabilities against labels.

    accuracy, top5: share in [0, 1]; Wilson's interval (Wilson 1927; Brown et al. 2001, sec. 3.1).
        top5 only above five classes. The class with the smaller index wins a tie.
    balanced_accuracy: mean recall over the classes that occur in `labels`; Wilson's interval at
        the effective sample size (Kish 1965, sec. 8.2), because a bootstrap is blind in classes of
        one image and in a set without a mistake.
    macro_f1: mean F1 over the classes that occur in `labels` or are predicted.
    log_loss: mean negative log probability of the true class in nats.
    calibration_error: mean absolute gap between confidence and accuracy over 15 bins that hold
        equally many images (Guo et al. 2017, eq. 3; equal mass after Nguyen & O'Connor 2015).
    The last three have intervals from 1000 bootstrap samples drawn within each class: percentiles,
    but for calibration_error, which chance can only raise (see `_calibration`).

    Args:
        labels: int [n], class indices.
        probabilities: float [n, C], rows that sum to 1.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: The shapes, labels or rows are not as described, or n = 0.
        NumericsError: A probability is not finite.
    """
    labels, probabilities = _checked(labels, probabilities)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    matrix = confusion(labels, predicted, classes)
    statistics = _Statistics.of(labels, predicted, probabilities)
    samples = np.concatenate([statistics.derive(sums) for sums in statistics.resample(seed)])
    macro_f1, log_loss, calibration = statistics.derive(statistics.totals())[0]
    lows, highs = np.quantile(samples, (0.025, 0.975), axis=0)

    metrics = {"accuracy": wilson(int(np.trace(matrix)), labels.size)}
    if classes > 5:
        metrics["top5"] = wilson(int(_in_top(labels, probabilities, 5).sum()), labels.size)
    metrics["balanced_accuracy"] = _balanced_accuracy(matrix)
    metrics["macro_f1"] = _macro_f1(macro_f1, lows[0], highs[0], metrics["balanced_accuracy"])
    metrics["log_loss"] = Estimate(float(log_loss), float(lows[1]), float(highs[1]))
    metrics["calibration_error"] = _calibration(
        float(calibration), float(lows[2]), float(highs[2]), statistics.noise
    )
    return Scores(n=int(labels.size), metrics=metrics)


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts images by true class (row) and predicted class (column), int64 [C, C]."""
    pairs = np.asarray(labels, np.int64) * num_classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def wilson(successes: int, n: int) -> Estimate:
    """Returns a share and Wilson's 95 % interval without continuity correction (Wilson 1927).

    Raises:
        ConfigError: n < 1, or successes outside [0, n].
    """
    checks.in_range("n", n, low=1)
    checks.in_range("successes", successes, low=0, high=n)
    return Estimate(successes / n, *_wilson_limits(successes / n, n))


def mean(values: Sequence[float] | np.ndarray) -> Estimate:
    """Returns the mean of independent runs and Student's 95 % interval.

    Raises:
        ConfigError: Fewer than two values, or one that is not finite.
    """
    import scipy.special  # takes longer to import than a bad flag may take to be found

    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise checks.ConfigError(
            f"A mean with an interval needs at least two finite numbers. Received: {values}"
        )
    centre = float(array.mean())
    error = float(array.std(ddof=1)) / math.sqrt(array.size)
    width = float(scipy.special.stdtrit(array.size - 1, 0.975)) * error
    return Estimate(centre, centre - width, centre + width)


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray
) -> Estimate:
    """Returns the mean of `first` - `second`, pair by pair, and Student's 95 % interval.

    Pairs are results on the same thing: one seed, one data set, one image.

    Raises:
        ConfigError: The lengths differ, or as `mean` does.
    """
    if len(first) != len(second):
        raise checks.ConfigError(
            "A paired difference needs as many values on both sides. "
            + checks.received(first=len(first), second=len(second))
        )
    return mean(np.asarray(first, np.float64) - np.asarray(second, np.float64))


@dataclasses.dataclass(frozen=True)
class _Statistics:
    """Sums over images from which macro-F1, log loss and calibration error follow.

    A bootstrap sample weights the images, so its sums are one sparse matrix product.

    Attributes:
        table: float64 [n, 1 + bins + 2 C], sparse, images sorted by label: log loss | confidence
            minus correctness, by bin | correct, by class | predicted, by class.
        counts: int64 [C], images of each class.
        bins: Number of calibration bins.
        noise: Calibration error that a perfectly calibrated classifier would be expected to show
            on as many images with the same confidences.
    """

    table: "scipy.sparse.csr_matrix"
    counts: np.ndarray
    bins: int
    noise: float

    @classmethod
    def of(
        cls, labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray
    ) -> "_Statistics":
        import scipy.sparse

        order = np.argsort(labels, kind="stable")
        labels, predicted, probabilities = labels[order], predicted[order], probabilities[order]
        n, classes = probabilities.shape
        rows = np.arange(n)
        confidence = probabilities[rows, predicted]
        correct = (predicted == labels).astype(np.float64)
        bins, bin_of = _equal_mass_bins(confidence)
        likelihood = np.clip(probabilities[rows, labels], SMALLEST_PROBABILITY, 1.0)
        columns = [np.zeros(n, int), 1 + bin_of, 1 + bins + labels, 1 + bins + classes + predicted]
        values = [-np.log(likelihood), confidence - correct, correct, np.ones(n)]
        table = scipy.sparse.csr_matrix(
            (np.concatenate(values), (np.tile(rows, 4), np.concatenate(columns))),
            shape=(n, 1 + bins + 2 * classes),
        )
        # A bin's sum of gaps is then a sum of centred Bernoulli variables, near enough normal, and
        # the mean size of a normal variable is sqrt(2 / pi) standard deviations.
        variance = np.bincount(bin_of, confidence * (1 - confidence), minlength=bins).clip(0)
        noise = float(np.sqrt(2 / np.pi * variance).sum()) / n
        return cls(table, np.bincount(labels, minlength=classes), bins, noise)

    def totals(self) -> np.ndarray:
        """Returns the sums over the images themselves, float64 [1, columns]."""
        return np.asarray(self.table.sum(axis=0)).reshape(1, -1)

    def resample(self, seed: int) -> Iterator[np.ndarray]:
        """Yields sums of bootstrap samples drawn within each class, float64 [some, columns]."""
        n = self.table.shape[0]
        generator = np.random.default_rng(seed)
        size = np.repeat(self.counts, self.counts)  # of the class that stands at this position
        start = np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        at_once = max(1, RESAMPLED_AT_ONCE // n)
        for first in range(0, RESAMPLES, at_once):
            samples = min(at_once, RESAMPLES - first)
            drawn = start + (generator.random((samples, n)) * size).astype(np.int64)
            cells = drawn * samples + np.arange(samples)[:, None]
            weights = np.bincount(cells.ravel(), minlength=n * samples).reshape(n, samples)
            yield (self.table.T @ weights).T

    def derive(self, sums: np.ndarray) -> np.ndarray:
        """Returns macro-F1, log loss and calibration error, float64 [rows, 3], of sums."""
        n, classes = self.table.shape[0], self.counts.size
        loss, gaps, correct, predicted = np.split(
            sums, (1, 1 + self.bins, 1 + self.bins + classes), axis=1
        )
        seen = self.counts + predicted
        f1 = np.divide(2 * correct, seen, out=np.zeros_like(seen), where=seen > 0)
        macro_f1 = f1.sum(axis=1) / (seen > 0).sum(axis=1)
        return np.stack([macro_f1, loss[:, 0] / n, np.abs(gaps).sum(axis=1) / n], axis=1)


def _as_text(estimate: Estimate, share: bool) -> tuple[str, str]:
    scale, digits, unit = (100, 1, " %") if share else (1, 3, "")
    low, high = f"{scale * estimate.low:.{digits}f}", f"{scale * estimate.high:.{digits}f}"
    return f"{scale * estimate.value:.{digits}f}{unit}", f"{low} – {high}{unit}"


def _checked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    shapes = checks.received(labels=labels.shape, probabilities=probabilities.shape)
    if labels.ndim != 1 or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise checks.ConfigError(f"Scores need labels [n] and probabilities [n, C]. {shapes}")
    if not labels.size or probabilities.shape[1] < 2:
        raise checks.ConfigError(f"Scores need at least one image and two classes. {shapes}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise checks.ConfigError(f"Labels must be integers. Received: dtype={labels.dtype}")
    checks.in_range("smallest label", int(labels.min()), low=0)
    checks.in_range("largest label", int(labels.max()), high=probabilities.shape[1] - 1)
    if not np.isfinite(probabilities).all():
        bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
        raise checks.NumericsError(
            f"Probabilities must be finite. Received: {bad} of {labels.size} rows that are not. "
            "Lower the learning rate or use --precision=float32."
        )
    furthest = float(np.abs(probabilities.sum(axis=1) - 1).max())
    if furthest > SUM_TOLERANCE or probabilities.min() < 0:
        raise checks.ConfigError(
            "Rows of probabilities must be non-negative and sum to 1; logits need a softmax first. "
            f"Received: a row off by {furthest:.3g}, smallest value {probabilities.min():.3g}"
        )
    return labels.astype(np.int64), probabilities


def _equal_mass_bins(confidence: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns the number of bins and each image's bin, int [n]; equal confidences share a bin."""
    inner = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    edges = np.unique(np.quantile(confidence, inner))
    return edges.size + 1, np.searchsorted(edges, confidence, side="right")


def _in_top(labels: np.ndarray, probabilities: np.ndarray, count: int) -> np.ndarray:
    """Returns whether the true class is among the `count` likeliest, bool [n]."""
    own = probabilities[np.arange(labels.size), labels][:, None]
    earlier = np.arange(probabilities.shape[1]) < labels[:, None]
    ahead = (probabilities > own) | ((probabilities == own) & earlier)
    return ahead.sum(axis=1) < count


def _wilson_limits(share: float, n: float) -> tuple[float, float]:
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    width = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    # At the ends the formula is exact and the arithmetic is not.
    return 0.0 if share == 0 else centre - width, 1.0 if share == 1 else centre + width


def _balanced_accuracy(matrix: np.ndarray) -> Estimate:
    counts = matrix.sum(axis=1)
    present = counts > 0
    counts, correct = counts[present], np.diag(matrix)[present]
    value = float((correct / counts).mean())
    low, high = _wilson_limits(value, _effective_size(counts, correct, value))
    return Estimate(value, low, high)


def _effective_size(counts: np.ndarray, correct: np.ndarray, value: float) -> float:
    """Returns how many images drawn at random say as much about the mean recall as these do."""
    equal_spread = counts.size**2 / (1 / counts).sum()
    pooled = min(max(value, 0.5 / counts.sum()), 1 - 0.5 / counts.sum())
    # A class of few images borrows its spread from the others; a simulation chose the weight.
    recall = (correct + BORROWED_IMAGES * pooled) / (counts + BORROWED_IMAGES)
    variance = (recall * (1 - recall) / counts).sum() / counts.size**2
    return float(min(equal_spread, pooled * (1 - pooled) / variance))


def _macro_f1(value: float, low: float, high: float, balanced: Estimate) -> Estimate:
    """Returns macro-F1; resampling cannot see mistakes that did not occur, Wilson can."""
    # Where few mistakes are made, F1 and recall fall by the same share to first order.
    unseen = balanced.low if balanced.value == 1.0 else low
    return Estimate(float(value), float(min(low, unseen)), float(high))


def _calibration(value: float, low: float, high: float, noise: float) -> Estimate:
    """Returns the calibration error with an interval that can reach 0.

    Chance adds to a sum of absolute gaps, and to a resample's again: the percentile interval of a
    well calibrated classifier would lie wholly above its value. So the interval is the reflected
    one (basic bootstrap, Davison & Hinkley 1997, sec. 5.2), and its lower end is lower by what
    chance alone would show.
    """
    lower, upper = 2 * value - high - noise, 2 * value - low
    return Estimate(value, max(0.0, min(value, lower)), max(value, upper))
