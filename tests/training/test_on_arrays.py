"""Training on arrays: epochs that hold every image, views by brute force, and a net that learns."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit.backbones import building
from finetune_kit.data import levels
from finetune_kit.training import on_arrays

PLAIN = on_arrays.Settings(
    epochs=6, learning_rate=0.02, weight_decay=0.01, label_smoothing=0.1, batch_size=16, seed=1
)


def marked(n):
    """Images whose every pixel is their number."""
    return np.zeros((n, 8, 8, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]


def batches(n=11, **more):
    settings = dataclasses.replace(PLAIN, batch_size=4)
    return on_arrays.Batches(marked(n), np.arange(n) % 3, classes=3, settings=settings, **more)


def epoch(made, number):
    steps = range(number * made.steps, (number + 1) * made.steps)
    return [np.concatenate(part) for part in zip(*(made[i] for i in steps), strict=True)]


def test_an_epoch_holds_every_image_in_an_order_of_its_own_and_batches_of_one_size() -> None:
    made = batches()
    assert made.steps == 3 and len(made) == 18
    orders = []
    for number in range(3):
        images, labels, weights = epoch(made, number)
        assert images.shape == (12, 8, 8, 3) and images.dtype == np.uint8
        orders.append(images[:, 0, 0, 0].astype(int).tolist())
        assert sorted(orders[-1][:11]) == list(range(11)) and orders[-1][11] == orders[-1][0]
        np.testing.assert_array_equal(labels.argmax(axis=1), np.array(orders[-1]) % 3)
        assert labels.shape == (12, 3) and (labels.sum(axis=1) == 1).all() and (weights == 1).all()
    assert orders[0] != orders[1] != orders[2]
    later = batches(first_epoch=1)
    assert len(later) == 15 and epoch(later, 0)[0][:, 0, 0, 0].tolist() == orders[1]


def test_fewer_images_than_a_batch_are_shown_more_than_once() -> None:
    images, _, _ = epoch(batches(n=3), 0)
    shown = images[:, 0, 0, 0].tolist()
    assert len(shown) == 4 and set(shown) == {0, 1, 2}


def test_of_a_share_of_the_steps_images_are_the_means_of_four_pixels() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    settings = dataclasses.replace(PLAIN, batch_size=4, halved=0.4, rotation=0.3)

    def sides(**more):
        made = on_arrays.Batches(images, np.arange(20) % 2, classes=2, settings=settings, **more)
        return [made[i][0].shape[1] for i in range(len(made))]

    assert sides()[:10] == [8, 8, 4, 8, 4, 8, 8, 4, 8, 4] and sides()[5:] == sides(first_epoch=1)
    means = keras.ops.convert_to_numpy(keras.ops.average_pool(images.astype("float32"), 2))
    np.testing.assert_array_equal(on_arrays.halve(images), np.floor(means + 0.5).astype(np.uint8))
    assert on_arrays.halve(images).dtype == np.uint8


def test_turned_images_follow_their_batch_and_have_labels_and_weights_of_their_own() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    settings = dataclasses.replace(PLAIN, batch_size=3, rotation=0.4, epochs=10)
    made = on_arrays.Batches(images, np.arange(9) % 2, classes=2, settings=settings)
    seen = set()
    for number in range(6):
        pixels, labels, weights = made[3 * number]
        assert pixels.shape[0] == 6 and labels.shape == (6, 6)
        np.testing.assert_allclose(weights, [1.2] * 3 + [0.8] * 3)
        assert (labels[:3, :2].sum(axis=1) == 1).all() and (labels[3:, :2] == 0).all()
        for upright, turned, label in zip(pixels[:3], pixels[3:], labels[3:], strict=True):
            k = label[2:].argmax()
            # Counter-clockwise: what was to the right of the middle is above it.
            np.testing.assert_array_equal(turned, np.rot90(upright, k))
            seen.add(int(k))
    assert seen == {0, 1, 2, 3}
    # In the middle of the last step, 0.983 of the phase are over.
    share = 0.4 * (1 + np.cos(np.pi * (29.5 / 30 - 0.7) / 0.3)) / 2
    np.testing.assert_allclose(made[29][2], [2 * (1 - share)] * 3 + [2 * share] * 3, rtol=1e-5)


def moved(image, *, mirror, down, right):
    """Brute force: an image mirrored and shifted; beyond an edge, the edge is a mirror."""
    source = image[:, ::-1] if mirror else image
    found = np.empty_like(image)
    side = len(image)
    for row in range(side):
        for column in range(side):
            y, x = row - down, column - right
            y = -1 - y if y < 0 else 2 * side - 1 - y if y >= side else y
            x = -1 - x if x < 0 else 2 * side - 1 - x if x >= side else x
            found[row, column] = source[y, x]
    return found


def seen_through(level, images):
    x = images.astype(np.float32)
    for layer in on_arrays.views(level, seed=3):
        x = layer(x, training=True)
    return np.asarray(x)


def test_light_views_are_mirrored_and_shifted_by_whole_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.float32)
    found = seen_through(levels.LEVELS["light"], images)
    reach = range(-2, 3)  # a tenth of the side is 1.6
    kinds = [(m, d, r) for m in (False, True) for d in reach for r in reach]
    taken = []
    for image, view in zip(images, found, strict=True):
        fits = [
            kind
            for kind in kinds
            if np.array_equal(view, moved(image, mirror=kind[0], down=kind[1], right=kind[2]))
        ]
        assert len(fits) == 1
        taken += fits
    assert len(set(taken)) > 12 and {mirror for mirror, _, _ in taken} == {False, True}


def test_a_zoom_shows_a_part_of_the_image_and_colours_change_within_bounds() -> None:
    ramp = np.broadcast_to(np.linspace(40, 200, 32)[None, None, :, None], (32, 32, 32, 3))
    found = seen_through(levels.Level(min_area=0.5), ramp)
    across = (found.max(axis=(1, 2, 3)) - found.min(axis=(1, 2, 3))) / 160
    assert across.min() > 0.5**0.5 - 0.1 and across.min() < 0.85 and across.max() < 1.01
    grey = np.full((32, 4, 4, 3), 100.0)
    brighter = seen_through(levels.Level(brightness=0.1), grey)[:, 0, 0, 0] - 100
    assert np.abs(brighter).max() <= 25.5 + 1e-3 and brighter.std() > 5
    assert not on_arrays.views(levels.Level(), seed=0)


def squares(n=60):
    labels = np.arange(n) % 3
    images = np.random.default_rng(0).integers(0, 80, (n, 16, 16, 3), dtype=np.uint8)
    images[np.arange(n), :, :, labels] += 120
    return images, labels


def trained(settings, *, after=lambda epochs, row: None, **more):
    keras.utils.set_random_seed(3)
    backbone = building.build("8|16", 16)
    on_arrays.train(backbone, *squares(), settings, after=after, **more)
    return [np.array(w) for w in backbone.weights]


@pytest.mark.parametrize("more", [{}, {"rotation": 0.3}, {"halved": 0.5}])
def test_a_network_learns(more) -> None:
    rows = []
    trained(
        dataclasses.replace(PLAIN, level=levels.LEVELS["light"], **more),
        after=lambda epochs, row: rows.append((epochs, row)),
    )
    assert [epochs for epochs, _ in rows] == [1] * 6 and rows[-1][1]["accuracy"] > 0.9


class Stop(Exception):
    """What interrupts."""


def test_a_training_that_was_interrupted_ends_as_one_that_was_not(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(on_arrays, "BACKUP_SECONDS", 0.0)
    settings = dataclasses.replace(PLAIN, level=levels.LEVELS["light"], rotation=0.3, halved=0.5)
    whole = trained(settings)
    told = []

    def stop(epochs, row):
        told.append(epochs)
        if len(told) == 4:
            raise Stop

    with pytest.raises(Stop):
        trained(settings, after=stop, backup=tmp_path)
    again = []
    resumed = trained(settings, after=lambda epochs, row: again.append(epochs), backup=tmp_path)
    assert again == [5, 1]
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
