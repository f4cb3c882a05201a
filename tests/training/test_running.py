"""Phases on a toy: what trains, which weights are kept, how a run goes on, what goes wrong."""

import dataclasses
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from finetune_kit import checks, features, metrics, strategy, training
from finetune_kit.training import course, fitter, ledger, running, scoring
from tests.training import squares

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0)


def weights(classifier) -> dict[str, np.ndarray]:
    return {v.path: np.array(v) for v in classifier.model.weights}


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """Returns the groups of the toy's layers whose bits differ."""
    names = {"one": "stem", "two": "stage_1", "head": "head"}
    changed = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    return {names[path.split("/")[0].removesuffix("_bn")] for path in changed}


@pytest.mark.parametrize("trains", [("head",), ("stage_1", "head"), GROUPS, ("stem",)])
@pytest.mark.parametrize("batch_norm", ["frozen", "trainable"])
def test_exactly_the_planned_stages_change(trains, batch_norm) -> None:
    classifier = squares.classifier()
    before = weights(classifier)
    phase = strategy.Phase(
        name="some",
        multipliers={group: float(group in trains) for group in GROUPS},
        learning_rate=0.01,
        epochs=1,
        batch_norm=batch_norm,
    )
    training.run(classifier, (phase,), squares.load(), OPTIONS)
    after = weights(classifier)
    assert moved(before, after) == set(trains)
    norms = [path for path in before if "_bn/" in path]
    changed = {path for path in norms if before[path].tobytes() != after[path].tobytes()}
    expected = {
        path
        for path in norms
        if batch_norm == "trainable" and {"one": "stem", "two": "stage_1"}[path[:3]] in trains
    }
    assert changed == expected


def test_a_step_of_the_loop_is_that_of_the_formula() -> None:
    """One SGD step over all images, against gradients taken by hand."""
    images = squares.load(per_class=4)
    classifier = squares.classifier()
    start = weights(classifier)
    phase = strategy.Phase(
        name="sgd",
        multipliers={"stem": 0.1, "stage_1": 0.5, "head": 1.0},
        learning_rate=0.2,
        epochs=1,
    )
    options = training.Options(
        optimizer="sgd", batch_size=100, weight_decay=0.0, clip_norm=0.0, guard=False
    )
    training.run(classifier, (phase,), dataclasses.replace(images, folds=()), options)
    after = weights(classifier)

    twin = squares.classifier()
    pixels = images.train.store.batch(images.train.indices).astype(np.float32)
    with tf.GradientTape() as tape:
        logits = twin.model(pixels, training=False)
        loss = tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(images.train.labels, logits)
        )
    kernels = {v.path: v.value for v in twin.model.trainable_variables if "_bn" not in v.path}
    gradients = tape.gradient(loss, kernels)
    rates = {"one/kernel": 0.02, "two/kernel": 0.1, "head/kernel": 0.2, "head/bias": 0.2}
    for path, rate in rates.items():
        step = after[path] - start[path]
        np.testing.assert_allclose(step, -rate * gradients[path].numpy(), rtol=2e-3, atol=1e-6)


def test_the_history_has_a_row_an_epoch() -> None:
    outcome = training.run(squares.classifier(), squares.phases(), squares.load(), OPTIONS)
    rows = outcome.history
    assert [row["phase"] for row in rows] == ["probe", "finetune", "finetune", "finetune"]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert rows[0]["learning_rate"] is None
    assert all(0 <= row["val_accuracy"] <= 1 and row["val_loss"] > 0 for row in rows)
    assert outcome.planned_epochs == 3


def test_the_rates_of_the_history_are_those_of_the_schedule() -> None:
    images = squares.load()
    phases = squares.phases(epochs=4, rate=0.002, schedule=strategy.Schedule("cosine"))
    outcome = training.run(squares.classifier(), phases, images, OPTIONS)
    steps = math.ceil(len(images.train) / 8)
    for epoch, row in enumerate(outcome.history[1:]):
        now = epoch + (steps - 0.5) / steps  # the middle of the epoch's last step
        expected = 0.002 * (1 + math.cos(math.pi * now / 4)) / 2
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-4)


def test_the_classifier_holds_the_weights_that_scored_the_chosen_epoch() -> None:
    images, classifier = squares.load(noise=40.0), squares.classifier()
    outcome = training.run(classifier, squares.phases(epochs=4), images, OPTIONS)
    row = next(row for row in outcome.history if row["epoch"] == outcome.chosen_epoch)
    labels, kept = outcome.validation
    probabilities = features.predict(classifier, images.validation)
    np.testing.assert_allclose(probabilities, kept, atol=1e-5)
    accuracy = metrics.score(labels, probabilities)["accuracy"].value
    assert accuracy == pytest.approx(row["val_accuracy"])


def book_of(*accuracies: float, n: int = 100) -> ledger.Ledger:
    """Returns a course whose points got the first of n images right, weights numbered."""
    book = ledger.Ledger(keep_scores=True)
    labels = np.zeros(n, np.int64)
    for point, accuracy in enumerate(accuracies):
        right = np.arange(n) < accuracy * n
        probabilities = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        row = {"phase": "finetune", "epoch": point + 1, "learning_rate": 0.1}
        book.add(row, scoring.Score.of(labels, np.log(probabilities)), [np.array(point)])
    return book


def test_a_clearly_better_earlier_epoch_is_kept() -> None:
    kept, reason = running._choose(book_of(0.5, 0.9, 0.6))
    assert kept.point == 1 and "epoch 2: clearly better" in reason


def test_a_slightly_better_earlier_epoch_is_not() -> None:
    kept, reason = running._choose(book_of(0.5, 0.91, 0.9))
    assert kept.point == 2 and "no earlier epoch was clearly better" in reason


def test_a_label_budget_trains_on_every_image_for_as_long_as_the_folds_say(monkeypatch) -> None:
    images = squares.load(per_class=6)
    assert images.validation is None and len(images.folds) == 3
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: 2)
    options = dataclasses.replace(OPTIONS, guard=False)
    seen = []
    original = course.Course.run

    def spy(self, task) -> None:
        seen.append((len(task.train), task.held_out and len(task.held_out), task.points))
        original(self, task)

    monkeypatch.setattr(course.Course, "run", spy)
    outcome = training.run(squares.classifier(), squares.phases(epochs=4), images, options)
    assert seen == [(12, 6, None)] * 3 + [(18, None, 3)]
    assert [row["epoch"] for row in outcome.history] == [0, 1, 2]
    assert outcome.chosen_epoch == 2 and len(outcome.folds) == 3
    labels, probabilities = outcome.validation
    assert sorted(labels) == sorted(images.train.labels) and probabilities.shape == (18, 3)


def test_folds_start_from_the_same_weights() -> None:
    """A run with folds ends where a run on all images for as many epochs ends."""
    images = squares.load(per_class=6)
    one, two = squares.classifier(), squares.classifier()
    phases = squares.phases(epochs=2)
    outcome = training.run(one, phases, images, OPTIONS)
    if outcome.chosen_epoch < 2:
        phases = squares.phases(epochs=2)[: 1 + outcome.chosen_epoch]
    training.run(two, phases, dataclasses.replace(images, folds=()), OPTIONS)
    for path, value in weights(one).items():
        np.testing.assert_allclose(value, weights(two)[path], atol=1e-6)


def test_patience_ends_a_phase() -> None:
    phases = squares.phases(epochs=40, rate=0.003, schedule=strategy.Schedule("constant"))
    options = dataclasses.replace(OPTIONS, patience=2)
    images = squares.load(noise=25.0)
    outcome = training.run(squares.classifier(), phases, images, options)
    losses = [row["val_loss"] for row in outcome.history[1:]]
    assert len(losses) < 40
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_without_held_out_images_the_planned_end_is_kept() -> None:
    images = dataclasses.replace(squares.load(per_class=4), folds=())
    outcome = training.run(squares.classifier(), squares.phases(epochs=2), images, OPTIONS)
    assert outcome.chosen_epoch == 2 and outcome.validation is None
    assert "no images were held out" in outcome.reason
    assert all(row["val_loss"] is None for row in outcome.history)


def test_an_exploding_loss_starts_again_at_a_tenth_of_the_rate(tmp_path) -> None:
    """S7: the initial weights come back, the rate is lowered, and it is said."""
    images = squares.load()
    settings = dataclasses.replace(OPTIONS, optimizer="sgd", clip_norm=0.0)
    phase = strategy.everything(GROUPS, strategy.Tuning(learning_rate=100.0, epochs=2))
    outcome = training.run(
        squares.classifier(), (phase,), images, settings, tensorboard_dir=tmp_path
    )
    assert outcome.restarts
    peak = 100.0 / 10 ** len(outcome.restarts)
    assert f"lowered to {peak:.2g} (S7)" in outcome.restarts[-1]

    calm = dataclasses.replace(phase, learning_rate=peak)
    twin = training.run(squares.classifier(), (calm,), images, settings)
    assert [r["loss"] for r in outcome.history] == pytest.approx([r["loss"] for r in twin.history])
    texts = {tag for tag, _, _ in events(tmp_path)}
    assert "restart 1" in texts


def test_a_loss_that_explodes_at_every_rate_ends_the_run() -> None:
    settings = dataclasses.replace(OPTIONS, optimizer="sgd", clip_norm=0.0)
    phase = strategy.everything(GROUPS, strategy.Tuning(learning_rate=3e8, epochs=1))
    with pytest.raises(checks.NumericsError, match="lowered 3 times. Choose a smaller"):
        training.run(squares.classifier(), (phase,), squares.load(), settings)


def test_a_loss_that_jumps_at_any_rate_is_not_blamed_on_the_rate(monkeypatch) -> None:
    """Hard batches: the ceiling lies below what the images do without any training."""
    monkeypatch.setattr(course.callbacks, "EXPLODED", 0.5)
    phase = strategy.everything(GROUPS, strategy.Tuning(learning_rate=1e-4, epochs=2))
    classifier = squares.classifier()
    outcome = training.run(classifier, (phase,), squares.load(), OPTIONS)
    assert len(outcome.restarts) == 2
    assert "lowered to 1e-05 (S7)" in outcome.restarts[0]
    assert "not to blame: started again at 0.0001, unguarded" in outcome.restarts[1]

    twin = squares.classifier()
    unguarded = dataclasses.replace(OPTIONS, guard=False)
    expected = training.run(twin, (phase,), squares.load(), unguarded)
    ours, theirs = ([row["loss"] for row in o.history] for o in (outcome, expected))
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_nan_later_keeps_the_last_good_weights() -> None:
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            if epoch == 2:
                good.update(weights(classifier))
                self.model.get_layer("one").kernel.assign(np.full((3, 3, 3, 4), np.nan))

    classifier, good = squares.classifier(), {}
    images = dataclasses.replace(squares.load(), validation=None)
    unguarded = dataclasses.replace(OPTIONS, guard=False)
    phase = strategy.everything(GROUPS, strategy.Tuning(learning_rate=0.01, epochs=4))
    with pytest.raises(checks.NumericsError, match="after epoch 2 are kept"):
        training.run(classifier, (phase,), images, unguarded, callbacks=[Poison()])
    for path, value in weights(classifier).items():
        np.testing.assert_array_equal(value, good[path])


def test_a_phase_is_traced_once_for_all_folds(monkeypatch) -> None:
    images = squares.load(per_class=6)
    calls = []

    class Counted(keras.losses.CategoricalCrossentropy):
        def call(self, *args: object) -> object:
            calls.append(1)  # Python runs when a graph is traced, not when it is used
            return super().call(*args)

    monkeypatch.setattr(fitter.keras.losses, "CategoricalCrossentropy", Counted)
    training.run(squares.classifier(), squares.phases(epochs=2), images, OPTIONS)
    with_folds = len(calls)
    training.run(
        squares.classifier(),
        squares.phases(epochs=2),
        dataclasses.replace(images, folds=()),
        OPTIONS,
    )
    assert len(calls) == 2 * with_folds > 0


def test_class_weights_and_balanced_sampling_reach_the_loss(monkeypatch) -> None:
    images = squares.load()
    seen = {}
    original = course.data.batches

    def spy(*args, **kwargs):
        seen.update(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(course.data, "batches", spy, raising=False)
    phases = squares.phases(epochs=1)
    training.run(
        squares.classifier(), phases, images, dataclasses.replace(OPTIONS, imbalance="weights")
    )
    counts = images.train.counts(3)
    np.testing.assert_allclose(seen["class_weights"], counts.sum() / (3 * counts), rtol=1e-6)
    training.run(
        squares.classifier(), phases, images, dataclasses.replace(OPTIONS, imbalance="sampling")
    )
    assert seen["class_weights"] is None and seen["sampling"] == "balanced"


def events(folder) -> list[tuple[str, int, float | None]]:
    """Returns (tag, step, value or None) of everything in TensorBoard's files."""
    found = []
    for path in sorted(folder.glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                is_scalar = array.ndim == 0 and array.dtype.kind == "f"
                found.append((value.tag, event.step, float(array) if is_scalar else None))
    return found


def test_tensorboard_has_the_losses_the_rates_of_all_stages_and_the_plan(tmp_path) -> None:
    tuning = strategy.Tuning(learning_rate=0.01, epochs=2)
    phases = (squares.phases()[0], strategy.discriminative(GROUPS, 0.1, tuning))
    outcome = training.run(
        squares.classifier(), phases, squares.load(), OPTIONS, tensorboard_dir=tmp_path
    )
    found = {(tag, step): value for tag, step, value in events(tmp_path)}
    assert ("plan", 0) in found
    for row in outcome.history:
        step = row["epoch"]
        assert found["loss/training", step] == pytest.approx(row["loss"], rel=1e-5)
        assert found["accuracy/validation", step] == pytest.approx(row["val_accuracy"], rel=1e-5)
        if row["learning_rate"] is not None:
            for group, multiplier in zip(GROUPS, (0.1, 1.0, 1.0), strict=True):
                expected = row["learning_rate"] * multiplier
                assert found[f"rate/{group}", step] == pytest.approx(expected, rel=1e-5)
    assert ("rate/stem", 0) not in found  # a solved head has no rate


def test_with_a_budget_tensorboard_shows_what_the_folds_say(tmp_path) -> None:
    images = squares.load(per_class=6)
    outcome = training.run(
        squares.classifier(), squares.phases(epochs=2), images, OPTIONS, tensorboard_dir=tmp_path
    )
    found = {(tag, step): value for tag, step, value in events(tmp_path)}
    for point, row in enumerate(outcome.history):
        assert row["val_loss"] == pytest.approx(np.mean([fold[point] for fold in outcome.folds]))
        assert found["loss/validation", row["epoch"]] == pytest.approx(row["val_loss"], rel=1e-5)


def test_plans_that_do_not_fit_are_refused() -> None:
    phase = strategy.everything(("stem", "head"), strategy.Tuning(learning_rate=0.1, epochs=1))
    with pytest.raises(checks.ConfigError, match="Missing: stage_1"):
        training.run(squares.classifier(), (phase,), squares.load(), OPTIONS)


def test_the_head_is_solved_on_the_features_of_the_phase_before() -> None:
    """A probe behind a phase of training sees the trained features, not the first ones."""
    images = squares.load()
    tuned = strategy.everything(GROUPS, strategy.Tuning(learning_rate=0.05, epochs=2))
    probe = strategy.probe(GROUPS, name="again")
    classifier = squares.classifier()
    training.run(classifier, (tuned, probe), dataclasses.replace(images, validation=None), OPTIONS)
    rows = features.extract(classifier, images.train)
    solution = features.solve_head(rows, images.train.labels, num_classes=3, seed=OPTIONS.seed)
    np.testing.assert_allclose(classifier.head.get_weights()[0], solution.kernel, atol=1e-4)


def test_optimizer_state_is_carried_from_phase_to_phase() -> None:
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs: object = None) -> None:
            seen.append(int(np.array(self.model.optimizer.iterations)))

    images = squares.load()
    phases = [
        strategy.last_stages(
            GROUPS, n, strategy.Tuning(learning_rate=0.01, epochs=1), name=f"last_{n}"
        )
        for n in (1, 2)
    ]
    training.run(squares.classifier(), phases, images, OPTIONS, callbacks=[Look()])
    steps = math.ceil(len(images.train) / OPTIONS.batch_size)
    assert seen == list(itertools.accumulate([0, steps]))
