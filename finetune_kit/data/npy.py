"""Arrays of NumPy as images: what a `.npy` file holds, with any number of channels.

The header is judged before anything is reserved for its array, and no Python object is unpickled.
"""

import io
import math

import numpy as np

SUFFIX = ".npy"
MAGIC = b"\x93NUMPY"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def is_array(data: bytes) -> bool:
    """Returns whether bytes begin as a `.npy` file does."""
    return data.startswith(MAGIC)


def read(data: bytes, channels: int, *, most: int) -> np.ndarray:
    """Returns the image in a `.npy` file, uint8 [h, w, N].

    Args:
        data: Bytes of the file; its array is uint8 [h, w, N], or [h, w] for one channel.
        channels: N.
        most: Largest h x w.

    Raises:
        ValueError: Anything else; the message is the reason in one line.
    """
    file = io.BytesIO(data)
    shape, dtype = _header(file)
    if dtype != np.uint8:
        raise ValueError(f"an array of {dtype}, where uint8 is needed")
    if len(shape) == 2 and channels == 1:
        shape = (*shape, 1)
    if len(shape) != 3 or shape[-1] != channels or min(shape) < 1:
        raise ValueError(f"an array of shape {shape}, where [h, w, {channels}] is needed")
    if shape[0] * shape[1] > most:
        raise ValueError(f"{shape[1]} x {shape[0]} pixels, more than {most} in all")
    if len(data) - file.tell() < math.prod(shape):
        raise ValueError("the array is cut off")
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False)).reshape(shape)


def _header(file: io.BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type of the array, of which the file then begins."""
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"format {version}, where 1.0 or 2.0 is needed")
        shape, _, dtype = _HEADERS[version](file)
    # What stands in a damaged header is parsed as Python text, which fails in many ways.
    except Exception as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(f"a .npy header that cannot be read: {reason}") from error
    return shape, dtype
