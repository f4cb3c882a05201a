"""Which of two sizes a network looks at: the larger one, unless that is seen to be worse.

Higher resolution usually helps and costs compute (S2 of docs/source-rules.md). It helps the bundled
network at 20 labelled images a class, and makes little difference at 5 (docs/bundled-backbone.md).
That is the expectation; a probe has to speak clearly against it.
"""

import dataclasses

import numpy as np

from finetune_kit.data import sizes
from finetune_kit.strategy import comparing


@dataclasses.dataclass(frozen=True)
class Resolution:
    """A size in pixels, and why."""

    size: sizes.Size
    reason: str


def choose(
    default: sizes.Size,
    larger: sizes.Size,
    recognised: tuple[np.ndarray, np.ndarray] | None,
    *,
    original: int,
) -> Resolution:
    """Returns the larger size, or the default where clearly more images are recognised by it.

    Args:
        default, larger: The sizes.
        recognised: Whether a probe recognises each of m >= 1 held-out images at the default and at
            the larger size, two bool [m]; None if no image could be held out.
        original: Short side of the originals in pixels.
    """
    small, large = sizes.shown(default), sizes.shown(larger)
    has = f"the originals have {original} px"
    if recognised is None:
        return Resolution(larger, f"{large} px; {has}, and more pixels usually help")
    near, far = recognised
    shares = (
        f"a probe recognises {comparing.share(far)} at {large} px, {comparing.share(near)} at "
        f"{small} px"
    )
    if comparing.is_clearly_worse(far, near):
        return Resolution(default, f"{small} px; {has}, but {shares}")
    chance = ", which may be chance" if far.mean() < near.mean() else ""
    return Resolution(
        larger,
        f"{large} px; {has}; {shares}{chance}. --image_size={small} takes a quarter of the work",
    )
