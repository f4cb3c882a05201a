"""Pictures made by formula, as many as a benchmark asks for: no set has to be downloaded."""

import io
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from finetune_kit import console

WIDTH, HEIGHT = 500, 375  # of a photo, pixels
CLASSES = 10
QUALITY = 90
# Cells across the picture, amplitude in grey levels and channels of each layer of noise: coarse
# structure is strong and fine structure weak (Field, 1987: amplitude falls with frequency), and
# colour is coarse. A file has 62 kB, as those that real photos of this size make.
LAYERS = ((3, 60.0, 3), (12, 30.0, 3), (50, 14.0, 1), (200, 7.0, 1))
SHAPES = 8  # things with sharp edges
GRAIN = 2.5  # standard deviation of the sensor's noise, grey levels
TINY = 64  # side of a tiny picture, pixels
DISTINCT = 200  # tiny pictures that differ; the others differ in a comment

Write = Callable[[int, pathlib.Path], None]


def photo(number: int) -> np.ndarray:
    """Returns a picture with the detail of a photo, uint8 [375, 500, 3]; one for each number."""
    generator = np.random.default_rng(number)
    pixels = np.full((HEIGHT, WIDTH, 3), 128.0)
    for across, amplitude, channels in LAYERS:
        cells = generator.integers(0, 256, (across * HEIGHT // WIDTH + 1, across, channels))
        small = Image.fromarray(np.broadcast_to(cells, (*cells.shape[:2], 3)).astype(np.uint8))
        large = small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        # Uniform numbers from 0 to 255 deviate by 74 from their mean.
        pixels += (np.asarray(large, np.float64) - 127.5) * (amplitude / 74)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(SHAPES):
        corners = generator.uniform(0, (WIDTH, HEIGHT), (3, 2))
        colour = tuple(generator.integers(0, 256, 3).tolist())
        draw.polygon([tuple(corner) for corner in corners.tolist()], outline=colour, width=3)
    grain = generator.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    return (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)


def write_photos(root: pathlib.Path, count: int) -> pathlib.Path:
    """Returns a folder with `count` photos below train/ and one a class below test/.

    Args:
        root: Where it is; written only if it is not there.
        count: Photos to train on, spread over `CLASSES` classes.
    """

    def write(number: int, path: pathlib.Path) -> None:
        Image.fromarray(photo(number)).save(path, "JPEG", quality=QUALITY)

    places = [f"train/class_{i % CLASSES}/{i:06}.jpg" for i in range(count)]
    places += [f"test/class_{i}/{count + i:06}.jpg" for i in range(CLASSES)]
    return _write(root, places, write)


def write_tiny(root: pathlib.Path, count: int) -> pathlib.Path:
    """Returns a folder with `count` small JPEGs of which no two hold the same bytes.

    Args:
        root: Where it is; written only if it is not there.
        count: Images, spread over `CLASSES` classes.
    """
    contents = [_tiny(number) for number in range(min(count, DISTINCT))]

    def write(number: int, path: pathlib.Path) -> None:
        path.write_bytes(commented(contents[number % DISTINCT], f"{number:09}"))

    return _write(root, [f"class_{i % CLASSES}/{i:06}.jpg" for i in range(count)], write)


def commented(jpeg: bytes, text: str) -> bytes:
    """Returns the same picture with a comment behind its first marker (ITU-T T.81, B.2.4.5)."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def _tiny(number: int) -> bytes:
    cells = np.random.default_rng(number).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    image = Image.fromarray(cells).resize((TINY, TINY), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _write(root: pathlib.Path, places: list[str], write: Write) -> pathlib.Path:
    """Writes files into a folder that is there whole or not at all."""
    if root.is_dir():
        return root
    unfinished = root.with_name(f".{root.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in dict.fromkeys(pathlib.PurePath(place).parent for place in places):
        (unfinished / folder).mkdir(parents=True)
    with console.progress("Making pictures", len(places)) as bar:
        for number, place in enumerate(places):
            write(number, unfinished / place)
            bar.advance()
    return unfinished.rename(root)
