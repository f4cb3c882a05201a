"""What a source card says of the source, from what a backbone sees of its images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_kit.backbones import card, taps
from finetune_kit.similarity import calibration, moments, observing


def source_moments(seen: observing.Observation) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns tap to mean and variance over all positions of all images, each float32 [c]."""
    pooled = {tap.tap: tap.pooled() for tap in seen.seen}
    return {
        tap: (mean.astype(np.float32), variance.astype(np.float32))
        for tap, (mean, variance) in pooled.items()
    }


def statistics(
    found: Sequence[taps.Tap],
    seen: observing.Observation,
    labels: np.ndarray | None,
    *,
    num_classes: int = 0,
    held_out: observing.Observation | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the fields of a source card that are measured: moments, features, null quantiles.

    Without held-out images the null distribution is that of one half of the images against the
    moments of the other.

    Args:
        found: The taps of the backbone.
        seen: What it sees of n >= 4 source images.
        labels: int [n], their classes, or None.
        num_classes: C, if there are labels.
        held_out: What it sees of other source images, which it was not trained on.
        seed: Draws features, halves and samples.
    """
    mean, covariance, prototypes = card.feature_statistics(
        seen.pooled_features, labels, num_classes=num_classes
    )
    measured = source_moments(seen)
    rows = (held_out or seen).pooled_features
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(len(rows))[: card.MAX_ROWS])
    if held_out is None:
        order = generator.permutation(len(seen))
        half = len(order) // 2
        others, reference = seen.take(order[:half]), source_moments(seen.take(order[half:]))
    else:
        others, reference = held_out, measured
    return {
        "moments": measured,
        "feature_mean": mean,
        "feature_covariance": covariance,
        "prototypes": prototypes,
        "features": _compact(rows[chosen]),
        "null_quantiles": calibration.null_quantiles(
            others, moments.from_moments(found, reference), seed=seed
        ),
    }


def _compact(rows: np.ndarray) -> np.ndarray:
    """Returns float16 where the values fit: three digits are plenty for a distance."""
    fits = not rows.size or float(np.abs(rows).max()) < float(np.finfo(np.float16).max)
    return rows.astype(np.float16 if fits else np.float32)
