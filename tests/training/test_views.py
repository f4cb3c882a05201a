"""Phases in which BatchNorm trains alone, with its statistics held or not."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune_kit import backbones, checks, strategy, training
from finetune_kit.backbones import types
from finetune_kit.training import running, views
from tests.training import squares
from tests.training.test_resuming import Interrupt

GROUPS = ("stem", "stage_1", "head")
AFFINE, MOVING = ("gamma", "beta"), ("moving_mean", "moving_variance")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0, guard=False)
RATE = 0.2


def plan(*, epochs: int = 1, batch_norm: str = "frozen", rate: float = RATE) -> tuple:
    """Returns one phase in which BatchNorm trains alone."""
    schedule = strategy.Schedule("constant")
    tuning = strategy.Tuning(
        learning_rate=rate, epochs=epochs, schedule=schedule, batch_norm=batch_norm, augment="none"
    )
    return (strategy.batch_norm_only(GROUPS, tuning),)


def weights(classifier) -> dict[str, np.ndarray]:
    return {v.path: np.array(v) for v in classifier.model.weights}


def used(classifier):
    """Gives a classifier statistics that no batch would have by itself."""
    generator = np.random.default_rng(0)
    for variable in classifier.model.weights:
        if variable.path.endswith(MOVING):
            low, high = {"mean": (-0.3, 0.3), "ance": (0.05, 0.3)}[variable.path[-4:]]
            variable.assign(generator.uniform(low, high, variable.shape))
    return classifier


def images():
    """Returns the toy's images, none of them held out."""
    return dataclasses.replace(squares.load(per_class=4), folds=())


@pytest.mark.parametrize("batch_norm", ["frozen", "trainable"])
def test_nothing_else_changes_to_the_last_bit(batch_norm) -> None:
    classifier = used(squares.classifier())
    before = weights(classifier)
    training.run(classifier, plan(batch_norm=batch_norm), images(), OPTIONS)
    after = weights(classifier)
    moved = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    parts = AFFINE + (MOVING if batch_norm == "trainable" else ())
    expected = {f"{name}_bn/{part}" for name in ("one", "two") for part in parts}
    assert moved == {*expected, "head/kernel", "head/bias"}


def test_a_step_with_held_statistics_is_that_of_the_formula() -> None:
    """One SGD step over all images, against gradients taken in inference mode by hand."""
    classifier, twin = used(squares.classifier()), used(squares.classifier())
    data = images()
    options = dataclasses.replace(OPTIONS, optimizer="sgd", batch_size=100, clip_norm=0.0)
    start = weights(classifier)
    training.run(classifier, plan(), data, options)
    pixels = data.train.store.batch(data.train.indices).astype(np.float32)
    trained = {v.path: v.value for v in twin.model.weights if v.path.endswith(AFFINE)}
    with tf.GradientTape() as tape:
        tape.watch(trained)
        logits = twin.model(pixels, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(data.train.labels, logits)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, trained)
    after = weights(classifier)
    assert len(gradients) == 4
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(
            after[path] - start[path], -RATE * gradient.numpy(), rtol=2e-3, atol=1e-6
        )


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_held_network_trains_in_inference_mode(precision) -> None:
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        classifier = used(squares.classifier())
        view = views.held(classifier.model)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    split = squares.load().train
    pixels = split.store.batch(split.indices[:9]).astype(np.float32)
    before = weights(classifier)
    expected = classifier.model(pixels, training=False)
    np.testing.assert_array_equal(view(pixels, training=True), expected)
    assert not np.allclose(classifier.model(pixels, training=True), expected, rtol=0.01)
    assert {id(v) for v in view.weights} == {id(v) for v in classifier.model.weights}
    for path in before:
        if "_bn" not in path:
            np.testing.assert_array_equal(weights(classifier)[path], before[path])


def test_a_network_without_batch_norm_is_refused_before_anything_is_done() -> None:
    pixels = keras.Input((squares.SIDE, squares.SIDE, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.Conv2D(4, 3)(pixels))
    backbone = types.Backbone("plain", model, backbones.find_stages(model), 16, "none")
    classifier = backbones.attach_head(backbone, 3)
    before, tuning = weights(classifier), strategy.Tuning(learning_rate=0.1, epochs=1)
    groups = ("stem", "head")
    phases = (strategy.probe(groups), strategy.batch_norm_only(groups, tuning))
    with pytest.raises(checks.ConfigError, match="none in stem of 'plain'. Choose another network"):
        training.run(classifier, phases, squares.load(), OPTIONS)
    for path, value in weights(classifier).items():
        np.testing.assert_array_equal(value, before[path])


def test_momentum_is_left_alone_where_statistics_are_held() -> None:
    classifier = squares.classifier()
    training.run(classifier, plan(), images(), OPTIONS)
    assert classifier.model.get_layer("one_bn").momentum == 0.99


@pytest.mark.parametrize("batch_norm", ["frozen", "trainable"])
def test_a_run_that_goes_on_ends_where_it_would_have(tmp_path, monkeypatch, batch_norm) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    way = plan(epochs=3, batch_norm=batch_norm, rate=0.01), images(), OPTIONS
    expected, resumed = squares.classifier(dropout=0.3), squares.classifier(dropout=0.3)
    training.run(expected, *way)
    store, killed = training.CheckpointStore(tmp_path), squares.classifier(dropout=0.3)
    with pytest.raises(KeyboardInterrupt):
        training.run(killed, *way, checkpoints=store, callbacks=[Interrupt(3)])
    training.run(resumed, *way, checkpoints=store, resume=True)
    for path, value in weights(expected).items():
        np.testing.assert_allclose(weights(resumed)[path], value, rtol=1e-3, atol=1e-5)
