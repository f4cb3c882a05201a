"""BatchNorm's running statistics, against those of the images."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import strategy, training
from finetune_kit.training import statistics
from tests.training import squares

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0)


def test_running_statistics_are_those_of_the_images_even_after_few_steps() -> None:
    """With Keras' momentum of 0.99, 60 steps would leave them half way."""
    images, classifier = squares.load(), squares.classifier()
    tuning = strategy.Tuning(learning_rate=1e-9, epochs=10, batch_norm="trainable", augment="none")
    options = dataclasses.replace(OPTIONS, batch_size=7)
    training.run(classifier, (strategy.everything(GROUPS, tuning),), images, options)
    layer = classifier.model.get_layer("one_bn")
    assert layer.momentum == pytest.approx(1 - 1 / 6)
    pixels = images.train.store.batch(images.train.indices).astype(np.float32)
    maps = keras.Model(classifier.model.inputs[0], layer.input)(pixels).numpy()
    np.testing.assert_allclose(layer.moving_mean, maps.mean(axis=(0, 1, 2)), rtol=0.03, atol=0.01)
    np.testing.assert_allclose(layer.moving_variance, maps.var(axis=(0, 1, 2)), rtol=0.1)


def test_frozen_and_long_phases_keep_the_layers_own_momentum() -> None:
    images, classifier = squares.load(), squares.classifier()
    training.run(classifier, squares.phases(epochs=1), images, OPTIONS)
    layer = classifier.model.get_layer("one_bn")
    assert layer.momentum == 0.99
    layer.trainable = True
    statistics.shorten_memory([layer], steps=1000)
    assert layer.momentum == 0.99
    statistics.shorten_memory([layer, classifier.head], steps=500)
    assert layer.momentum == pytest.approx(0.98)
    statistics.shorten_memory([layer], steps=2)
    assert layer.momentum == 0.75
