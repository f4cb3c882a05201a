"""Bytes to pixels: the one decoder, for audit, training, evaluation and prediction alike.

A JPEG much larger than what is asked for is decoded at a half, a quarter or an eighth of its size
by leaving out the fine cosines of every block, which takes a fraction of the time (Pillow calls it
a draft; libjpeg-turbo's `libjpeg.txt`, section "Scaled decoding").
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator

import numpy as np
import PIL
from PIL import ExifTags, Image

from finetune_kit import checks
from finetune_kit.data import sizes

# Names the pixels that this module makes of given bytes. Raise the number with any change of them.
VERSION = f"1, Pillow {PIL.__version__}"
# A reduced JPEG keeps at least this many times the side that is asked for, so that bilinear weights
# still span several pixels. Photos then differ from those decoded in full by at most 2 grey levels
# in the mean and 11 at the 99th percentile; with 1 it would be 5 and 27, with 2 it is 1 and 6.
MARGIN = 1.25
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb; 256 MiB as RGB
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")
# What brings the stored pixels upright, by EXIF orientation; 1 is upright already.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that make rows of columns.
_SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]


class DecodeError(checks.DataError):
    """The bytes are no image that can be decoded; the message is the reason alone."""


@dataclasses.dataclass(frozen=True)
class Squeezed:
    """An image at the size that was asked for.

    Attributes:
        pixels: uint8 [h, w, 3] in [0, 255].
        short_side: Of the original, pixels.
    """

    pixels: np.ndarray
    short_side: int


def decode(data: bytes) -> np.ndarray:
    """Returns an image at its own size, uint8 [h, w, 3] in [0, 255].

    JPEG, PNG, GIF, BMP and WebP, recognised by content, the first frame of each. EXIF orientation
    is applied, grey and palette images become RGB, CMYK is converted, transparency is laid on
    white (as browsers and viewers show it), 16-bit values keep their high byte.

    Raises:
        DecodeError: Empty, truncated or unknown bytes, or more than `MAX_PIXELS` pixels.
    """
    with _opened(data) as image:
        image.load()
        return np.asarray(_turned(_rgb(image), _turn(image)))


def resize(image: np.ndarray, size: sizes.Size) -> np.ndarray:
    """Returns the image squeezed to uint8 [h, w, 3], bilinear with antialiasing.

    Within one grey level of `keras.layers.Resizing(h, w, antialias=True)` and rounding, which is
    what a saved model does with raw images.

    Args:
        image: uint8 [any, any, 3].
        size: Side in pixels, or (h, w).
    """
    height, width = sizes.sides(size)
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def squeeze(content: bytes | np.ndarray, size: sizes.Size) -> Squeezed:
    """Returns what a network sees of an image: that of `decode`, squeezed as by `resize`.

    A JPEG with sides of at least 2 `MARGIN` times the longer one of `size` is reduced while it is
    decoded.

    Args:
        content: Bytes of a file as for `decode`, or uint8 [any, any, 3].
        size: Side in pixels, or (h, w).

    Raises:
        DecodeError: See `decode`.
    """
    if isinstance(content, np.ndarray):
        return Squeezed(resize(content, size), min(content.shape[:2]))
    with _opened(content) as image:
        short_side = min(image.size)
        height, width = sizes.sides(size)
        # Whether the stored picture lies on its side is known for sure once it is loaded.
        least = math.ceil(MARGIN * max(height, width))
        # Where sides are no multiples of the reduction, the last pixels stand for less than others;
        # the box says where the picture ends. Other formats know no draft and give none.
        _, box = image.draft(None, (least, least)) or ("", None)
        image.load()
        turn = _turn(image)
        stored = (height, width) if turn in _SIDEWAYS else (width, height)
        small = _rgb(image).resize(stored, Image.Resampling.BILINEAR, box)
        return Squeezed(np.asarray(_turned(small, turn)), short_side)


def pixels(content: bytes | np.ndarray, size: sizes.Size) -> np.ndarray:
    """Returns the pixels of `squeeze`, uint8 [h, w, 3]."""
    return squeeze(content, size).pixels


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Yields an image of which the header is read; whatever fails in the block is `DecodeError`."""
    if not data:
        raise DecodeError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(
                    f"{image.width} x {image.height} pixels, more than {MAX_PIXELS} in all"
                )
            yield image
    except DecodeError:
        raise
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise DecodeError(_reason(data, error)) from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Returns what brings the stored pixels upright; None if nothing has to."""
    # `ImageOps.exif_transpose` also writes the block anew, and fails where only that is impossible.
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # A damaged EXIF block says nothing about the pixels, which have been decoded by now.
    except Exception:
        return None


def _turned(image: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64)
        high = (values >> 8).clip(0, 255)
        high[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    # Pillow would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "the file is an HTML page"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no {', '.join(FORMATS)} image"
    return " ".join(str(error).split()) or type(error).__name__
