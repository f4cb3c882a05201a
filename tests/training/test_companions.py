"""Training beside a source task: what the source's share does, and what it leaves alone."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from finetune_kit import checks, data, features, strategy, training
from finetune_kit.data import pairs, pipeline
from finetune_kit.training import running
from tests.training import squares
from tests.training.test_resuming import Interrupt

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0)


@pytest.fixture(scope="module")
def source():
    """Squares of three colours, whose classes are the parity of their place besides: six."""
    images = data.load_pool(squares.images(12, seed=7), image_size=squares.SIDE).images
    return dataclasses.replace(images, labels=2 * images.labels + np.arange(36) % 2)


def chosen_for(images, seed=0, low=0, high=36):
    return np.random.default_rng(seed).integers(low, high, (len(images.train), 4))


def accompany(classifier, images, source, *, weight=0.5, chosen=None):
    chosen = chosen_for(images) if chosen is None else chosen
    return training.accompany(classifier, images.train, source, chosen, weight=weight)


def values(classifier) -> dict[str, np.ndarray]:
    return {v.path: np.array(v) for v in classifier.model.weights}


def train(images, source, phases, options=OPTIONS, *, weight=0.5, **more):
    """Returns classifier and outcome; a weight of None trains without a companion."""
    classifier = squares.classifier()
    companion = None if weight is None else accompany(classifier, images, source, weight=weight)
    outcome = training.run(classifier, phases, images, options, companion=companion, **more)
    return classifier, outcome


def assert_close(one, other, **tolerance):
    for path, value in values(one).items():
        np.testing.assert_allclose(values(other)[path], value, **tolerance)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_source_of_weight_0_changes_nothing(source, smoothing) -> None:
    images = dataclasses.replace(squares.load(per_class=6), folds=())
    options = dataclasses.replace(OPTIONS, label_smoothing=smoothing)
    phases = squares.phases(augment="medium")
    plain, expected = train(images, source, phases, options, weight=None)
    joint, found = train(images, source, phases, options, weight=0.0)
    assert_close(plain, joint, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["accuracy"] == pytest.approx(theirs["accuracy"])
    assert_moved(squares.classifier(), joint)


def assert_moved(one, other):
    assert all(not np.array_equal(values(one)[p], values(other)[p]) for p in ("one/kernel",))


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_a_step_is_that_of_both_losses(source, weight) -> None:
    """One SGD step over all images and their partners, against gradients taken by hand."""
    images = dataclasses.replace(squares.load(per_class=4), folds=())
    twin = squares.classifier()
    companion = accompany(twin, images, source, weight=weight)
    rates = {"stem": 0.1, "stage_1": 0.5, "head": 1.0}
    phase = strategy.Phase(name="sgd", multipliers=rates, learning_rate=0.2, epochs=1)
    options = training.Options(
        optimizer="sgd", batch_size=100, weight_decay=0.0, clip_norm=0.0, guard=False
    )
    classifier = squares.classifier()
    training.run(classifier, (phase,), images, options, companion=companion)

    places = pipeline.places_of(images.train, "natural", 0, seed=options.seed)
    rows = companion.beside(images.train).neighbours
    beside = pairs.partners_at(rows, places, seed=options.seed, epoch=0)
    own = images.train.take(places[:, 0])
    others = companion.images.take(beside)
    with tf.GradientTape() as tape:
        loss = (1 - weight) * cross_entropy(twin.model, own)
        seen = twin.features(pixels(others), training=False)
        logits = seen @ companion.kernel + companion.bias
        loss += weight * tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(others.labels, logits)
        )
    kernels = {v.path: v.value for v in twin.model.trainable_variables if "_bn" not in v.path}
    gradients = tape.gradient(loss, kernels)
    after, start = values(classifier), values(twin)
    for path, rate in {"one/kernel": 0.02, "two/kernel": 0.1, "head/kernel": 0.2}.items():
        step = after[path] - start[path]
        np.testing.assert_allclose(step, -rate * gradients[path].numpy(), rtol=2e-3, atol=1e-6)


def pixels(split):
    return split.store.batch(split.indices).astype(np.float32)


def cross_entropy(model, split):
    logits = model(pixels(split), training=False)
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(split.labels, logits))


def test_the_share_is_whole_until_it_fades_as_a_cosine(source) -> None:
    companion = accompany(squares.classifier(), squares.load(), source, weight=0.4)
    found = companion.shares(epochs=range(2, 12), begin=2, total=10, steps=50)
    assert found.dtype == np.float32 and found.shape == (500,)
    for step, share in enumerate(found):
        now = (step + 0.5) / 500
        expected = 0.4 if now < 0.7 else 0.2 * (1 + math.cos(math.pi * (now - 0.7) / 0.3))
        assert share == pytest.approx(expected, abs=1e-6)
    assert found[349] == np.float32(0.4) > found[352] and 0 < found[-1] < 1e-4
    # A run that goes on, goes on where it was.
    later = companion.shares(epochs=range(9, 12), begin=2, total=10, steps=50)
    np.testing.assert_array_equal(later, found[350:])


def test_only_what_was_chosen_comes_along(source) -> None:
    classifier, images = squares.classifier(), squares.load()
    chosen = chosen_for(images, high=20)
    companion = accompany(classifier, images, source, chosen=chosen)
    assert len(companion.images) == len(np.unique(chosen)) <= 20
    rows = companion.beside(images.train).neighbours
    assert rows.shape == chosen.shape
    names = np.array(companion.images.names)[rows]
    np.testing.assert_array_equal(names, np.array(source.names)[chosen])
    # Of a part, the part's rows.
    part = np.array([5, 2, 9])
    np.testing.assert_array_equal(companion.beside(images.train.take(part)).neighbours, rows[part])


def test_classes_that_were_not_chosen_get_no_output(source) -> None:
    classifier, images = squares.classifier(), squares.load()
    few = np.flatnonzero(np.isin(source.labels, [1, 4, 5]))
    chosen = few[chosen_for(images, high=len(few))]
    companion = accompany(classifier, images, source, chosen=chosen)
    assert companion.num_classes == 3 == companion.kernel.shape[1] == len(companion.bias)
    compact = {1: 0, 4: 1, 5: 2}
    places = {name: i for i, name in enumerate(source.names)}
    for name, label in zip(companion.images.names, companion.images.labels, strict=True):
        assert compact[int(source.labels[places[name]])] == label


def test_the_source_s_head_begins_solved(source) -> None:
    classifier, images = squares.classifier(), squares.load()
    colours = dataclasses.replace(source, labels=source.labels // 2)
    companion = accompany(classifier, images, colours)
    logits = features.extract(classifier, companion.images) @ companion.kernel + companion.bias
    assert (logits.argmax(axis=1) == companion.images.labels).mean() > 0.8


def test_the_history_is_that_of_the_target(source) -> None:
    images = squares.load(noise=30.0)
    classifier = squares.classifier()
    loss = float(cross_entropy(classifier.model, images.train))
    logits = classifier.model.predict(pixels(images.train), verbose=0)
    accuracy = (logits.argmax(axis=1) == images.train.labels).mean()
    phase = squares.phases(epochs=1, rate=1e-12)[1]
    _, outcome = train(images, source, (dataclasses.replace(phase, augment="none"),))
    assert outcome.history[0]["loss"] == pytest.approx(loss, rel=1e-4)
    assert outcome.history[0]["accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_scores_and_model_are_the_target_s_alone(source) -> None:
    images, bare = squares.load(), squares.classifier()
    classifier, outcome = train(images, source, squares.phases())
    labels, probabilities = outcome.validation
    assert probabilities.shape == (len(images.validation), 3)
    np.testing.assert_array_equal(labels, images.validation.labels)
    paths = {v.path for v in classifier.predictor().weights}
    assert paths == {v.path for v in bare.model.weights}
    assert classifier.predictor().output_shape == (None, 3)


def test_the_source_teaches_the_body(source) -> None:
    images = squares.load()
    plain, _ = train(images, source, squares.phases(), weight=None)
    joint, _ = train(images, source, squares.phases())
    assert not np.allclose(values(plain)["one/kernel"], values(joint)["one/kernel"], atol=1e-3)


def test_every_course_begins_with_the_solved_source_head(source, monkeypatch) -> None:
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    images = squares.load(per_class=6)
    phases = (squares.phases(epochs=2)[1],)
    options = dataclasses.replace(OPTIONS, guard=False)
    folded, _ = train(images, source, phases, options)
    alone, _ = train(dataclasses.replace(images, folds=()), source, phases, options)
    assert_close(alone, folded, rtol=1e-4, atol=1e-6)


def test_a_run_that_is_interrupted_ends_where_it_would_have(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    images, phases = squares.load(), squares.phases(epochs=4, augment="medium")
    store = {"checkpoints": training.CheckpointStore(tmp_path), "identity": {}}
    whole, expected = train(images, source, phases)
    with pytest.raises(KeyboardInterrupt):
        train(images, source, phases, callbacks=[Interrupt(7)], **store)
    resumed, found = train(images, source, phases, resume=True, **store)
    assert_close(whole, resumed, rtol=1e-3, atol=1e-5)
    assert [row["loss"] for row in found.history] == pytest.approx(
        [row["loss"] for row in expected.history], rel=1e-3
    )


def test_an_explosion_starts_both_heads_again(source) -> None:
    images = squares.load()
    options = training.Options(optimizer="sgd", clip_norm=0.0, weight_decay=0.0, batch_size=8)
    (_, phase) = squares.phases(epochs=2, rate=100.0)
    joint, outcome = train(images, source, (phase,), options)
    lowered = 10.0 ** -len(outcome.restarts)
    assert outcome.restarts
    slow = dataclasses.replace(phase, learning_rate=100.0 * lowered)
    expected, _ = train(images, source, (slow,), options)
    assert_close(expected, joint, rtol=1e-3, atol=1e-5)


def test_averages_penalties_and_even_sampling_go_with_it(source) -> None:
    options = dataclasses.replace(OPTIONS, ema=0.9, l2_sp=0.1, imbalance="sampling")
    classifier, _ = train(squares.load(), source, squares.phases(), options)
    assert all(np.isfinite(value).all() for value in values(classifier).values())


def test_a_source_of_one_class_is_refused(source) -> None:
    images = squares.load()
    few = np.flatnonzero(source.labels == 3)
    with pytest.raises(checks.DataError, match="at least 2 classes. Received: 6 chosen ones"):
        accompany(squares.classifier(), images, source, chosen=few[chosen_for(images, high=6)])


def test_a_companion_must_fit(source) -> None:
    images = squares.load()
    companion = accompany(squares.classifier(), images, source)
    with pytest.raises(checks.ConfigError, match=r"source_weight must lie in \[0, 1\)"):
        dataclasses.replace(companion, weight=1.0)
    with pytest.raises(checks.ConfigError, match="row of neighbours"):
        dataclasses.replace(companion, places=companion.places[1:])
    with pytest.raises(checks.ConfigError, match="needs neighbours. Received: without="):
        companion.beside(images.test)
