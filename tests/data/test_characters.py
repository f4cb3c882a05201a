"""Characters are those of the fonts, however they are bent; a class is told by its strokes."""

import pathlib

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from sklearn.linear_model import LogisticRegression

from finetune_kit.data import characters

CLASSES = len(characters.CHARACTERS)


def filled(rings, side=100):
    """Returns the pixels inside an odd number of outlines, by the winding of a grid of points."""
    centres = (np.arange(side) + 0.5) / side * 2 - 1
    x, y = np.meshgrid(centres, centres)
    inside = np.zeros((side, side), bool)
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            if y1 != y2:
                crossed = (y1 > y) != (y2 > y)
                inside ^= crossed & (x < x1 + (y - y1) / (y2 - y1) * (x2 - x1))
    return inside


def printed(character, face, side=100):
    """Returns a character as FreeType draws it, its longer side filling the picture."""
    path = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    font = ImageFont.truetype(str(path), 400)
    canvas = Image.new("L", (900, 900))
    ImageDraw.Draw(canvas).text((200, 200), character, font=font, fill=255)
    left, top, right, bottom = canvas.getbbox()
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    box = (x - half, y - half, x + half, y + half)
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX, box=box)) > 127


@pytest.mark.parametrize("character", "08Bgi%Ж∞")
@pytest.mark.parametrize("face", ["DejaVuSans-Bold", "STIXGeneral"])
def test_outlines_are_those_of_the_font(character, face) -> None:
    own = filled(characters.contours(character, face))
    theirs = printed(character, face)
    assert (own & theirs).sum() / (own | theirs).sum() > 0.9


def test_every_class_has_many_faces_and_a_character_of_its_own() -> None:
    assert len(set(characters.CHARACTERS)) == CLASSES == 95
    for character in characters.CHARACTERS:
        assert sum(bool(characters.contours(character, face)) for face in characters.FACES) >= 10
    assert characters.contours("漢", "STIXGeneral") == ()


def test_straight_lines_can_bend() -> None:
    for ring in characters.contours("H", "DejaVuSans"):
        steps = np.abs(np.roll(ring, -1, axis=0) - ring).max(axis=1)
        assert steps.max() <= characters.PIECE + 1e-9


def test_a_hole_is_no_ink() -> None:
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 0.8
    rings = [square, square / 2]
    inks = np.array([characters._inked(rings, np.random.default_rng(i)) for i in range(40)])
    assert inks.shape[1:] == (characters.SIDE,) * 2 and inks.min() >= 0 and inks.max() <= 1
    # Row by row through the middle: ground, square, hole, square, ground.
    ground, rim, hole = (inks[:, 28:36, part].mean(axis=(1, 2)) for part in
                         (slice(0, 4), slice(10, 16), slice(28, 36)))  # fmt: skip
    assert (rim - hole > 0.5).all()
    # A soft edge of few pixels reaches far.
    assert (rim - ground > 0.5).mean() > 0.9


def test_half_of_the_images_are_grey_and_most_show_a_clear_character() -> None:
    images = np.array([characters.image(i % CLASSES, i) for i in range(200)], int)
    spread = images.max(axis=-1) - images.min(axis=-1)
    # Noise of up to 8 levels in every channel is all the colour that a grey image has.
    grey = np.array([np.median(one) < 40 for one in spread])
    assert 0.35 < grey.mean() < 0.65
    ranges = np.ptp(images.mean(axis=-1).reshape(200, -1), axis=1)
    assert np.median(ranges) > characters.LEAST_CONTRAST


def test_a_character_differs_from_its_ground_in_brightness() -> None:
    ink = np.zeros((characters.SIDE,) * 2)
    ink[:, ::2] = 1  # every other column, so that ground of all places is seen
    for seed in range(60):
        pixels = characters._coloured(ink, np.random.default_rng(seed)).astype(float)
        gap = abs(pixels[:, ::2].mean() - pixels[:, 1::2].mean())
        assert gap > characters.LEAST_CONTRAST - 3  # noise is cut off at black and white


def test_classes_are_told_apart_by_their_strokes() -> None:
    n, kinds = 60, [characters.CHARACTERS.index(c) for c in "017EX"]
    images = np.array([characters.image(k, i) for k in kinds for i in range(n)], float)
    labels, first = np.repeat(np.arange(len(kinds)), n), np.arange(len(kinds) * n) % n < n // 2
    grey = images.mean(axis=-1)
    down, across = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, across), np.arctan2(down, across) % np.pi
    # Histograms of oriented gradients (Dalal & Triggs, 2005): 4x4 cells of 8 directions.
    bins = np.minimum((angle / np.pi * 8).astype(int), 7)
    maps = np.stack([strength * (bins == b) for b in range(8)], axis=-1)
    rows = maps.reshape(len(maps), 4, 16, 4, 16, 8).sum(axis=(2, 4)).reshape(len(maps), -1)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    fitted = LogisticRegression(C=30, max_iter=2000).fit(rows[first], labels[first])
    assert fitted.score(rows[~first], labels[~first]) > 0.5  # by chance 0.2
