"""Which epoch: the planned end, unless held-out images clearly say an earlier one. NumPy alone."""

import math
from collections.abc import Sequence

import numpy as np

ROUNDING = 1e-9


def choose_point(losses: np.ndarray) -> int:
    """Returns the point of training to stop at, an index into the rows of `losses`.

    It is the last one, unless the point of least mean loss is better than the last by more than
    one standard error of the paired difference: a short schedule must earn its place, because the
    held-out images are few and the last point was planned (the one-standard-error rule of Breiman
    et al., 1984, section 3.4.3, with pairs).

    Args:
        losses: float [points, n], loss of every held-out image at every point; 0 for an image that
            is recognised and 1 for one that is not, or a log loss.
    """
    last = len(losses) - 1
    best = int(np.argmin(losses.mean(axis=1)))
    difference = losses[last] - losses[best]
    if best == last or len(difference) < 2:
        return last
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    # A single image that is lost lies on the line itself, which rounding must not decide.
    return best if float(difference.mean()) > error * (1 + ROUNDING) else last


def pooled(scores: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Returns what was found image by image in all folds, [points, n, …].

    Args:
        scores: For each fold, for each point, an array [images of the fold, …].
    """
    return np.stack([np.concatenate(point) for point in zip(*scores, strict=True)])
