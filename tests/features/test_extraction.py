"""Pooled features, one row an image, against the feature map of each image alone."""

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks, features
from finetune_kit.data import store, types

SIDE, WIDTH = 8, 5


class Rows:
    """Gives the images of an array by their position."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def read(self, position: int) -> np.ndarray:
        """Returns one image."""
        return self.pixels[position]


def split_of(n, *, cached=True, size=SIDE):
    """Returns n of 2n random images in an order of their own, and their pixels [n, s, s, 3]."""
    generator = np.random.default_rng(n)
    pixels = generator.integers(0, 256, (2 * n, size, size, 3), dtype=np.uint8)
    indices = generator.permutation(2 * n)[:n]
    images = store.PixelStore(Rows(pixels), size, cache=pixels if cached else None)
    labels = np.zeros(n, np.int64)
    return types.Split(images, indices, labels, tuple(map(str, range(n)))), pixels[indices]


@pytest.fixture(scope="module")
def classifier():
    """A convolution, BatchNorm with statistics of its own and ReLU under a head of 3 classes."""
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Conv2D(WIDTH, 3, strides=2, name="conv")(pixels)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(pixels, keras.layers.ReLU(name="relu")(x))
    generator = np.random.default_rng(0)
    model.get_layer("conv").set_weights([generator.normal(size=(3, 3, 3, WIDTH)), np.zeros(WIDTH)])
    ranges = ((1, 2), (-1, 1), (-9, 9), (1e4, 2e4))  # gamma, beta, mean, variance
    model.get_layer("norm").set_weights([generator.uniform(*limits, WIDTH) for limits in ranges])
    backbone = backbones.Backbone("own", model, backbones.find_stages(model), SIDE, "none")
    return backbones.attach_head(backbone, 3, dropout=0.5)


def by_hand(classifier, pixels):
    """Returns features float64 [n, d]: convolution, BatchNorm, ReLU and mean, in NumPy."""
    model = classifier.backbone.model
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels.astype(np.float64), (3, 3), axis=(1, 2)
    )[:, ::2, ::2]
    kernel, bias = model.get_layer("conv").get_weights()
    gamma, beta, mean, variance = model.get_layer("norm").get_weights()
    x = np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias
    x = np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("cached", [True, False])
def test_rows_are_the_means_of_the_feature_maps_in_order(classifier, n, cached) -> None:
    split, pixels = split_of(n, cached=cached)
    rows = features.extract(classifier, split, batch_size=4)
    expected = by_hand(classifier, pixels)
    assert (rows.shape, rows.dtype) == ((n, WIDTH), np.float32)
    assert expected.std() > 0.1
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_no_images_have_no_rows(classifier) -> None:
    split, _ = split_of(0)
    rows = features.extract(classifier, split)
    assert (rows.shape, rows.dtype) == ((0, WIDTH), np.float32)


def test_statistics_of_batch_norm_are_used_and_left_alone(classifier) -> None:
    norm = classifier.backbone.model.get_layer("norm")
    norm.trainable = True
    before = norm.get_weights()
    split, pixels = split_of(6)
    first = features.extract(classifier, split, batch_size=6)
    np.testing.assert_allclose(first, by_hand(classifier, pixels), rtol=1e-4, atol=1e-5)
    for value, expected in zip(norm.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_batch_size_below_one(classifier) -> None:
    split, _ = split_of(2)
    with pytest.raises(checks.ConfigError, match="batch_size must lie in"):
        features.extract(classifier, split, batch_size=0)


def scored(classifier, pixels):
    """Returns probabilities float64 [n, 3] of the features by hand."""
    kernel, bias = classifier.head.get_weights()
    logits = by_hand(classifier, pixels) @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_probabilities_are_the_softmax_of_the_head_without_dropout(classifier, n) -> None:
    split, pixels = split_of(n)
    given = features.predict(classifier, split, batch_size=4)
    assert (given.shape, given.dtype) == ((n, 3), np.float64)
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(given, scored(classifier, pixels), rtol=1e-3, atol=1e-6)


def test_no_images_have_no_probabilities(classifier) -> None:
    split, _ = split_of(0)
    given = features.predict(classifier, split)
    assert (given.shape, given.dtype) == ((0, 3), np.float64)


def test_another_view_can_be_run_instead(classifier) -> None:
    split, pixels = split_of(3)
    logits = keras.ops.flip(classifier.model.outputs[0], axis=-1)
    view = keras.Model(classifier.model.inputs[0], logits)
    given = features.predict(classifier, split, model=view)
    np.testing.assert_allclose(given, scored(classifier, pixels)[:, ::-1], rtol=1e-3, atol=1e-6)
