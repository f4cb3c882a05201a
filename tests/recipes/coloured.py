"""Folders of coloured squares: three classes that any network can tell apart."""

import pathlib

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")
SIDE = 32


def write(root: pathlib.Path, *, per_class: int = 14, seed: int = 0) -> pathlib.Path:
    """Writes `<class>/<number>.png` below `root` and returns it."""
    generator = np.random.default_rng(seed)
    for channel, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.uniform(0, 80, (SIDE, SIDE, 3))
            top, left = generator.integers(0, 12, 2)
            pixels[top : top + 18, left : left + 18, channel] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root
