"""The size of images: one side where they are square, else height and width, as Keras has them.

A square is always its side alone, whichever way it was written, so that what is kept of a run
(reports, caches, checkpoints) says the same of it. How many channels images have goes beside their
size. No TensorFlow.
"""

import operator
import re

from finetune_kit import checks

Size = int | tuple[int, int]
Shape = tuple[int, int, int]  # (h, w, N)

COLOURS = 3  # channels of RGB, which images have unless something else is said
MOST_CHANNELS = 64

_WRITTEN = re.compile(r"(-?\d+)(?:x(\d+))?", re.ASCII)


def sides(size: Size) -> tuple[int, int]:
    """Returns height and width in pixels.

    Args:
        size: The side of a square, or (height, width); JSON brings the pair back as a list.

    Raises:
        ConfigError: Neither of them, or a pair with a side below 1.
    """
    is_pair = isinstance(size, tuple | list)
    try:
        height, width = map(operator.index, size if is_pair else (size, size))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise _refusal(size) from error
    if is_pair and min(height, width) < 1:
        raise _refusal(size)
    return height, width


def canonical(size: Size) -> Size:
    """Returns the side of a square, and (height, width) of anything else.

    Raises:
        ConfigError: As for `sides`.
    """
    height, width = sides(size)
    return height if height == width else (height, width)


def shape(size: Size, channels: int = COLOURS) -> Shape:
    """Returns the shape of one image, (h, w, N); its product is the bytes of uint8 pixels."""
    return (*sides(size), channels)


def parse(text: str) -> Size:
    """Returns the canonical size in `96`, or in `96x128`, height before width.

    Raises:
        ConfigError: Not of that form, or a pair with a side below 1.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise checks.ConfigError(
            "A size must look like 96, or like 96x128 (height x width). "
            + checks.received(image_size=text)
        )
    height, width = found.groups()
    return int(height) if width is None else canonical((int(height), int(width)))


def shown(size: Size) -> str:
    """Returns a size as `parse` reads it: `96`, or `96x128`."""
    known = canonical(size)
    return "x".join(map(str, known)) if isinstance(known, tuple) else str(known)


def _refusal(size: object) -> checks.ConfigError:
    return checks.ConfigError(
        "image_size must be a side in pixels, or (height, width), each at least 1. "
        + checks.received(image_size=size)
    )
