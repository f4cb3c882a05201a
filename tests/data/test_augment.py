"""Augmentation against NumPy, Pillow and SciPy; the odds of everything that is drawn."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image, ImageEnhance

from finetune_kit.data import augment, levels, order, sizes
from tests.data import samples

Draw = augment.Draw
SINGLE = dataclasses.replace(levels.LEVELS["strong"], mix=0.0)  # all that needs no partner


def draws_of(n, *, seed=0, **columns):
    """Returns draws float32 [n, DRAWS]; `columns` are set, by the name of the draw."""
    draws = order.uniforms(seed, 0, np.arange(n), augment.DRAWS)
    for name, values in columns.items():
        draws[:, Draw[name]] = values
    return draws


def apply(images, draws, level, labels=None):
    """Returns augmented images and labels as NumPy arrays."""
    labels = np.eye(2, dtype=np.float32)[np.arange(len(images)) % 2] if labels is None else labels
    augmented = augment.apply(tf.constant(images), tf.constant(labels), tf.constant(draws), level)
    return tuple(tensor.numpy() for tensor in augmented)


def noises(n, side=16):
    return np.stack([samples.noise(*sizes.sides(side), seed=i) for i in range(n)])


def mirrored(image, dx, dy):
    """Returns an image read `dx`, `dy` pixels further right and down, edges mirrored."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((height, height), (width, width), (0, 0)), mode="symmetric")
    return padded[height + dy : 2 * height + dy, width + dx : 2 * width + dx]


def test_every_purpose_has_a_column_of_its_own() -> None:
    assert sorted(Draw) == list(range(augment.DRAWS))
    assert len({draw.name for draw in Draw}) == augment.DRAWS == len(Draw.__members__)


@pytest.mark.parametrize("name", levels.LEVELS)
def test_pixels_stay_in_range_and_labels_sum_to_one(name) -> None:
    images = noises(24)
    augmented, labels = apply(images, draws_of(24), levels.LEVELS[name])
    assert augmented.shape == images.shape and augmented.dtype == np.float32
    assert augmented.min() >= 0 and augmented.max() <= 255
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    changed = (augmented != images).any(axis=(1, 2, 3)).mean()
    assert changed == 0 if name == "none" else changed > 0.8


@pytest.mark.parametrize("name", levels.LEVELS)
def test_floats_are_augmented_like_the_integers_that_they_are(name) -> None:
    images, draws = noises(6), draws_of(6)
    from_integers, _ = apply(images, draws, levels.LEVELS[name])
    from_floats, _ = apply(images.astype(np.float32), draws, levels.LEVELS[name])
    np.testing.assert_array_equal(from_integers, from_floats)


@pytest.mark.parametrize("level", [levels.LEVELS["light"], levels.LEVELS["medium"], SINGLE])
def test_a_view_is_the_same_alone_and_in_any_batch(level) -> None:
    images, draws = noises(12), draws_of(12)
    together, _ = apply(images, draws, level)
    backwards, _ = apply(images[::-1], draws[::-1], level)
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-3)
    for place in (0, 7):
        alone, _ = apply(images[place : place + 1], draws[place : place + 1], level)
        np.testing.assert_allclose(alone[0], together[place], atol=1e-3)


def test_half_of_the_images_are_mirrored() -> None:
    images = noises(400, side=6)
    augmented, _ = apply(images, draws_of(400), levels.Level(flip=0.5))
    flipped = (augmented == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (flipped | (augmented == images).all(axis=(1, 2, 3))).all()
    assert 160 <= flipped.sum() <= 240


@pytest.mark.parametrize("size", [(20, 20), (12, 30), (31, 8)])
def test_shifts_move_whole_pixels_and_mirror_the_edge(size) -> None:
    images, draws = noises(60, side=size), draws_of(60)
    level = levels.Level(flip=0.5, shift=0.3)
    augmented, _ = apply(images, draws, level)
    for image, row, got in zip(images, draws.astype(float), augmented, strict=True):
        dx = round((2 * row[Draw.SHIFT_X] - 1) * 0.3 * size[1])
        dy = round((2 * row[Draw.SHIFT_Y] - 1) * 0.3 * size[0])
        expected = mirrored(image, dx, dy)
        expected = expected[:, ::-1] if row[Draw.FLIP] < 0.5 else expected
        np.testing.assert_array_equal(got, expected)


def test_shifts_reach_every_distance_in_both_directions() -> None:
    ramp = np.arange(20, dtype=np.uint8)[:, None]  # the column, in every pixel
    images = np.broadcast_to(ramp, (400, 20, 20, 3)).copy()
    augmented, _ = apply(images, draws_of(400), levels.Level(shift=0.1))
    assert set((augmented[:, 0, 10, 0] - 10).astype(int)) == {-2, -1, 0, 1, 2}


def looked_up(row, size, level):
    """Returns the places (y, x) that an output pixel reads, from the definition, in float64."""
    row = row.astype(float)
    signed = 2 * row - 1
    across = np.array(size[::-1])
    y, x = np.mgrid[: size[0], : size[1]] - (np.array(size)[:, None, None] - 1) / 2
    x = -x if row[Draw.FLIP] < level.flip else x
    area = level.min_area + (1 - level.min_area) * row[Draw.AREA]
    aspect = level.max_aspect ** signed[Draw.ASPECT]
    width, height = min(1, math.sqrt(area * aspect)), min(1, math.sqrt(area / aspect))
    points = np.stack([x * width, y * height]).reshape(2, -1)
    angle = math.radians(signed[Draw.ANGLE] * level.rotation)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    room = (np.array([1 - width, 1 - height]) / 2) * signed[[Draw.LEFT, Draw.TOP]]
    away = across * (room + level.shift * signed[[Draw.SHIFT_X, Draw.SHIFT_Y]])
    points = turn @ points + (away + (across - 1) / 2)[:, None]
    return points[::-1].reshape(2, *size)


@pytest.mark.parametrize("size", [(16, 16), (12, 22), (21, 10)])
@pytest.mark.parametrize(
    "level",
    [
        levels.Level(rotation=90.0),
        levels.Level(min_area=0.1),
        levels.Level(max_aspect=3.0),
        levels.Level(flip=0.5, min_area=0.25, max_aspect=2.0, shift=0.2, rotation=30.0),
        dataclasses.replace(SINGLE, brightness=0, contrast=0, saturation=0, erase=0),
    ],
)
def test_geometry_is_that_of_scipy(level, size) -> None:
    images, draws = noises(30, size), draws_of(30)
    augmented, _ = apply(images, draws, level)
    for image, row, got in zip(images.astype(float), draws, augmented, strict=True):
        places = looked_up(row, size, level)
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(
                image[..., channel], places, order=1, mode="reflect"
            )
            np.testing.assert_allclose(got[..., channel], expected, atol=0.05)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    images = noises(2)
    middle = dict.fromkeys(("AREA", "ASPECT", "LEFT", "TOP", "SHIFT_X", "SHIFT_Y"), 0.5)
    draws = draws_of(2, FLIP=0.9, ANGLE=[0.0, 1.0], **middle)
    augmented, _ = apply(images, draws, levels.Level(rotation=90.0))
    np.testing.assert_allclose(augmented[0], np.rot90(images[0], -1), atol=0.01)
    np.testing.assert_allclose(augmented[1], np.rot90(images[1], 1), atol=0.01)


@pytest.mark.parametrize("size", [(8, 20), (20, 8)])
def test_a_quarter_turn_stretches_nothing_where_sides_differ(size) -> None:
    images, side, level = noises(2, size), min(size), levels.Level(rotation=90.0)
    middle = dict.fromkeys(("AREA", "ASPECT", "LEFT", "TOP", "SHIFT_X", "SHIFT_Y"), 0.5)
    draws = draws_of(2, FLIP=0.9, ANGLE=[0.0, 1.0], **middle)
    matrices = augment.transforms(tf.constant(draws), size, level).numpy()
    turns = matrices[:, [[0, 1], [3, 4]]]
    np.testing.assert_allclose(turns @ turns.transpose(0, 2, 1), [np.eye(2)] * 2, atol=1e-6)
    # The square about the middle is turned into itself.
    top, left = ((whole - side) // 2 for whole in size)
    inner = np.s_[top : top + side, left : left + side]
    augmented, _ = apply(images, draws, level)
    for number, quarters in ((0, -1), (1, 1)):
        expected = np.rot90(images[number][inner], quarters)
        np.testing.assert_allclose(augmented[number][inner], expected, atol=0.01)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_a_crop_lies_inside_the_image_and_keeps_the_area_and_aspect_asked_for(size) -> None:
    level = levels.Level(min_area=0.25, max_aspect=4 / 3)
    a0, a1, a2, b0, b1, b2, *rest = (
        augment.transforms(tf.constant(draws_of(2000)), size, level).numpy().T.astype(float)
    )
    assert not np.any(a1) and not np.any(b0) and not np.any(rest)
    # The edges of the window: half a pixel beyond the centres of the outermost pixels.
    for scale, offset, side in ((a0, a2, size[1]), (b1, b2, size[0])):
        assert (scale > 0).all() and (scale <= 1).all()
        assert (offset - 0.5 * scale >= -0.5 - 1e-4).all()
        assert (offset + (side - 0.5) * scale <= side - 0.5 + 1e-4).all()
    whole = (a0 < 1) & (b1 < 1)
    assert whole.mean() > 0.7
    area, aspect = (a0 * b1)[whole], (a0 / b1)[whole]
    assert area.min() == pytest.approx(0.25, abs=0.01) and area.max() > 0.9
    assert aspect.min() == pytest.approx(3 / 4, abs=0.01)
    assert aspect.max() == pytest.approx(4 / 3, abs=0.01)


def test_colours_are_those_of_pillow() -> None:
    # Mid-tones, so that Pillow's rounding and clipping between the steps do not show.
    images = np.rint(noises(20) * 0.3 + 90).astype(np.uint8)
    draws = draws_of(20)
    level = levels.Level(brightness=0.1, contrast=0.4, saturation=0.4)
    augmented, _ = apply(images, draws, level)
    for image, row, got in zip(images, 2 * draws.astype(float) - 1, augmented, strict=True):
        picture = ImageEnhance.Color(Image.fromarray(image)).enhance(1 + 0.4 * row[Draw.SATURATION])
        picture = ImageEnhance.Contrast(picture).enhance(1 + 0.4 * row[Draw.CONTRAST])
        expected = np.asarray(picture).astype(float) + 0.1 * 255 * row[Draw.BRIGHTNESS]
        np.testing.assert_allclose(got, expected, atol=2.5)


def test_colours_that_leave_the_range_are_cut() -> None:
    images = noises(2)
    draws = draws_of(2, BRIGHTNESS=[0.0, 1.0])
    augmented, _ = apply(images, draws, levels.Level(brightness=0.5))
    np.testing.assert_allclose(augmented[0], (images[0] - 127.5).clip(0, 255), atol=1e-3)
    np.testing.assert_allclose(augmented[1], (images[1] + 127.5).clip(0, 255), atol=1e-3)


def test_no_saturation_is_grey_and_no_contrast_is_flat() -> None:
    images = noises(1)
    grey = images[0] @ np.array([0.299, 0.587, 0.114])
    faded, _ = apply(images, draws_of(1, SATURATION=0.0), levels.Level(saturation=1.0))
    np.testing.assert_allclose(faded[0], grey[..., None].repeat(3, axis=-1), atol=1e-3)
    flat, _ = apply(images, draws_of(1, CONTRAST=0.0), levels.Level(contrast=1.0))
    np.testing.assert_allclose(flat[0], np.full((16, 16, 3), grey.mean()), atol=1e-3)


def test_a_rectangle_is_erased_in_the_mean_colour() -> None:
    side, n = 40, 400
    images = noises(n, side)
    augmented, _ = apply(images, draws_of(n), levels.Level(erase=0.25))
    changed = (augmented != images).any(axis=-1)
    erased = changed.any(axis=(1, 2))
    assert 0.15 <= erased.mean() <= 0.35
    areas, aspects = [], []
    for image, got, where in zip(images[erased], augmented[erased], changed[erased], strict=True):
        rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert where.sum() == height * width == len(rows) * len(columns)
        mean = np.broadcast_to(image.mean(axis=(0, 1)), (where.sum(), 3))
        np.testing.assert_allclose(got[where], mean, atol=1e-3)
        areas.append(height * width / side**2)
        aspects.append(height / width)
    # Zhong et al., 2020, section 4.1, up to whole pixels.
    assert 0.01 <= min(areas) < 0.08 and 0.3 < max(areas) <= 0.43
    assert 0.25 <= min(aspects) < 0.5 and 2 < max(aspects) <= 4


@pytest.mark.parametrize("size", [(20, 50), (37, 16)])
def test_the_aspect_of_what_is_erased_is_one_of_pixels(size) -> None:
    n, (height, width) = 60, size
    images, draws = noises(n, size), draws_of(n, ERASE=0.0)
    augmented, _ = apply(images, draws, levels.Level(erase=1.0))
    changed = (augmented != images).any(axis=-1)
    for row, where in zip(draws.astype(float), changed, strict=True):
        area = height * width * (0.02 + 0.38 * row[Draw.ERASE_AREA])
        aspect = 0.3 ** (2 * row[Draw.ERASE_ASPECT] - 1)
        down = min(height, round(math.sqrt(area * aspect)))
        across = min(width, round(math.sqrt(area / aspect)))
        top = math.floor(row[Draw.ERASE_Y] * (height - down + 1))
        left = math.floor(row[Draw.ERASE_X] * (width - across + 1))
        expected = np.zeros(size, bool)
        expected[top : top + down, left : left + across] = True
        np.testing.assert_array_equal(where, expected)


def test_erased_rectangles_reach_every_edge() -> None:
    n, side = 300, 10
    images = noises(n, side)
    augmented, _ = apply(images, draws_of(n), levels.Level(erase=1 - 1e-6))
    changed = (augmented != images).any(axis=(0, 3))
    assert changed.all()


def checkers(n, side=20):
    """Returns n images that are black and white by turns."""
    values = np.where(np.arange(n) % 2, 255, 0).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (n, *sizes.shape(side))).copy()


@pytest.mark.parametrize("size", [20, (9, 31)])
def test_mixed_labels_are_the_shares_of_the_pixels(size) -> None:
    n = 200
    augmented, labels = apply(checkers(n, size), draws_of(n), levels.Level(mix=0.5))
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(augmented.mean(axis=(1, 2, 3)) / 255, labels[:, 1], atol=1e-5)
    mixed = (labels.max(axis=1) < 1).mean()
    assert 0.35 <= mixed <= 0.6


def test_half_of_the_mixed_images_are_cut_and_half_are_faded() -> None:
    n = 400
    draws = draws_of(n, MIX=0.0)
    augmented, _ = apply(checkers(n), draws, levels.Level(mix=1.0))
    faded = np.array([len(np.unique(image)) == 1 for image in augmented])
    grey = (augmented > 1).all(axis=(1, 2, 3)) & (augmented < 254).all(axis=(1, 2, 3))
    assert 0.4 <= grey.mean() <= 0.6
    assert (faded | np.isin(augmented, [0, 255]).all(axis=(1, 2, 3))).all()


def test_mixup_is_a_weighted_mean_with_the_next_image() -> None:
    n = 10
    images, labels = noises(n), np.eye(n, dtype=np.float32)
    draws = draws_of(n, MIX=0.0, MIX_KIND=0.9)
    augmented, mixed = apply(images, draws, levels.Level(mix=1.0), labels)
    share = draws[:, Draw.MIX_SHARE].astype(float)[:, None, None, None]
    expected = (1 - share) * images + share * np.roll(images, -1, axis=0)
    np.testing.assert_allclose(augmented, expected, atol=1e-3)
    share = share[:, :, 0, 0]
    np.testing.assert_allclose(
        mixed, (1 - share) * labels + share * np.roll(labels, -1, 0), atol=1e-6
    )


@pytest.mark.parametrize("size", [(20, 20), (14, 33)])
def test_cutmix_pastes_a_part_of_the_next_image_that_has_its_form(size) -> None:
    n = 40
    images = noises(n, size)
    draws = draws_of(n, MIX=0.0, MIX_KIND=0.1)
    augmented, labels = apply(images, draws, levels.Level(mix=1.0), np.eye(n, dtype=np.float32))
    for place in range(n):
        other = (place + 1) % n
        pasted = (augmented[place] != images[place]).any(axis=-1)
        sides = [round(math.sqrt(draws[place, Draw.MIX_SHARE]) * side) for side in size]
        rows, columns = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
        assert [len(rows), len(columns)] == (sides if all(sides) else [0, 0])
        assert pasted.sum() == math.prod(sides)
        np.testing.assert_array_equal(augmented[place][pasted], images[other][pasted])
        assert labels[place, other] == pytest.approx(math.prod(sides) / math.prod(size), abs=1e-6)


def test_shares_are_uniform_as_with_alpha_one() -> None:
    n = 500
    draws = draws_of(n, MIX=0.0, MIX_KIND=0.9)
    _, labels = apply(checkers(n, side=2), draws, levels.Level(mix=1.0))
    share = np.where(np.arange(n) % 2, labels[:, 0], labels[:, 1])
    assert np.quantile(share, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.07)


def test_one_image_mixed_with_itself_is_itself() -> None:
    images = noises(1)
    augmented, labels = apply(images, draws_of(1, MIX=0.0), levels.Level(mix=1.0))
    np.testing.assert_allclose(augmented, images, atol=1e-3)
    np.testing.assert_allclose(labels, [[1, 0]], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_channel_moves_as_those_of_rgb_do(channels) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 14, 18, channels)).astype(np.uint8)
    draws = draws_of(6)
    for name in ("light", "medium", "strong"):
        level = dataclasses.replace(
            levels.LEVELS[name], brightness=0.0, contrast=0.0, saturation=0.0, mix=0.0
        )
        augmented, _ = apply(images, draws, level)
        for channel in range(channels):
            alone, _ = apply(images[..., [channel] * 3], draws, level)
            np.testing.assert_allclose(augmented[..., channel], alone[..., 0], atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_channels_that_are_no_colours_have_contrast_and_brightness_alone(channels) -> None:
    images = np.random.default_rng(0).integers(70, 180, (6, 8, 9, channels)).astype(np.uint8)
    draws = draws_of(6)
    level = levels.Level(brightness=0.1, contrast=0.4, saturation=0.4)
    augmented, _ = apply(images, draws, level)
    for image, row, got in zip(images, 2 * draws.astype(float) - 1, augmented, strict=True):
        contrast, mean = 1 + 0.4 * row[Draw.CONTRAST], image.mean()
        expected = mean + contrast * (image - mean) + 25.5 * row[Draw.BRIGHTNESS]
        np.testing.assert_allclose(got, expected.clip(0, 255), atol=1e-3)
