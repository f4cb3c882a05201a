"""Images in memory: every shape and type that is an image, and none that is not."""

import numpy as np
import pytest

from finetune_kit import checks, data
from finetune_kit.data import arrays
from tests.data import samples


def listed(images, labels, **more):
    return arrays.list_arrays(arrays.Arrays(images, labels, **more))


def pictures(n, **more):
    return np.stack([samples.noise(4, 5, seed=i, **more) for i in range(n)])


def test_integer_labels_are_names_in_numeric_order() -> None:
    found = listed(pictures(12), np.arange(12))
    assert found.classes == tuple(str(i) for i in range(12))
    assert found.labels == found.classes and set(found.splits) == {""}
    assert found.names[0] == "array[0]" and found.names[11] == "array[11]"


def test_integer_labels_take_the_names_that_are_given() -> None:
    found = listed(pictures(3), [2, 0, 2], class_names=("x", "y", "z"))
    assert found.labels == ("z", "x", "z") and found.classes == ("x", "y", "z")


def test_labels_that_are_names_come_in_natural_order() -> None:
    found = listed(pictures(3), ["c10", "c2", "c10"])
    assert found.labels == ("c10", "c2", "c10") and found.classes == ("c2", "c10")
    found = listed(pictures(3), ["b", "a", "b"], class_names=["b", "a"])
    assert found.classes == ("b", "a")


def test_splits_are_known_by_several_names() -> None:
    found = listed(pictures(3), [0, 1, 0], split=("training", "val", "test"))
    assert found.splits == ("train", "validation", "test")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 200]], np.uint8), [[[0] * 3, [200] * 3]]),
        (np.array([[[7], [255]]], np.int64), [[[7] * 3, [255] * 3]]),
        (np.array([[[1, 2, 3]]], np.uint16), [[[1, 2, 3]]]),
        (np.array([[[0.4, 0.6, 254.6]]], np.float32), [[[0, 1, 255]]]),
        (np.array([[1.5, 2.5]], np.float64), [[[2] * 3, [2] * 3]]),
        ([[3, 4]], [[[3] * 3, [4] * 3]]),
    ],
)
def test_images_become_three_channels_of_whole_numbers(image, expected) -> None:
    pixels = arrays.ArrayReader([image]).read(0)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_images_may_differ_in_size() -> None:
    images = [samples.noise(4, 5), samples.noise(9, 3)]
    found = listed(images, [0, 1])
    for position, image in enumerate(images):
        np.testing.assert_array_equal(found.reader.read(position), image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"An image must be .* position=0, shape=\(4, 4, 4\)"),
        (np.zeros(4, np.uint8), r"An image must be .* shape=\(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not empty. Received: position=0, shape=\(0, 4, 3\)"),
        (np.zeros((2, 2), bool), "Pixels must be numbers. Received: position=0, dtype='bool'"),
        (np.full((2, 2), "x"), "Pixels must be numbers"),
        (np.full((2, 2), np.nan), r"finite and lie in \[0, 255\]. Received: position=0"),
        (np.full((2, 2), np.inf), "Pixels must be finite"),
        (np.full((2, 2), -1), "Pixels must be finite and lie in"),
        (np.full((2, 2), 256), "Pixels must be finite and lie in"),
    ],
)
def test_what_is_no_image_is_refused_with_its_position(image, words) -> None:
    with pytest.raises(checks.DataError, match=words):
        arrays.ArrayReader([image]).read(0)


@pytest.mark.parametrize(
    ("labels", "more", "words"),
    [
        ([0, 1], {}, "a label .* for each image. Received: images=3, labels=2, split=3"),
        ([0, 1, 0], {"split": ["train"]}, "images=3, labels=3, split=1"),
        ([0, 1, 0], {"split": ["train", "dev", "train"]}, "one of train, .* Received: dev$"),
        ([0, 1, 2], {"class_names": ["a", "b"]}, r"lie in \[0, 2\). Received: lowest=0, highest=2"),
        ([0, 1, -1], {}, r"lie in \[0, 2\). Received: lowest=-1"),
        (["a", "b", "x"], {"class_names": ["a", "b"]}, r"be class names. Received: \['x'\]"),
        ([0.0, 1.0, 0.0], {}, "n integers or n class names. Received: .*dtype='float64'"),
        (np.eye(3, dtype=int), {}, r"n integers or n class names. Received: shape=\(3, 3\)"),
        ([True, False, True], {}, "n integers or n class names. Received: .*dtype='bool'"),
    ],
)
def test_labels_and_splits_that_do_not_fit_are_refused(labels, more, words) -> None:
    with pytest.raises(checks.DataError, match=words):
        listed(pictures(3), labels, **more)


def test_no_image_at_all_is_refused() -> None:
    with pytest.raises(checks.DataError, match="Received: images=0, labels=0"):
        listed([], [])


def test_floats_that_were_divided_by_255_are_refused() -> None:
    unit = pictures(2) / 255
    for images in (unit, list(unit.astype(np.float32))):
        with pytest.raises(checks.DataError, match=r"none of them above 1. Multiply them by 255"):
            listed(images, [0, 1])
    # One image in the full range, or integers, say that the scale is the right one.
    listed([unit[0], unit[1] * 255], [0, 1])
    listed(np.ones((2, 4, 4), np.uint8), [0, 1])


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_images_may_have_other_channels(channels) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 6, channels)).astype(np.uint8)
    source = arrays.Arrays(pixels, np.arange(20) % 2)
    images = data.load(source, image_size=(5, 6), channels=channels)
    kept = images.train.store.batch(images.train.indices)
    np.testing.assert_array_equal(kept, pixels[images.train.indices])
    # Grey values are not repeated but for RGB, and RGB is not taken for anything else.
    with pytest.raises(checks.DataError, match=rf"\[h, w, {channels}\] and not empty. Rec"):
        data.load(arrays.Arrays(np.zeros((20, 5, 6, 3)) + 9, np.arange(20) % 2),
                  image_size=5, channels=channels)  # fmt: skip
    for wrong in (0, 65):
        with pytest.raises(checks.ConfigError, match="channels must lie in"):
            data.load(source, image_size=5, channels=wrong)
