"""Heads that are solved, not fitted: regularised logistic regression on frozen features.

The problem is convex, so L-BFGS finds the head that gradient descent would approach, in well under
a second for a few thousand images and without tracing a graph. The strength of the regularisation
is the one choice that matters, and cross-validation makes it.
"""

import dataclasses
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks, cores

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier

# Inverse L2 strengths for standardised features, weakest model first: from heads that say little
# more than the class frequencies to heads that are hardly regularised.
STRENGTHS = (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0, 10.0)
DEFAULT_STRENGTH = 1e-2  # where a class has one image and nothing can be cross-validated
PAST_THE_BEST = 2  # strengths to try after the one of least loss
MAX_FOLDS = 5
ABSENT_MARGIN = 20.0  # nats below the least likely class: a class without images is never predicted
# Above this many feature values, one held-out fifth replaces five folds: the error of the estimate
# is small by then, and the cost is not (2,550 images of 448 features: 4 to 6 s with five folds).
SINGLE_FOLD_VALUES = 400_000
# Values times classes from which on the strength is chosen by a part of the images, and how many it
# then has: minutes instead of an hour.
LARGE_VALUES, SAMPLE_VALUES = 10**9, 2 * 10**8
# Seconds of a solution by feature value and class, and what is paid in any case: one core of a
# server. It depends on how hard the classes are, within a factor of two.
SECONDS_PER_VALUE, SECONDS_AT_LEAST = 1e-7, 0.2


@dataclasses.dataclass(frozen=True)
class HeadSolution:
    """A solved dense layer for raw (not standardised) features.

    Attributes:
        kernel: float32 [d, C].
        bias: float32 [C].
        strength: The chosen inverse L2 strength for standardised features.
        log_loss: Cross-validated mean log loss in nats at `strength`; NaN if nothing could be
            cross-validated.
        reason: One sentence that says how the strength was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    log_loss: float
    reason: str

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Returns softmax probabilities, float64 [n, C], of features float32 [n, d]."""
        logits = features.astype(np.float64) @ self.kernel + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)


def solve_head(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int, seed: int = 0
) -> HeadSolution:
    """Solves multinomial logistic regression with an L2 penalty chosen by cross-validation.

    Features are standardised for the solution and the scaling is folded into the kernel, so the
    head applies to raw features. Kumar et al. (2022, section 3.1) start fine-tuning from this head.

    Args:
        features: float32 [n, d].
        labels: int [n] in [0, num_classes); a class without an image gets a bias that never wins.
        num_classes: C, at least 2.
        seed: Draws the folds.

    Raises:
        checks.DataError: Fewer than two classes have an image, or a feature is not finite.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise checks.DataError(
            "A head needs images of at least 2 classes. " + checks.received(classes=len(present))
        )
    if not np.isfinite(features).all():
        raise checks.DataError(
            "Features must be finite: the backbone's weights or the images hold NaN or infinity. "
            + checks.received(bad_values=int((~np.isfinite(features)).sum()))
        )
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-7] = 1.0  # a constant feature says nothing: it keeps weight 0
    rows = (features - mean) / scale
    with cores.blas_threads(rows.size * len(present)):
        sample = _sample(rows, labels, seed=seed)
        strength, loss, reason = _choose_strength(rows[sample], labels[sample], seed=seed)
        if len(sample) < len(rows):
            reason += f" over {len(sample):,} of the {len(rows):,} images"
        weights, bias = _softmax_form(*_fit(rows, labels, strength))
    kernel = np.zeros((features.shape[1], num_classes))
    kernel[:, present] = weights / scale[:, None]
    offsets = bias - mean @ kernel[:, present]
    full_bias = np.full(num_classes, offsets.min() - ABSENT_MARGIN)
    full_bias[present] = offsets
    return HeadSolution(
        kernel.astype(np.float32), full_bias.astype(np.float32), strength, loss, reason
    )


def expected_seconds(images: int, width: int, num_classes: int) -> float:
    """Returns about how long `solve_head` takes.

    Args:
        images: n.
        width: d, number of features.
        num_classes: C.
    """
    folds = 1 if images * width > SINGLE_FOLD_VALUES else MAX_FOLDS
    values = images * width * num_classes
    if values > LARGE_VALUES:
        # The whole is solved once, at one of the strengths.
        chosen = SECONDS_PER_VALUE * SAMPLE_VALUES * MAX_FOLDS
        return SECONDS_AT_LEAST + chosen + SECONDS_PER_VALUE * values / len(STRENGTHS)
    return SECONDS_AT_LEAST + SECONDS_PER_VALUE * values * folds


def copy_head(solution: HeadSolution, classifier: "Classifier") -> None:
    """Writes a solved head into the classifier's Dense layer."""
    classifier.head.set_weights([solution.kernel, solution.bias])


def _sample(rows: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Returns positions to choose the strength by: all, or of a large problem a stratified part.

    The strength is the variance of a prior on the weights, which does not depend on the number of
    images.
    """
    classes, counts = np.unique(labels, return_counts=True)
    share = SAMPLE_VALUES / (rows.size * len(classes))
    if rows.size * len(classes) <= LARGE_VALUES:
        return np.arange(len(rows))
    order = np.random.default_rng(seed).permutation(len(rows))
    kept = [
        order[labels[order] == label][: max(2, math.ceil(share * count))]
        for label, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _choose_strength(
    rows: np.ndarray, labels: np.ndarray, *, seed: int
) -> tuple[float, float, str]:
    """Returns the strength of least cross-validated log loss, that loss, and the reason."""
    folds = _folds(labels, seed=seed, single=rows.size > SINGLE_FOLD_VALUES)
    if not folds:
        return (
            DEFAULT_STRENGTH,
            math.nan,
            f"a class has one image, so C={DEFAULT_STRENGTH:g} without cross-validation",
        )
    losses: list[float] = []
    starts: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(folds)
    for strength in STRENGTHS:
        total = 0.0
        for i, (train, held_out) in enumerate(folds):
            start = starts[i] = _fit(rows[train], labels[train], strength, start=starts[i])
            total += _log_loss(rows[held_out], labels[held_out], labels[train], *start)
        losses.append(total / sum(len(held_out) for _, held_out in folds))
        # The loss falls and then rises; the weakest penalties take most of the time.
        if len(losses) > PAST_THE_BEST and min(losses) < min(losses[-PAST_THE_BEST:]):
            break
    best = int(np.argmin(losses))
    reason = f"C={STRENGTHS[best]:g} has the least log loss in {len(folds)}-fold cross-validation"
    return STRENGTHS[best], losses[best], reason


def _folds(labels: np.ndarray, *, seed: int, single: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns stratified (train, held out) positions; empty if a class has a single image."""
    from sklearn.model_selection import StratifiedKFold

    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    count = min(MAX_FOLDS, smallest)
    if count < 2:
        return []
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    folds = list(splitter.split(labels[:, None], labels))
    return folds[:1] if single else folds


def _fit(
    rows: np.ndarray,
    labels: np.ndarray,
    strength: float,
    *,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's coefficients [k, d] and intercepts [k] (k = 1 for two classes)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=300, tol=1e-4, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_ = start
    with warnings.catch_warnings():
        # An unfinished optimum of a nearly unregularised head is a candidate like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, labels)
    return model.coef_, model.intercept_


def _softmax_form(coefficients: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns weights [d, k] and bias [k] with one column a class, also for two classes."""
    if len(coefficients) == 1:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        bias = np.concatenate([-bias, bias]) / 2
    return coefficients.T, bias


def _log_loss(
    rows: np.ndarray,
    labels: np.ndarray,
    train_labels: np.ndarray,
    coefficients: np.ndarray,
    bias: np.ndarray,
) -> float:
    """Returns the summed log loss in nats of held-out rows."""
    weights, offsets = _softmax_form(coefficients, bias)
    logits = rows @ weights + offsets
    top = logits.max(axis=1)
    normaliser = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    column = np.searchsorted(np.unique(train_labels), labels)
    return float((normaliser - logits[np.arange(len(labels)), column]).sum())
