"""Whether mirror images are shown in training: where a class survives the mirror.

Most photos allow it. Letters, digits and signs do not: in the mirror they are other ones, or none.
A probe shows which: of what it recognises as it is, it lost 30 to 42 % mirrored of digits and hand
signs, 16 % of clothes and up to 13 % of photos, at 5 and 20 images a class (`finetune-kit advise`).
"""

import dataclasses

import numpy as np

from finetune_kit.strategy import comparing

WITH, WITHOUT = "light", "shift"  # of `data.LEVELS`
TOLERATED = 0.2  # share of what is recognised that may be lost in the mirror


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A level of `data.LEVELS`, and why."""

    level: str
    reason: str


def choose(recognised: tuple[np.ndarray, np.ndarray] | None) -> Augmentation:
    """Returns the level that mirrors, or that without where mirrored images are other ones.

    They are where more than `TOLERATED` of what is recognised is lost, and hardly by chance.

    Args:
        recognised: Whether a probe that has seen no mirrored image recognises each of m >= 1
            held-out images as it is and mirrored, two bool [m]; None if none could be held out.
    """
    if recognised is None:
        return Augmentation(WITH, "flips and small shifts, which most photos allow")
    upright, mirrored = recognised
    shares = (
        f"a probe recognises {comparing.share(mirrored)} of mirrored images, "
        f"{comparing.share(upright)} of those as they are"
    )
    lost = 1 - mirrored.mean() / max(upright.mean(), 1e-9)
    if lost > TOLERATED and comparing.is_clearly_worse(mirrored, upright):
        return Augmentation(WITHOUT, f"small shifts without flips: {shares}")
    return Augmentation(WITH, f"flips and small shifts: {shares}")
