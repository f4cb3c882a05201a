"""Whether one way of looking at images is worse than another, by what a probe recognises."""

import numpy as np

CLEARLY = 1.96  # standard errors of a paired difference, beyond which it is hardly chance


def is_clearly_worse(hits: np.ndarray, others: np.ndarray) -> bool:
    """Returns whether fewer images are recognised in one way than in another, and hardly by chance.

    Args:
        hits, others: Whether each of m >= 1 images is recognised, bool [m]; the same images.
    """
    difference = hits.astype(np.float64) - others
    error = float(difference.std()) / np.sqrt(len(difference))
    return bool(difference.mean() < -CLEARLY * error)


def share(hits: np.ndarray) -> str:
    """Returns the share of the images that are recognised, in per cent."""
    return f"{100 * hits.mean():.1f} %"
