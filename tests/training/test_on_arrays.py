"""Training on arrays: views by brute force, epochs that hold every image, and a net that learns."""

import numpy as np
import pytest

from finetune_kit.backbones import building
from finetune_kit.training import on_arrays


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("by", [(0, 0), (2, -1), (-2, 2)])
def test_images_are_mirrored_and_shifted(images, mirror, by) -> None:
    found = on_arrays.moved(images[0], mirror=mirror, by=np.array(by))
    source = images[0][:, ::-1] if mirror else images[0]
    for row in range(16):
        for column in range(16):
            y, x = min(max(row - by[0], 0), 15), min(max(column - by[1], 0), 15)
            np.testing.assert_array_equal(found[row, column], source[y, x])


def epoch(batches):
    pixels, labels = zip(*(batches[i] for i in range(len(batches))), strict=True)
    return np.concatenate(pixels), np.concatenate(labels)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own(images) -> None:
    marked = images // 4 * 0 + np.arange(11, dtype=np.uint8)[:, None, None, None]
    made = on_arrays.Batches(marked, np.arange(11) % 3, classes=3, batch_size=4, seed=5)
    assert len(made) == 3
    orders = []
    for _ in range(3):
        pixels, labels = epoch(made)
        assert pixels.dtype == labels.dtype == np.float32
        orders.append(pixels[:, 0, 0, 0].astype(int).tolist())
        np.testing.assert_array_equal(labels.argmax(axis=1), np.array(orders[-1]) % 3)
        assert sorted(orders[-1]) == list(range(11)) and (labels.sum(axis=1) == 1).all()
        made.on_epoch_end()
    assert orders[0] != orders[1] != orders[2]
    again = on_arrays.Batches(marked, np.arange(11) % 3, classes=3, batch_size=4, seed=5)
    assert epoch(again)[0][:, 0, 0, 0].tolist() == orders[0]


def test_views_differ_and_stay_within_reach(images) -> None:
    made = on_arrays.Batches(images, np.zeros(11, int), classes=1, batch_size=11, seed=0)
    assert np.abs(made._shifts).max() <= 16 // on_arrays.SHIFT
    assert len(np.unique(made._shifts)) > 1 and 0 < made._mirrored.sum() < 11
    first = made._shifts
    made.on_epoch_end()
    assert (first != made._shifts).any()


def test_a_network_learns_and_the_same_seed_gives_the_same_weights() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = generator.integers(0, 80, (60, 16, 16, 3), dtype=np.uint8)
    images[np.arange(60), :, :, labels] += 120
    rows, kernels = [], []
    for _ in range(2):
        import keras

        keras.utils.set_random_seed(3)
        backbone = building.build("8|16", 16)
        on_arrays.train(
            backbone, images, labels, epochs=6, learning_rate=0.02, weight_decay=0.01,
            label_smoothing=0.1, batch_size=16, seed=1, after=rows.append,
        )  # fmt: skip
        kernels.append([np.array(w) for w in backbone.weights])
    assert len(rows) == 12 and rows[5]["accuracy"] > 0.9
    for one, other in zip(*kernels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
