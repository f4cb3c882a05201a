"""Decoded pixels: kept in memory or in a file, or decoded again for every batch."""

import concurrent.futures

import numpy as np

from finetune_kit import cores
from finetune_kit.data import arrays, decode, listing, pixelfile, sizes


class PixelStore:
    """The images of a source at one size.

    Attributes:
        size: Side in pixels of a square, else (h, w).
        channels: N.
    """

    def __init__(
        self,
        reader: listing.Reader,
        size: sizes.Size,
        *,
        cache: np.ndarray | pixelfile.PixelFile | None = None,
        channels: int = sizes.COLOURS,
    ) -> None:
        """Wraps a reader.

        Args:
            reader: Gives the content of an image by its position.
            size: Side in pixels, or (h, w).
            cache: uint8 [n, h, w, N], decoded once, or a file of it; None decodes for every batch.
            channels: N.
        """
        self.size, self.channels = sizes.canonical(size), channels
        self._reader = reader
        self._cache = cache
        # Threads start with the first batch; with pixels in memory there are none.
        self._pool = concurrent.futures.ThreadPoolExecutor(cores.available(), "finetune_kit-decode")

    @property
    def shape(self) -> sizes.Shape:
        """Of one image, (h, w, N)."""
        return sizes.shape(self.size, self.channels)

    @property
    def cached(self) -> bool:
        """Whether the pixels are in memory."""
        return isinstance(self._cache, np.ndarray)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at `indices`, uint8 [b, h, w, N]."""
        if isinstance(self._cache, np.ndarray):
            return self._cache[indices]
        images = np.empty((len(indices), *self.shape), np.uint8)

        def fill(rows: np.ndarray) -> None:
            for row in rows:
                images[row] = self._pixels(indices[row])

        # One part of the batch a core: a task for every image would take a tenth of the time.
        parts = np.array_split(np.arange(len(indices)), cores.available())
        for _ in self._pool.map(fill, parts):
            pass
        return images

    def at_size(self, size: sizes.Size) -> "PixelStore":
        """Returns the same images at another size, decoded for every batch."""
        return PixelStore(self._reader, size, channels=self.channels)

    def mirrored(self, indices: np.ndarray) -> "PixelStore":
        """Returns the images at `indices` mirrored left to right, in memory, in their order."""
        pixels = self.batch(indices)[:, :, ::-1]
        reader = arrays.ArrayReader(pixels, self.channels)
        return PixelStore(reader, self.size, cache=pixels, channels=self.channels)

    def original(self, index: int) -> np.ndarray:
        """Returns one image at its own size, uint8 [h, w, N]."""
        content = self._reader.read(int(index))
        if isinstance(content, np.ndarray):
            return content
        return decode.decode(content, self.channels)

    def picture(self, index: int) -> np.ndarray:
        """Returns what is shown of `original`, uint8 [h, w, 3]."""
        return decode.picture(self.original(index))

    def _pixels(self, index: int) -> np.ndarray:
        if isinstance(self._cache, pixelfile.PixelFile):
            row = self._cache.read(int(index))
            if row is not None:
                return row
        return decode.pixels(self._reader.read(int(index)), self.size, self.channels)
