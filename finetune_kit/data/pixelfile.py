"""Decoded pixels in a file, for images that do not fit into memory.

    pixels uint8 [n, h, w, N], row by row | an .npz: what the pass that decoded them found

A file holds the pixels of certain bytes, wherever those stand: it is found again by the SHA-256 of
every image, the size, the channels and the version of the decoder. Every row has a checksum that is
looked at when the row is first read, so that starting takes no time and a damaged row is never
shown.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import math
import os
import pathlib
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune_kit.data import decode, sizes

DIGEST = 32  # bytes of a SHA-256
BEHIND = 64  # bytes an image, more than what stands behind the pixels takes
UNFINISHED = ".part"
ABANDONED = 24 * 60 * 60  # seconds after which nobody writes to an unfinished file any more


@dataclasses.dataclass(frozen=True)
class Findings:
    """What decoding n images found, besides their pixels.

    Attributes:
        digests: uint8 [n, 32], SHA-256 of the content; zeros where an image could not be read.
        short_sides: int64 [n], pixels of the originals, 0 where an image could not be decoded.
        reasons: Why an image could not be decoded, by position.
    """

    digests: np.ndarray
    short_sides: np.ndarray
    reasons: Mapping[int, str]


class PixelFile:
    """The pixels of n images in a file.

    Attributes:
        findings: What decoding them found.
    """

    def __init__(
        self, path: pathlib.Path, shape: sizes.Shape, arrays: Mapping[str, np.ndarray]
    ) -> None:
        """Maps a file into memory.

        Args:
            path: The file.
            shape: Of one image, (h, w, N).
            arrays: What stands behind the pixels.
        """
        reasons = zip(arrays["bad"].tolist(), arrays["reasons"].tolist(), strict=True)
        self.findings = Findings(arrays["digests"], arrays["short_sides"], dict(reasons))
        self._path = path
        self._pixels = np.memmap(path, np.uint8, "r", shape=(len(arrays["checksums"]), *shape))
        self._checksums = arrays["checksums"]
        self._checked = np.zeros(len(self._checksums), bool)

    def read(self, position: int) -> np.ndarray | None:
        """Returns one image, uint8 [h, w, N]; None if the row is not what was written.

        A file with such a row is deleted, so that the next run writes it anew.
        """
        row: np.ndarray = self._pixels[position]
        if not self._checked[position]:
            if _checksum(row) != self._checksums[position]:
                with contextlib.suppress(OSError):
                    self._path.unlink()
                return None
            self._checked[position] = True
        return row


class Writer:
    """A file that is being written; see `writing`."""

    def __init__(
        self, folder: pathlib.Path, temporary: pathlib.Path, n: int, shape: sizes.Shape
    ) -> None:
        """Opens a file whose room is reserved.

        Args:
            folder: Where the file goes once it is whole.
            temporary: Where it is until then.
            n: Images.
            shape: Of one image, (h, w, N).
        """
        self._folder, self._temporary, self._shape = folder, temporary, shape
        self._pixels = np.memmap(temporary, np.uint8, "r+", shape=(n, *shape))
        # Rows that are never written stay as they were reserved.
        self._checksums = np.full(n, zlib.crc32(bytes(math.prod(shape))), np.uint32)

    def put(self, position: int, pixels: np.ndarray) -> None:
        """Writes one image, uint8 [h, w, N]; several threads may write several images."""
        self._pixels[position] = pixels
        self._checksums[position] = _checksum(pixels)

    def finish(self, found: Findings) -> PixelFile:
        """Adds what was found and gives the file its name.

        Raises:
            OSError: The disk is full or broken.
        """
        bad = sorted(found.reasons)
        arrays: dict[str, Any] = {
            "version": np.array(decode.VERSION),
            "digests": found.digests,
            "short_sides": found.short_sides,
            "bad": np.array(bad, np.int64),
            "reasons": np.array([found.reasons[i] for i in bad], np.str_),
            "checksums": self._checksums,
        }
        self._pixels.flush()
        behind = io.BytesIO()
        np.savez(behind, **arrays)
        with self._temporary.open("ab") as file:
            file.write(behind.getvalue())
            file.flush()
            os.fsync(file.fileno())
        path = self._folder / f"{_stem(len(self._pixels), self._shape)}{_key(found.digests)}.u8"
        os.replace(self._temporary, path)
        return PixelFile(path, self._shape, arrays)


@contextlib.contextmanager
def writing(folder: str, n: int, shape: sizes.Shape) -> Iterator[Writer]:
    """Yields what writes the pixels of n images; what is not finished leaves nothing behind.

    Args:
        folder: Where the file goes; made if it is not there.
        n: Images.
        shape: Of one image, (h, w, N).

    Raises:
        OSError: No room on the disk, or a folder that cannot be written.
    """
    place = pathlib.Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    _sweep(place)
    temporary = place / f".{_stem(n, shape)}{secrets.token_hex(4)}{UNFINISHED}"
    try:
        _reserve(temporary, n * math.prod(shape), n * BEHIND)
        yield Writer(place, temporary, n, shape)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def candidates(folder: str, n: int, shape: sizes.Shape) -> list[PixelFile]:
    """Returns the whole files in a folder with n images of a shape (h, w, N).

    Whose pixels they hold is said by their digests; a file that is short or damaged is left out.
    """
    paths = sorted(pathlib.Path(folder).glob(f"{_stem(n, shape)}*.u8"))
    return [file for path in paths if (file := _load(path, n, shape)) is not None]


def _load(path: pathlib.Path, n: int, shape: sizes.Shape) -> PixelFile | None:
    try:
        with path.open("rb") as file:
            file.seek(n * math.prod(shape))
            # Every array in the .npz has a checksum of its own.
            with np.load(io.BytesIO(file.read())) as stored:
                arrays = {name: stored[name] for name in stored.files}
        if arrays["version"] != decode.VERSION or arrays["digests"].shape != (n, DIGEST):
            return None
        return PixelFile(path, shape, arrays)
    # A damaged archive makes NumPy raise BadZipFile, KeyError, RuntimeError and others.
    except Exception:
        return None


def _reserve(path: pathlib.Path, pixels: int, behind: int) -> None:
    """Makes a file of zeros; what is mapped must not run out of room, which would end the process.

    Args:
        path: The file.
        pixels: Its length, bytes.
        behind: Room that must be left for what is added, bytes.
    """
    free = shutil.disk_usage(path.parent).free
    if pixels + behind > free:
        words = f"{(pixels + behind) >> 20:,} MiB needed, {free >> 20:,} MiB free"
        raise OSError(errno.ENOSPC, words)
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, pixels)
        else:
            file.truncate(pixels)


def _sweep(folder: pathlib.Path) -> None:
    """Deletes what runs that were killed left behind."""
    for path in folder.glob(f".pixels-*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def _checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def _stem(n: int, shape: sizes.Shape) -> str:
    *sides, channels = shape
    kind = "" if channels == sizes.COLOURS else f"c{channels}-"
    return f"pixels-{sizes.shown((sides[0], sides[1]))}-{kind}{n}-"


def _key(digests: np.ndarray) -> str:
    return hashlib.sha256(decode.VERSION.encode() + digests.tobytes()).hexdigest()[:DIGEST]
