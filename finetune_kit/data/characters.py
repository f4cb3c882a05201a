"""Printed characters as source images: a class is a character, an image one of its many faces.

Drawn as outlines from the fonts that matplotlib brings, bent, slanted, thickened and coloured at
random, as Jaderberg et al. draw words (2014, "Synthetic Data and Artificial Neural Networks for
Natural Scene Text Recognition", section 2). What tells them apart is the path of a stroke, which
neither objects nor textures teach.
"""

import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from finetune_kit.data import fractals

SIDE = fractals.SIDE  # pixels that an image is drawn at
FINE = 2 * SIDE  # of the outline, before its edge is softened
# Without mirror images of others, as d is of b, and most of those like others, as c is like C.
CHARACTERS = (
    "0123456789"
    "ABCDEFGHKLMNPQRTUVWXYZ"
    "abefghikmnrt"
    "ΔΘΛΞΠΣΦΨΩαβγδζθλμξπσφ"
    "БДЖЛЦШЫЭЮ"
    "&@#$%?!£€§¶+=<*÷×∞√∫∀"
)
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold"),
    *("DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol"),
    *("STIXGeneralItalic", "STIXGeneralBolIta"),
)
PIECE = 0.15  # longest piece of an outline that stays straight, of half its height
TURN, SLANT, STRETCH = 0.3, 0.4, 0.3  # most: radians, shear, logarithm of a side's factor
WAVES, BEND = 3, 0.09  # how many waves bend an outline, and how far, of half its height
LEAST_CONTRAST = 50.0  # between the mean grey of character and ground, of 255


def image(kind: int, number: int) -> np.ndarray:
    """Returns an image of a class, uint8 [SIDE, SIDE, 3], the same whenever it is asked for.

    Args:
        kind: Place in `CHARACTERS`.
        number: Which image of the class.
    """
    generator = np.random.default_rng((5, kind, number))
    outline: tuple[np.ndarray, ...] = ()
    while not outline:
        outline = contours(CHARACTERS[kind], FACES[generator.integers(len(FACES))])
    return _coloured(_inked(_placed(outline, generator), generator), generator)


@functools.lru_cache(maxsize=4096)
def contours(character: str, face: str) -> tuple[np.ndarray, ...]:
    """Returns closed outlines, float64 [m, 2] each, the longer side in [-1, 1]; () without them."""
    import matplotlib
    from matplotlib import font_manager, ft2font, textpath

    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if ord(character) not in ft2font.FT2Font(str(path)).get_charmap():
        return ()
    font = font_manager.FontProperties(fname=str(path))
    drawn = textpath.TextPath((0, 0), character, size=100, prop=font)
    polygons = [np.asarray(one) for one in drawn.to_polygons(closed_only=False)]
    rings = [ring for ring in polygons if len(ring) > 2]
    low, high = _bounds(rings)
    scale = (high - low).max() / 2
    # Upside down: rows of pixels count from the top.
    return tuple(_finely((ring - (low + high) / 2) / scale * (1, -1)) for ring in rings)


def _finely(ring: np.ndarray) -> np.ndarray:
    """Returns an outline with points between its corners, so that its straight lines bend, too."""
    pieces = []
    for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        count = max(1, int(np.ceil(np.abs(end - start).max() / PIECE)))
        pieces.append(start + (end - start) * (np.arange(count) / count)[:, None])
    return np.concatenate(pieces)


def _placed(outline: tuple[np.ndarray, ...], generator: np.random.Generator) -> list[np.ndarray]:
    """Returns outlines bent, turned and put somewhere in [-1, 1] x [-1, 1], or a little beyond."""
    turned = fractals.rotation(generator.uniform(-TURN, TURN))
    slanted = turned @ np.array([[1, generator.uniform(-SLANT, SLANT)], [0, 1]])
    matrix = slanted @ np.diag(np.exp(generator.uniform(-STRETCH, STRETCH, 2)))
    frequencies, phases = generator.normal(0, 2, (2, WAVES)), generator.uniform(0, 2 * np.pi, WAVES)
    reaches = generator.normal(0, BEND, (WAVES, 2))
    bent = [(ring + np.sin(ring @ frequencies + phases) @ reaches) @ matrix.T for ring in outline]
    low, high = _bounds(bent)
    size = generator.uniform(0.45, 0.95)
    place = generator.uniform(-1, 1, 2) * min(0.25, 1.05 - size)
    scale = size / ((high - low).max() / 2)
    return [(ring - (low + high) / 2) * scale + place for ring in bent]


def _bounds(rings: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    points = np.concatenate(rings)
    return points.min(axis=0), points.max(axis=0)


def _inked(rings: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Returns how much ink is where, in [0, 1], float [SIDE, SIDE]: thin or thick, sharp or not.

    Of the blurred outline, the pixels above a random threshold are the character. Half of the
    images are then made of 8 to 27 pixels a side.
    """
    from scipy import ndimage

    inside = np.zeros((FINE, FINE), bool)
    for ring in rings:
        one = Image.new("1", (FINE, FINE))
        ImageDraw.Draw(one).polygon([(x, y) for x, y in (ring + 1) / 2 * FINE], fill=1)
        inside ^= np.asarray(one)  # an outline within another is a hole
    soft = ndimage.gaussian_filter(inside.astype(np.float32), generator.uniform(0.5, 3.0))
    threshold = generator.uniform(0.12, 0.55) * soft.max()
    ink = 1 / (1 + np.exp((threshold - soft) * generator.uniform(8, 40)))
    ink = _resized(ink, SIDE)
    if generator.random() < 0.5:
        ink = _resized(_resized(ink, int(generator.integers(8, 28))), SIDE)
    return ink


def _resized(ink: np.ndarray, side: int) -> np.ndarray:
    how = Image.Resampling.BOX if side < len(ink) else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(ink.astype(np.float32)).resize((side, side), how))


def _coloured(ink: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns ink of one colour on a ground of one or of four, a little noisy; half are grey."""
    corners = generator.uniform(0, 255, (2, 2, 3))
    if generator.random() < 0.5:
        corners[:] = corners[0, 0]
    colour = generator.uniform(0, 255, 3)
    while abs(colour.mean() - corners.mean()) < LEAST_CONTRAST:
        colour = generator.uniform(0, 255, 3)
    ground = fractals.ground(corners)
    pixels = ground + (colour - ground) * ink[..., None]
    if generator.random() < 0.5:
        pixels[:] = pixels.mean(axis=-1, keepdims=True)
    pixels += generator.normal(0, generator.uniform(0, 8), pixels.shape)
    return np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
