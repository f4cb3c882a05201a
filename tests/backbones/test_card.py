"""The source card: moments and features against NumPy, and the way to the disk and back."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks, data
from finetune_kit.backbones import card


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(5, 3, strides=2, name="conv_2")(x)
    return keras.Model(pixels, keras.layers.BatchNormalization(name="bn_2")(x))


def split(n: int = 37) -> data.Split:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 2
    pixels = generator.integers(0, 256, (n, 8, 8, 3), np.uint8)
    everything = data.Arrays(pixels, labels, split=["train"] * (n - 4) + ["test", "validation"] * 2)
    return data.load(everything, image_size=8).train


def example() -> backbones.SourceCard:
    generator = np.random.default_rng(2)
    return backbones.SourceCard(
        trained_on="squares",
        terms="none",
        class_names=("a", "b"),
        image_size=8,
        accuracy={"value": 0.5, "low": 0.4, "high": 0.6, "n": 90},
        recipe={"epochs": 3},
        moments={"bn": (generator.normal(size=4), generator.uniform(size=4))},
        feature_mean=generator.normal(size=5).astype(np.float32),
        feature_covariance=(1e-6 * generator.normal(size=(5, 5))).astype(np.float32),
        prototypes=generator.normal(size=(2, 5)).astype(np.float32),
    )


@pytest.mark.parametrize("batch_size", [1, 16, 33])
def test_moments_are_those_of_all_positions_of_all_images(batch_size) -> None:
    model, images = network(), split()
    found = card.moments(model, images, batch_size=batch_size)
    pixels = images.store.batch(images.indices).astype(np.float32)
    for name in ("bn", "bn_2"):
        tap = keras.Model(model.inputs[0], model.get_layer(name).input)
        values = tap(pixels).numpy()
        flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
        np.testing.assert_allclose(found[name][0], flat.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name][1], flat.var(axis=0), rtol=1e-3, atol=1e-5)


def test_a_network_without_batch_norm_has_no_moments() -> None:
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(2, 3)(pixels))
    with pytest.raises(checks.ConfigError, match="taken at BatchNorm layers"):
        card.moments(model, split())


def test_feature_statistics_are_numpys() -> None:
    generator = np.random.default_rng(4)
    rows, labels = generator.normal(size=(50, 6)), np.arange(50) % 3
    mean, covariance, prototypes = card.feature_statistics(rows, labels, num_classes=3)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance, centred.T @ centred / 49, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prototypes[2], rows[2::3].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_card_comes_back_as_it_was_written(tmp_path) -> None:
    assert card.read(tmp_path) is None
    card.write(example(), tmp_path)
    found = card.read(tmp_path)
    for field in dataclasses.fields(found):
        ours, theirs = getattr(found, field.name), getattr(example(), field.name)
        if field.name == "moments":
            for one, other in zip(ours["bn"], theirs["bn"], strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_array_equal(ours, theirs)


def test_the_bundled_card_describes_the_bundled_weights() -> None:
    backbone = backbones.load("bundled")
    known = backbone.card
    assert known is not None and len(known.class_names) == len(known.prototypes)
    assert known.accuracy["low"] < known.accuracy["value"] < known.accuracy["high"]
    assert known.terms and known.recipe["command"].startswith("finetune-kit pretrain --data=")
    norms = {
        x.name for x in backbone.model.layers if isinstance(x, keras.layers.BatchNormalization)
    }
    assert known.moments.keys() == norms
    # BatchNorm's own running statistics were gathered in training, on augmented images.
    for name, (mean, variance) in known.moments.items():
        layer = backbone.model.get_layer(name)
        deviation = np.sqrt(variance)
        distance = np.abs(np.array(layer.moving_mean) - mean) / deviation
        assert np.median(distance) < 0.1, name
    text = (card_folder() / card.CARD).read_text(encoding="utf-8")
    assert "/" not in json.loads(text)["trained_on"].split(" ")[0].removeprefix("tfds:")


def test_the_bundled_weights_fit_into_the_wheel() -> None:
    assert 0 < (card_folder() / "bundled.weights.h5").stat().st_size <= 4 * 2**20


def card_folder():
    from finetune_kit.backbones import loading

    return loading.BUNDLED_FILES
