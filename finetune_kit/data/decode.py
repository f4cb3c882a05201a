"""Bytes to pixels: the one decoder, for audit, training, evaluation and prediction alike.

Images have N channels: 1 is grey (ITU-R BT.601, as Pillow has it), 2 grey and alpha, 3 RGB, 4 RGB
and alpha; any other number comes of arrays in `.npy` files alone. Every channel is resized by
itself, as `keras.layers.Resizing` does: alpha weighs no colour.

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
from finetune_kit.data import npy, sizes

# Names the pixels that this module makes of given bytes. Raise the number with any change of them.
VERSION = f"1, Pillow {PIL.__version__}"
# A reduced JPEG keeps at least this many times the side that is asked for, so that bilinear weights
# still span several pixels. Photos then differ from those decoded in full by at most 2 grey levels
# in the mean and 11 at the 99th percentile; with 1 it would be 5 and 27, with 2 it is 1 and 6.
MARGIN = 1.25
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of a decompression bomb; 256 MiB as RGB
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's names of N channels
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
        pixels: uint8 [h, w, N] in [0, 255].
        short_side: Of the original, pixels.
    """

    pixels: np.ndarray
    short_side: int


def decode(data: bytes, channels: int = sizes.COLOURS) -> np.ndarray:
    """Returns an image at its own size, uint8 [h, w, N] in [0, 255].

    JPEG, PNG, GIF, BMP and WebP, recognised by content, the first frame of each. EXIF orientation
    is applied, grey and palette images become RGB, CMYK is converted, 16-bit values keep their high
    byte. Transparency is laid on white (as browsers and viewers show it), unless alpha is a channel
    of its own; what is opaque has 255 there.

    Also arrays of NumPy, see `npy.read`.

    Args:
        data: Bytes of a file.
        channels: N.

    Raises:
        DecodeError: Empty, truncated or unknown bytes, more than `MAX_PIXELS` pixels, or another
            number of channels.
    """
    if npy.is_array(data):
        return _array(data, channels)
    with _opened(data) as image:
        image.load()
        return _pixels(_turned(_converted(image, channels), _turn(image)))


def resize(image: np.ndarray, size: sizes.Size) -> np.ndarray:
    """Returns the image squeezed to uint8 [h, w, N], bilinear with antialiasing.

    Within one grey level of `keras.layers.Resizing(h, w, antialias=True)` and rounding, which is
    what a saved model does with raw images.

    Args:
        image: uint8 [any, any, N].
        size: Side in pixels, or (h, w).
    """
    height, width = sizes.sides(size)
    if image.shape[:2] == (height, width):
        return image
    if image.shape[-1] == sizes.COLOURS:
        return _pixels(_resized(Image.fromarray(image), (width, height)))
    bands = [_resized(Image.fromarray(band), (width, height)) for band in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


def squeeze(
    content: bytes | np.ndarray, size: sizes.Size, channels: int = sizes.COLOURS
) -> Squeezed:
    """Returns what a network sees of an image: that of `decode`, squeezed as by `resize`.

    A JPEG with sides of at least 2 `MARGIN` times the longer one of `size` is reduced while it is
    decoded.

    Args:
        content: Bytes of a file as for `decode`, or uint8 [any, any, N].
        size: Side in pixels, or (h, w).
        channels: N.

    Raises:
        DecodeError: See `decode`.
    """
    if not isinstance(content, np.ndarray) and npy.is_array(content):
        content = _array(content, channels)
    if isinstance(content, np.ndarray):
        if content.shape[-1] != channels:
            raise DecodeError(f"{content.shape[-1]} channels, where {channels} are needed")
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
        small = _resized(_converted(image, channels), stored, box)
        return Squeezed(_pixels(_turned(small, turn)), short_side)


def pixels(
    content: bytes | np.ndarray, size: sizes.Size, channels: int = sizes.COLOURS
) -> np.ndarray:
    """Returns the pixels of `squeeze`, uint8 [h, w, N]."""
    return squeeze(content, size, channels).pixels


def picture(image: np.ndarray) -> np.ndarray:
    """Returns what is shown of an image uint8 [h, w, N]: uint8 [h, w, 3].

    The first three channels; of one or two, the first as grey.
    """
    if image.shape[-1] < sizes.COLOURS:
        return np.repeat(image[..., :1], sizes.COLOURS, axis=-1)
    return image[..., : sizes.COLOURS]


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


def _converted(image: Image.Image, channels: int) -> Image.Image:
    """Returns an image of the mode of `MODES` that N channels have."""
    if channels not in MODES:
        raise DecodeError(f"an image file, which gives no {channels} channels as .npy files do")
    if channels == sizes.COLOURS:
        return _rgb(image)
    if channels == 1:
        return _rgb(image).convert("L")
    layer = _rgba(image)
    return layer if channels == 4 else layer.convert("LA")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values, opaque = _sixteen_bits(image)
        values[~opaque] = 255
        return Image.fromarray(values).convert("RGB")
    if _has_alpha(image):
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    # Pillow would copy what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _rgba(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BITS:
        values, opaque = _sixteen_bits(image)
        layer = Image.fromarray(values).convert("RGBA")
        layer.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
        return layer
    return image.convert("RGBA") if _has_alpha(image) else _rgb(image).convert("RGBA")


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _sixteen_bits(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Returns the high byte, uint8 [h, w], and what is not transparent, bool [h, w]."""
    values = np.asarray(image).astype(np.int64)
    opaque = values != image.info.get("transparency", -1)
    return (values >> 8).clip(0, 255).astype(np.uint8), opaque


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Returns an image of another width and height, every channel resized by itself."""
    if image.mode in ("LA", "RGBA"):  # of which Pillow would weigh the colours by alpha
        bands = [band.resize(size, Image.Resampling.BILINEAR, box) for band in image.split()]
        return Image.merge(image.mode, bands)
    return image.resize(size, Image.Resampling.BILINEAR, box)


def _pixels(image: Image.Image) -> np.ndarray:
    """Returns the values of an image, uint8 [h, w, N]."""
    values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def _array(data: bytes, channels: int) -> np.ndarray:
    try:
        return npy.read(data, channels, most=MAX_PIXELS)
    except ValueError as error:
        raise DecodeError(str(error)) from error


def _reason(data: bytes, error: Exception) -> str:
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "the file is an HTML page"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no {', '.join(FORMATS)} image"
    return " ".join(str(error).split()) or type(error).__name__
