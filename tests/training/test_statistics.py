"""BatchNorm's running statistics, against those of the images."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks, data, features, strategy, training
from finetune_kit.backbones import types
from finetune_kit.training import running, statistics
from tests.training import squares
from tests.training.test_resuming import Interrupt

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


def deep(depth: int = 5, **norm: object):
    """Returns a classifier of some convolutions, each behind a BatchNorm layer."""
    keras.utils.set_random_seed(7)
    pixels = x = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    for number in range(depth):
        x = keras.layers.Conv2D(6, 3, 1 + number % 2, "same", name=f"conv_{number}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{number}", **norm)(x)
        x = keras.layers.ReLU(name=f"relu_{number}")(x)
        x = keras.layers.Dropout(0.5, name=f"dropout_{number}")(x)
    model = keras.Model(pixels, x)
    backbone = types.Backbone("own", model, backbones.find_stages(model), squares.SIDE, "none")
    return backbones.attach_head(backbone, 3)


def norms_of(classifier) -> list:
    layers = classifier.backbone.model.layers
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def layer_by_layer(classifier, split) -> None:
    """Measures every layer with those before it already measured: the definition itself."""
    pixels = split.store.batch(split.indices).astype(np.float32)
    for layer in norms_of(classifier):
        x = keras.Model(classifier.model.inputs[0], layer.input)(pixels).numpy().astype(np.float64)
        layer.moving_mean.assign(x.mean(axis=(0, 1, 2)))
        layer.moving_variance.assign(x.var(axis=(0, 1, 2)))


def moments(classifier) -> list[np.ndarray]:
    norms = norms_of(classifier)
    return [np.array(v) for n in norms for v in (n.moving_mean, n.moving_variance)]


@pytest.mark.parametrize("norm", [{}, {"scale": False, "epsilon": 0.01}, {"center": False}])
def test_statistics_of_the_target_are_those_of_a_pass_layer_by_layer(norm) -> None:
    split = squares.load().train
    exact, found = deep(**norm), deep(**norm)
    layer_by_layer(exact, split)
    statistics.re_estimate(found, split, seed=0)  # one batch holds all images
    for ours, theirs in zip(moments(found), moments(exact), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(moments(exact)[0]).max() > 1.0  # far from where they began


@pytest.mark.parametrize(("images", "tolerance"), [(24, 0.01), (5, 0.025)])
def test_several_batches_come_near_to_it(monkeypatch, images, tolerance) -> None:
    """Even where the images lie class by class."""
    split = squares.load(count=40).train
    split = split.take(np.argsort(split.labels, kind="stable"))
    exact, found = deep(), deep()
    layer_by_layer(exact, split)
    monkeypatch.setattr(statistics, "PIXELS", images * squares.SIDE**2)
    statistics.re_estimate(found, split, seed=0)
    for ours, theirs in zip(norms_of(found), norms_of(exact), strict=True):
        deviation = np.sqrt(theirs.moving_variance)
        apart = (np.array(ours.moving_mean) - np.array(theirs.moving_mean)) / deviation
        assert np.abs(apart).max() < tolerance
        ratio = np.sqrt(ours.moving_variance) / deviation
        assert np.abs(ratio - 1).max() < tolerance
    # The first layer has none before it, so batches of any size give the same.
    for ours, theirs in zip(moments(found)[:2], moments(exact)[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_batch_is_as_large_as_its_pixels_allow_whatever_its_form(monkeypatch) -> None:
    pixels = keras.Input((8, 12, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.BatchNormalization()(pixels))
    backbone = types.Backbone("own", model, backbones.find_stages(model), (8, 12), "none")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 12, 3))
    train = data.load(data.Arrays(images, np.arange(20) % 2), image_size=(8, 12)).train
    taken, batches = [], data.evaluation_batches

    def spy(split, *, batch_size):
        taken.append(batch_size)
        return batches(split, batch_size=batch_size)

    monkeypatch.setattr(statistics, "PIXELS", 5 * 8 * 12)
    monkeypatch.setattr(data, "evaluation_batches", spy)
    statistics.re_estimate(backbones.attach_head(backbone, 2), train, seed=0)
    assert taken == [5]


def test_a_layer_that_is_used_twice_has_the_moments_of_both_uses() -> None:
    pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    norm = keras.layers.BatchNormalization(name="norm")
    x = keras.layers.Rescaling(3.0, offset=7.0)(norm(keras.layers.Rescaling(1 / 255)(pixels)))
    model = keras.Model(pixels, keras.layers.Conv2D(3, 1)(norm(x)))
    backbone = types.Backbone("own", model, backbones.find_stages(model), squares.SIDE, "none")
    split = squares.load().train
    statistics.re_estimate(backbones.attach_head(backbone, 3), split, seed=0)
    first = split.store.batch(split.indices).reshape(-1, 3) / 255
    second = 3 * (first - first.mean(axis=0)) / np.sqrt(first.var(axis=0) + 1e-3) + 7
    both = np.concatenate([first, second])
    np.testing.assert_allclose(norm.moving_mean, both.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, both.var(axis=0), rtol=1e-4)


def test_nothing_but_the_statistics_changes_and_twice_is_once() -> None:
    split, classifier = squares.load().train, deep()
    before = {v.path: np.array(v) for v in classifier.model.variables}
    flags = [layer.trainable for layer in classifier.model._flatten_layers()]
    statistics.re_estimate(classifier, split, seed=3)
    once = {v.path: np.array(v) for v in classifier.model.variables}
    statistics.re_estimate(classifier, split, seed=3)
    for variable in classifier.model.variables:
        np.testing.assert_array_equal(variable, once[variable.path])
        if "moving" not in variable.path:
            np.testing.assert_array_equal(variable, before[variable.path])
    assert flags == [layer.trainable for layer in classifier.model._flatten_layers()]


def test_batch_norm_within_a_layer_cannot_be_measured() -> None:
    inner = keras.Sequential([keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()])
    pixels = keras.Input((16, 16, 3), name="pixels")
    model = keras.Model(pixels, inner(pixels))
    backbone = types.Backbone("own", model, backbones.find_stages(model), 16, "none")
    with pytest.raises(checks.ConfigError, match="batch_normalization.* inside another layer"):
        statistics.re_estimate(backbones.attach_head(backbone, 3), squares.load().train, seed=0)


def test_the_probe_is_solved_on_features_with_the_statistics_of_the_target() -> None:
    images, classifier, twin = squares.load(), squares.classifier(), squares.classifier()
    options = dataclasses.replace(OPTIONS, batch_norm_statistics="target")
    training.run(classifier, squares.phases()[:1], images, options)
    layer_by_layer(twin, images.train)
    rows = features.extract(twin, images.train)
    np.testing.assert_allclose(features.extract(classifier, images.train), rows, atol=1e-4)
    solution = features.solve_head(rows, images.train.labels, num_classes=3, seed=OPTIONS.seed)
    np.testing.assert_allclose(classifier.head.get_weights()[0], solution.kernel, atol=1e-3)


def prepared(weights: str, how: str, batch_norm: str, plan=strategy.everything) -> list[np.ndarray]:
    """Returns the moving means of a toy that was made ready for a phase of training."""
    split, classifier = squares.load().train, squares.classifier()
    backbone = dataclasses.replace(classifier.backbone, weights=weights)
    classifier = dataclasses.replace(classifier, backbone=backbone)
    tuning = strategy.Tuning(learning_rate=0.01, epochs=1, batch_norm=batch_norm)
    phases = (strategy.probe(GROUPS), plan(GROUPS, tuning))
    options = dataclasses.replace(OPTIONS, batch_norm_statistics=how)
    statistics.prepare(classifier, phases, split, options)
    return [np.array(v) for v in classifier.model.variables if "moving_mean" in v.path]


def test_statistics_are_measured_before_pretrained_batch_norm_trains() -> None:
    expected = squares.classifier()
    statistics.re_estimate(expected, squares.load().train, seed=OPTIONS.seed)
    own = [np.array(v) for v in expected.model.variables if "moving_mean" in v.path]
    for how, batch_norm in (("auto", "trainable"), ("target", "trainable"), ("target", "frozen")):
        for value, other in zip(prepared("photos.h5", how, batch_norm), own, strict=True):
            np.testing.assert_allclose(value, other, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "how", "batch_norm"),
    [("photos.h5", "auto", "frozen"), ("none", "auto", "trainable"),
     ("photos.h5", "source", "trainable")],
)  # fmt: skip
def test_statistics_are_left_alone_elsewhere(weights, how, batch_norm) -> None:
    assert not any(value.any() for value in prepared(weights, how, batch_norm))


def test_stages_that_stay_frozen_keep_their_statistics() -> None:
    def last(groups, tuning):
        return strategy.last_stages(groups, 1, tuning)

    assert not any(value.any() for value in prepared("photos.h5", "auto", "trainable", last))


def test_batch_norm_within_a_layer_is_left_to_the_batches() -> None:
    inner = keras.Sequential([keras.layers.Conv2D(4, 1), keras.layers.BatchNormalization()])
    pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    model = keras.Model(pixels, inner(pixels))
    stages = backbones.find_stages(model)
    backbone = types.Backbone("own", model, stages, squares.SIDE, "own.h5")
    tuning = strategy.Tuning(learning_rate=0.01, epochs=1, batch_norm="trainable")
    classifier = backbones.attach_head(backbone, 3)
    phases = (strategy.everything(classifier.groups, tuning),)
    options = dataclasses.replace(OPTIONS, batch_norm_statistics="auto")
    statistics.prepare(classifier, phases, squares.load().train, options)
    assert not np.any(inner.layers[1].moving_mean)


def test_a_network_without_batch_norm_trains_as_before_to_the_last_bit() -> None:
    def run(**options: str) -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
        x = keras.layers.Rescaling(1 / 255)(pixels)
        model = keras.Model(pixels, keras.layers.Conv2D(4, 3, activation="relu")(x))
        stages = backbones.find_stages(model)
        backbone = types.Backbone("own", model, stages, squares.SIDE, "none")
        classifier = backbones.attach_head(backbone, 3)
        tuning = strategy.Tuning(learning_rate=0.01, epochs=1)
        phases = (strategy.probe(("stem", "head")), strategy.everything(("stem", "head"), tuning))
        settings = dataclasses.replace(OPTIONS, **options)
        training.run(classifier, phases, squares.load(), settings)
        return [np.array(v) for v in classifier.model.weights]

    for ours, theirs in zip(run(batch_norm_statistics="target"), run(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("per_class", [0, 6])
def test_a_run_that_goes_on_begins_with_the_same_statistics(
    tmp_path, monkeypatch, per_class
) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    options = dataclasses.replace(OPTIONS, batch_norm_statistics="target", guard=False)
    way = squares.phases(epochs=2), squares.load(per_class=per_class), options
    expected, resumed = squares.classifier(), squares.classifier()
    training.run(expected, *way)
    store = training.CheckpointStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training.run(squares.classifier(), *way, checkpoints=store, callbacks=[Interrupt(6)])
    training.run(resumed, *way, checkpoints=store, resume=True)
    for variable, other in zip(resumed.model.weights, expected.model.weights, strict=True):
        np.testing.assert_allclose(variable, other, rtol=1e-3, atol=1e-5)
