"""Several sources as one: every image once, under its own class."""

import numpy as np
import pytest

from finetune_kit import checks, data
from finetune_kit.data import rotation


def source(first, classes, n, split=()):
    """Returns n gray images of levels that count up from `first`, in turn of each class."""
    levels = np.arange(first, first + n, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (n, 4, 4, 3))
    return data.Arrays(images, [classes[i % len(classes)] for i in range(n)], classes, split)


def levels_of(split):
    return split.store.batch(split.indices)[:, 0, 0, 0]


def test_every_image_is_there_once_under_its_class() -> None:
    parts = [source(0, ("a", "b"), 20), source(100, ("c", "d", "e"), 30)]
    images = data.load(parts, image_size=4)
    assert images.class_names == ("a", "b", "c", "d", "e") and images.name == "arrays + arrays"
    seen = {}
    for split in images.splits().values():
        seen.update(zip(levels_of(split).tolist(), split.labels.tolist(), strict=True))
    assert seen == {i: i % 2 for i in range(20)} | {100 + i: 2 + i % 3 for i in range(30)}
    names = [name for split in images.splits().values() for name in split.names]
    assert len(set(names)) == 50 and {name[:2] for name in names} == {"0/", "1/"}


def test_nothing_is_scored_on_a_source_without_splits_beside_one_with() -> None:
    divided = source(0, ("a", "b"), 20, ("train",) * 14 + ("test",) * 6)
    images = data.load([divided, source(100, ("c", "d"), 30)], image_size=4)
    assert sorted(levels_of(images.test).tolist()) == list(range(14, 20))
    trained = np.concatenate([levels_of(images.train), levels_of(images.validation)])
    assert sorted(trained.tolist()) == [*range(14), *range(100, 130)]


def test_one_source_in_a_row_is_that_source() -> None:
    one = source(0, ("a", "b"), 20)
    alone, listed = data.load(one, image_size=4), data.load([one], image_size=4)
    assert alone.fingerprint == listed.fingerprint and alone.train.names == listed.train.names


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(checks.DataError, match="a name of its own.*with b more than once"):
        data.load([source(0, ("a", "b"), 8), source(9, ("b", "c"), 8)], image_size=4)


def test_images_are_turned_by_quarters() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3), dtype=np.uint8)
    images = data.load(data.Arrays(pixels, [0, 1] * 4), image_size=6, hold_out=False, per_class=1)
    train = images.train
    turned = rotation.rotations(train)
    assert len(turned) == 4 * len(train) and turned.store.size == 6
    np.testing.assert_array_equal(turned.labels, np.tile(np.arange(4), len(train)))
    batch = turned.store.batch(turned.indices)
    upright = train.store.batch(train.indices)
    for i, image in enumerate(upright):
        for k in range(4):
            # Counter-clockwise: the first row of the turned image is the last column upright.
            expected = image
            for _ in range(k):
                expected = expected.transpose(1, 0, 2)[::-1]
            np.testing.assert_array_equal(batch[4 * i + k], expected)
    some = np.array([5, 2])
    np.testing.assert_array_equal(turned.take(some).store.batch(turned.indices[some]), batch[some])
