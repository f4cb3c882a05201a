"""Decoded pixels: kept in memory where they fit, decoded again for every batch where not."""

import concurrent.futures

import numpy as np

from finetune_kit import cores
from finetune_kit.data import decode, listing


class PixelStore:
    """The images of a source at one size.

    Attributes:
        size: Side s in pixels.
    """

    def __init__(
        self, reader: listing.Reader, size: int, *, cache: np.ndarray | None = None
    ) -> None:
        """Wraps a reader.

        Args:
            reader: Gives the content of an image by its position.
            size: Side s in pixels.
            cache: uint8 [n, s, s, 3], decoded once; None decodes for every batch.
        """
        self.size = size
        self._reader = reader
        self._cache = cache
        # Threads start with the first batch; with a cache there is none.
        self._pool = concurrent.futures.ThreadPoolExecutor(cores.available(), "finetune_kit-decode")

    @property
    def cached(self) -> bool:
        """Whether the pixels are in memory."""
        return self._cache is not None

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images at `indices`, uint8 [b, s, s, 3]."""
        if self._cache is not None:
            return self._cache[indices]
        images = np.empty((len(indices), self.size, self.size, 3), np.uint8)
        for row, image in zip(images, self._pool.map(self._pixels, indices), strict=True):
            row[...] = image
        return images

    def original(self, index: int) -> np.ndarray:
        """Returns one image at its own size, uint8 [h, w, 3]."""
        content = self._reader.read(int(index))
        return content if isinstance(content, np.ndarray) else decode.decode(content)

    def _pixels(self, index: int) -> np.ndarray:
        return decode.resize(self.original(index), self.size)
