"""Small images, folders of them, and splits, as the tests of the data room need them."""

import io
import os
import pathlib

import numpy as np
from PIL import Image

from finetune_kit.data import arrays, sizes, store, types


def noise(height=8, width=8, *, seed=0):
    """Returns an image, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def smooth(height=48, width=64):
    """Returns an image that JPEG keeps well, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    planes = (255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 9 + y / 7))
    return np.rint(np.stack(planes, axis=-1)).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    """Returns the bytes of an array or a Pillow image in a file format."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write(path, content=None, *, seed=0):
    """Writes bytes, an array, or noise of its own to a file, whatever folders it needs."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = noise(seed=seed) if content is None else content
    path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return path


def write_folder(root, counts):
    """Writes `counts[folder]` different images to each folder below `root`; returns `root`."""
    for group, (folder, count) in enumerate(sorted(counts.items())):
        for index in range(count):
            write(os.path.join(root, folder, f"{index}.png"), seed=1000 * group + index)
    return pathlib.Path(root)


def split(labels, *, side=12, images=None, cached=True):
    """Returns a split of noise images, of a side or (height, width), in the store in reverse."""
    labels = np.asarray(labels, np.int64)
    n = len(labels)
    images = (
        [noise(*sizes.sides(side), seed=i) for i in range(n)] if images is None else list(images)
    )
    reader = arrays.ArrayReader(images[::-1])
    cache = np.stack(images[::-1]) if cached else None
    return types.Split(
        store=store.PixelStore(reader, side, cache=cache),
        indices=np.arange(n)[::-1],
        labels=labels,
        names=tuple(f"image {i}" for i in range(n)),
    )
