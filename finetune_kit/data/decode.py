"""Bytes to pixels: the one decoder, for audit, training, evaluation and prediction alike."""

import io

import numpy as np
from PIL import ExifTags, Image

from finetune_kit import checks

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


class DecodeError(checks.DataError):
    """The bytes are no image that can be decoded; the message is the reason alone."""


def decode(data: bytes) -> np.ndarray:
    """Returns an image, uint8 [h, w, 3] in [0, 255].

    JPEG, PNG, GIF, BMP and WebP, recognised by content, the first frame of each. EXIF orientation
    is applied, grey and palette images become RGB, CMYK is converted, transparency is laid on
    white (as browsers and viewers show it), 16-bit values keep their high byte.

    Raises:
        DecodeError: Empty, truncated or unknown bytes, or more than `MAX_PIXELS` pixels.
    """
    if not data:
        raise DecodeError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DecodeError(
                    f"{image.width} x {image.height} pixels, more than {MAX_PIXELS} in all"
                )
            image.load()
            return np.asarray(_rgb(_upright(image)))
    except DecodeError:
        raise
    # Damaged files make Pillow raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        raise DecodeError(_reason(data, error)) from error


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Returns the image squeezed to uint8 [size, size, 3], bilinear with antialiasing.

    Within one grey level of `keras.layers.Resizing(size, size, antialias=True)` and rounding, which
    is what a saved model does with raw images.

    Args:
        image: uint8 [h, w, 3].
        size: Side in pixels.
    """
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def pixels(data: bytes, size: int) -> np.ndarray:
    """Returns `resize(decode(data), size)`, uint8 [size, size, 3].

    Raises:
        DecodeError: See `decode`.
    """
    return resize(decode(data), size)


def _upright(image: Image.Image) -> Image.Image:
    # `ImageOps.exif_transpose` also writes the block anew, and fails where only that is impossible.
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # A damaged EXIF block says nothing about the pixels, which have been decoded by now.
    except Exception:
        return image
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
    return image.convert("RGB")


def _reason(data: bytes, error: Exception) -> str:
    start = data[:200].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html")):
        return "the file is an HTML page"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no {', '.join(FORMATS)} image"
    return " ".join(str(error).split()) or type(error).__name__
