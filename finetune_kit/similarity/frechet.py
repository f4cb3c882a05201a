"""How far the pooled features are from the source's, as one number.

Both distances are relative, so that neither the scale of the features nor their number matters:
0 is the source itself.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from finetune_kit.backbones.card import SourceCard

# Below this many images the Fréchet distance says more of their number than of what they show: its
# bias is of order 1 / n (Chong & Forsyth 2020, "Effectively Unbiased FID and Inception Score", sec.
# 2). The kernel distance has none.
FRECHET_FROM = 300


def feature_distance(card: "SourceCard", features: np.ndarray) -> tuple[str, float] | None:
    """Returns the name and the value of the distance that suits the number of images.

    From `FRECHET_FROM` images on "frechet", over the total variance of the source; below it "kid",
    over the mean kernel within the source.

    Args:
        card: What is known of the source.
        features: Pooled features of the images, float [n, d].

    Returns:
        None where "kid" is due and the card has no features, or there are fewer than 2 images.
    """
    rows = features.astype(np.float64)
    if len(rows) >= FRECHET_FROM:
        mean, covariance = (
            np.asarray(x, np.float64) for x in (card.feature_mean, card.feature_covariance)
        )
        value = frechet(mean, covariance, rows.mean(axis=0), np.cov(rows, rowvar=False))
        return "frechet", value / float(np.trace(covariance))
    if card.features is None or len(rows) < 2:
        return None
    return "kid", relative_kid(np.asarray(card.features, np.float64), rows)


def frechet(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Returns the squared 2-Wasserstein distance of two normal distributions (Fréchet 1957).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2) (Dowson & Landau 1982), through symmetric
    matrices alone: the root of the product C1 C2 would be complex where one is singular.

    Args:
        mean1, mean2: float [d].
        cov1, cov2: float [d, d], symmetric and not negative.
    """
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ cov2 @ root)
    overlap = float(np.sqrt(np.maximum(inner, 0.0)).sum())
    apart = float(((mean1 - mean2) ** 2).sum())
    return max(0.0, apart + float(np.trace(cov1) + np.trace(cov2)) - 2 * overlap)


def kid(source: np.ndarray, target: np.ndarray) -> float:
    """Returns the unbiased squared MMD with the kernel (x.y / d + 1)^3.

    Bińkowski et al. 2018, "Demystifying MMD GANs", sec. 3.1 and eq. 4. Below 0 by chance alone.

    Args:
        source, target: Features, float [m, d] and [n, d], m, n >= 2.
    """
    return _within(source) + _within(target) - 2 * float(_kernel(source, target).mean())


def relative_kid(source: np.ndarray, target: np.ndarray) -> float:
    """Returns `kid` over the mean kernel within the source, features in the source's own unit.

    The unit is the root mean square of the source's features: the kernel adds 1 to a product, so
    its shape depends on their scale.

    Args:
        source, target: Features, float [m, d] and [n, d], m, n >= 2.
    """
    unit = max(float(np.sqrt(np.mean(source**2))), float(np.finfo(np.float32).tiny))
    return kid(source / unit, target / unit) / _within(source / unit)


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _within(x: np.ndarray) -> float:
    """Returns the mean kernel of different rows."""
    kernel, n = _kernel(x, x), len(x)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1)))
