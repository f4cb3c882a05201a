"""Relative gradient norms against the gradient of a linear network, taken by hand."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special

from finetune_kit import backbones, training
from finetune_kit.backbones import types
from finetune_kit.data import pipeline
from finetune_kit.training import gradients
from tests.training import squares


def linear():
    """Returns a classifier of two 1x1 convolutions with a pooling between them, and no more."""
    keras.utils.set_random_seed(5)
    pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 255)(pixels)
    x = keras.layers.Conv2D(4, 1, name="one", bias_initializer="random_normal")(x)
    x = keras.layers.AveragePooling2D(2, name="pool")(x)
    x = keras.layers.BatchNormalization(name="two_bn")(x)
    x = keras.layers.Conv2D(5, 1, use_bias=False, name="two")(x)
    model = keras.Model(pixels, x)
    stages = backbones.find_stages(model)
    assert [stage.name for stage in stages] == ["stem", "stage_1"]
    return backbones.attach_head(types.Backbone("own", model, stages, 16, "none"), 3, seed=5)


def by_hand(classifier, pixels, labels):
    """Returns the ratios of both stages on one batch: everything is linear in the mean pixel."""
    a, b = (np.array(v, np.float64) for v in classifier.model.get_layer("one").weights)
    c = np.array(classifier.model.get_layer("two").kernel, np.float64)[0, 0]
    head, bias = (np.array(v, np.float64) for v in classifier.head.weights)
    a, shrink = a[0, 0], 1 / np.sqrt(1 + 1e-3)  # BatchNorm that has seen nothing
    mean = pixels.astype(np.float64).mean(axis=(1, 2)) / 255
    hidden = (mean @ a + b) * shrink
    probabilities = scipy.special.softmax(hidden @ c @ head + bias, axis=1)
    error = (probabilities - np.eye(3)[labels]) / len(labels)
    to_c = hidden.T @ (error @ head.T)
    back = error @ head.T @ c.T * shrink
    to_a, to_b = mean.T @ back, back.sum(axis=0)

    def ratio(slopes, values):
        norms = [np.sqrt(sum(np.sum(x**2) for x in part)) for part in (slopes, values)]
        return norms[0] / norms[1]

    return {"stem": ratio((to_a, to_b), (a, b)), "stage_1": ratio((to_c,), (c,))}


@pytest.mark.parametrize("frozen", [False, True])
def test_ratios_are_those_of_gradients_taken_by_hand(frozen) -> None:
    classifier, images = linear(), squares.load(count=10)
    if frozen:  # as a probe leaves it
        for layer in classifier.backbone.model.layers:
            layer.trainable = False
    split = images.train
    pixels = split.store.batch(split.indices)
    found = gradients.relative_gradient_norms(classifier, split, batch_size=100)
    expected = by_hand(classifier, pixels, split.labels)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_ratios_are_averaged_over_the_first_five_batches_of_an_epoch() -> None:
    classifier, images = linear(), squares.load()
    split = images.train
    assert len(split) > 5 * 6
    places = pipeline.places_of(split, "natural", 0, seed=2)[:, 0]
    batches = [split.take(places[start : start + 6]) for start in range(0, 30, 6)]
    each = [by_hand(classifier, b.store.batch(b.indices), b.labels) for b in batches]
    found = gradients.relative_gradient_norms(classifier, split, batch_size=6, seed=2)
    for name in found:
        assert found[name] == pytest.approx(np.mean([r[name] for r in each]), rel=1e-4)
    again = gradients.relative_gradient_norms(classifier, split, batch_size=6, seed=2)
    assert found == again


def test_a_stage_of_batch_norm_alone_has_nothing_to_measure() -> None:
    pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    x = keras.layers.MaxPooling2D(2)(keras.layers.BatchNormalization()(pixels))
    model = keras.Model(pixels, keras.layers.Conv2D(5, 1, name="two")(x))
    stages = backbones.find_stages(model)
    classifier = backbones.attach_head(types.Backbone("own", model, stages, 16, "none"), 3)
    found = gradients.relative_gradient_norms(classifier, squares.load().train)
    assert found["stem"] == 0.0 and found["stage_1"] > 0.0


@pytest.mark.parametrize("statistics", ["source", "target"])
def test_at_the_probe_the_head_is_solved_and_all_is_put_back(statistics) -> None:
    classifier, images = squares.classifier(), squares.load()
    before = [np.array(v) for v in classifier.model.variables]
    options = training.Options(batch_size=8, batch_norm_statistics=statistics)
    found = training.gradients_at_probe(classifier, images.train, options)
    for variable, value in zip(classifier.model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)

    twin, data = squares.classifier(), dataclasses.replace(images, validation=None)
    training.run(twin, squares.phases()[:1], data, options)
    expected = gradients.relative_gradient_norms(twin, images.train, batch_size=8)
    assert found == pytest.approx(expected, rel=1e-5)
    at_random = gradients.relative_gradient_norms(classifier, images.train, batch_size=8)
    assert found != pytest.approx(at_random, rel=0.01)
