"""From a distance, whose size depends on the network, to a scale from 0 to 1."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import metrics
from finetune_kit.data import arrays, sizes, store, types
from finetune_kit.similarity import moments

if TYPE_CHECKING:
    from finetune_kit.similarity.observing import Observation, Observer

SIZES = (10, 25, 50, 100, 300)  # sample sizes of the null distribution
SAMPLES = 200  # of each size
QUANTILE = 0.95
NOISE_IMAGES, NOISE_SEED = 64, 0


def similarity(distance: metrics.Estimate, *, null: float, noise: float) -> metrics.Estimate:
    """Returns 1 - W' / W1' within [0, 1], W' being what W is beyond the null: W'^2 = W^2 - W0^2.

    Squares are subtracted since it is they that chance adds to. W is debiased, so W - W0 would call
    the same images the nearer, the fewer of them there are. The scale is linear in W' and not in
    its square, which would leave all real images above 0.8.

    Args:
        distance: W with its interval.
        null: W0, the distance that chance gives images of the source.
        noise: W1 > W0, the distance of uniform noise: it needs no images, is the same for every
            target, and farther than any photograph.
    """

    def beyond(value: float) -> float:
        return math.sqrt(max(0.0, value**2 - null**2))

    def scaled(value: float) -> float:
        return 1.0 - min(beyond(value) / beyond(noise), 1.0)

    return metrics.Estimate(scaled(distance.value), scaled(distance.high), scaled(distance.low))


def null(quantiles: Mapping[int, float], images: int) -> float:
    """Returns the W that 95 % of samples of as many source images stay below; 0 if unknown.

    Interpolated in log n, as chance falls with a power of n; constant beyond the largest size, and
    below the smallest one W ~ 1 / sqrt(n), as that of a mean.

    Args:
        quantiles: Sample size to the quantile.
        images: n >= 1.
    """
    if not quantiles:
        return 0.0
    sizes = sorted(quantiles)
    values = [quantiles[size] for size in sizes]
    inside = float(np.interp(math.log(images), np.log(sizes), values))
    return inside * math.sqrt(max(1.0, sizes[0] / images))


def null_quantiles(
    held_out: "Observation", known: Mapping[str, moments.Source], *, seed: int = 0
) -> dict[int, float]:
    """Returns sample size to the 95 % quantile of W over samples of held-out source images.

    Args:
        held_out: m source images that `known` was not measured on.
        known: Tap to what it saw of the other source images.
        seed: Draws the samples.

    Returns:
        The sizes of `SIZES` up to m / 2: larger samples of m images are too much alike.
    """
    generator = np.random.default_rng(seed)
    m = len(held_out)
    return {
        size: float(
            np.quantile(
                [
                    moments.distance(held_out.take(generator.choice(m, size, replace=False)), known)
                    for _ in range(SAMPLES)
                ],
                QUANTILE,
            )
        )
        for size in SIZES
        if size <= m / 2
    }


def noise(observer: "Observer", known: Mapping[str, moments.Source]) -> float:
    """Returns W of uniform noise in [0, 255], the same images at every call."""
    shape = (NOISE_IMAGES, *sizes.shape(observer.size))
    pixels = np.random.default_rng(NOISE_SEED).integers(0, 256, shape, np.uint8)
    order, names = np.arange(NOISE_IMAGES), ("noise",) * NOISE_IMAGES
    kept = store.PixelStore(arrays.ArrayReader(pixels), observer.size, cache=pixels)
    # As a split, noise takes the way of the images, so that no graph is traced for it.
    return moments.distance(observer.observe(types.Split(kept, order, order, names)), known)
