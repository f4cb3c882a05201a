"""How far the moments of activations are from those of the source, tap by tap.

BatchNorm layers remember mean and variance of what they saw in training, so a network carries a
description of its source at every depth. For the diagonal normal distributions that such moments
describe, the squared 2-Wasserstein distance in units of the source's deviation is

    D = mean over channels of ((mu_t - mu_s) / sigma_s)^2 + (sigma_t / sigma_s - 1)^2

(Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift
adaptation", sec. 5, relate it to the loss of accuracy). W is its root, and the W of a network that
of the mean D of its taps.

Two things keep small samples honest. The layer's epsilon is part of both variances: it is what the
layer divides by, and without it a channel that is dead on both sides would be one deviation off.
And few images overstate both terms, so D is debiased by the jackknife (Quenouille 1956; Efron &
Tibshirani 1993, ch. 10); this is the unbiased estimate of the first term, and of the second to
order 1/n^2. D of as many images of the source is then 0 on average; it is clipped only for W.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
import scipy.special

from finetune_kit import metrics
from finetune_kit.backbones import taps

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.similarity.observing import Observation, Seen

RESAMPLES = 200
# Stands for BatchNorm's epsilon at the end of a stage: the same share of the mean variance that
# Keras' default is of a channel of variance 1.
RELATIVE_EPSILON = 1e-3
MIN_IMAGES = 2  # one image has no spread to correct by


@dataclasses.dataclass(frozen=True)
class Source:
    """What a tap saw of the source.

    Attributes:
        mean: float64 [c].
        variance: float64 [c].
        epsilon: What is added to a variance before it divides.
    """

    mean: np.ndarray
    variance: np.ndarray
    epsilon: float


@dataclasses.dataclass(frozen=True)
class Distances:
    """W of every tap and of all together.

    Attributes:
        taps: Tap to W with a 95 % interval, from input to output.
        overall: W with a 95 % interval.
    """

    taps: dict[str, metrics.Estimate]
    overall: metrics.Estimate


def sources(backbone: "Backbone") -> dict[str, Source] | None:
    """Returns tap to what it saw of the source, or None where nothing is known.

    Random weights have no source. A source card comes first: it was measured on images as they
    are, while the moving statistics of BatchNorm layers were gathered on augmented ones by a
    network that was still learning.
    """
    found = taps.find_taps(backbone.model, backbone.stages)
    if backbone.weights == "none":
        return None
    if backbone.card is not None:
        return from_moments(found, backbone.card.moments)
    if any(tap.layer is None for tap in found):
        return None
    return remembered(found)


def from_moments(
    found: Sequence[taps.Tap], moments: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Source]:
    """Returns tap to its source, from mean and variance [c] of each tap."""
    known = {}
    for tap in found:
        mean, variance = (np.asarray(values, np.float64) for values in moments[tap.name])
        relative = RELATIVE_EPSILON * float(variance.mean())
        epsilon = relative if tap.layer is None else float(tap.layer.epsilon)
        known[tap.name] = Source(mean, variance, epsilon)
    return known


def remembered(found: Sequence[taps.Tap]) -> dict[str, Source]:
    """Returns BatchNorm layer to its moving statistics."""
    return {
        tap.name: Source(
            keras.ops.convert_to_numpy(tap.layer.moving_mean).astype(np.float64),
            keras.ops.convert_to_numpy(tap.layer.moving_variance).astype(np.float64),
            float(tap.layer.epsilon),
        )
        for tap in found
        if tap.layer is not None
    }


def distances(
    observation: "Observation", known: Mapping[str, Source], *, seed: int = 0
) -> Distances:
    """Returns W of every tap and of all together, with 95 % intervals over images.

    The intervals come from resampled images, the same for all taps. Resampling adds a sampling term
    of its own to D, so the replicates are centred at the debiased value before their percentiles
    are taken, and widened as the variance of few values needs: by sqrt(n / (n - 1)) and Student's
    quantile over the normal one (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
    the expanded percentile interval).

    Args:
        observation: n >= 2 images.
        known: Tap to what it saw of the source.
        seed: Seed of the bootstrap.
    """
    n = len(observation)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    values, replicates = {}, {}
    for seen in observation.seen:
        values[seen.tap] = debiased(seen, known[seen.tap])
        replicates[seen.tap] = squared(
            weights @ seen.means.astype(np.float64), weights @ seen.squares, known[seen.tap]
        )
    mean = float(np.mean(list(values.values())))
    spread = np.mean(list(replicates.values()), axis=0)
    return Distances(
        {tap: _rooted(value, replicates[tap], n) for tap, value in values.items()},
        _rooted(mean, spread, n),
    )


def distance(observation: "Observation", known: Mapping[str, Source]) -> float:
    """Returns W over all taps alone, without an interval."""
    squared = [debiased(seen, known[seen.tap]) for seen in observation.seen]
    return math.sqrt(max(0.0, float(np.mean(squared))))


def debiased(seen: "Seen", source: Source) -> float:
    """Returns the jackknife estimate of D from n >= 2 images; below 0 by chance alone."""
    n, means, squares = len(seen.means), seen.means.astype(np.float64), seen.squares
    mean, square = means.mean(axis=0), squares.mean(axis=0)
    without_one = squared((n * mean - means) / (n - 1), (n * square - squares) / (n - 1), source)
    plain = float(squared(mean, square, source))
    return n * plain - (n - 1) * float(without_one.mean())


def squared(mean: np.ndarray, square: np.ndarray, source: Source) -> np.ndarray:
    """Returns D as it stands, not debiased, float64 [...], of means and mean squares [..., c]."""
    variance = np.maximum(square - mean**2, 0.0) + source.epsilon
    known = source.variance + source.epsilon
    terms = (mean - source.mean) ** 2 / known + (np.sqrt(variance / known) - 1) ** 2
    return np.asarray(terms.mean(axis=-1))


def _rooted(value: float, replicates: np.ndarray, n: int) -> metrics.Estimate:
    """Returns W with its interval, from the debiased D and resampled ones, float64 [B]."""
    student = float(scipy.special.stdtrit(n - 1, 0.975)) / metrics.Z
    wider = student * math.sqrt(n / (n - 1))
    low, high = wider * np.quantile(replicates - replicates.mean(), (0.025, 0.975))
    ends = (value, value + min(float(low), 0.0), value + max(float(high), 0.0))
    return metrics.Estimate(*(math.sqrt(max(0.0, end)) for end in ends))
