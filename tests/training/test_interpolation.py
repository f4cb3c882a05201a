"""WiSE-FT against NumPy on the weights of two runs."""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import features, strategy, training
from finetune_kit.training import interpolation, running
from tests.training import squares
from tests.training.test_resuming import Interrupt

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0, guard=False)
TUNED = strategy.everything(
    GROUPS,
    strategy.Tuning(learning_rate=0.01, epochs=2, batch_norm="trainable", augment="none"),
)
PLAN = (strategy.probe(GROUPS), TUNED)


def run(phases, images, **options):
    """Returns the weights by path, float64, and the outcome of a run."""
    classifier = squares.classifier()
    outcome = training.run(classifier, phases, images, dataclasses.replace(OPTIONS, **options))
    return {v.path: np.array(v, np.float64) for v in classifier.model.weights}, outcome


def all_images(per_class: int = 6):
    """Returns the toy's images, none of them held out."""
    return dataclasses.replace(squares.load(per_class=per_class), folds=())


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_the_kept_weights_lie_between_probe_and_fine_tuned_ones(ema) -> None:
    images = all_images()
    probe, _ = run(PLAN[:1], images)
    tuned, full = run(PLAN, images, ema=ema)
    kept, outcome = run(PLAN, images, ema=ema, wise=0.3)
    for path in tuned:
        expected = 0.7 * probe[path] + 0.3 * tuned[path]
        np.testing.assert_allclose(kept[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
        assert np.abs(tuned[path] - probe[path]).max() > 1e-4, path
    # Training has gone on from the fine-tuned weights.
    assert [row["loss"] for row in outcome.history] == [row["loss"] for row in full.history]


def test_all_the_way_is_as_if_there_were_no_such_thing(monkeypatch) -> None:
    kept, _ = run(PLAN, squares.load(), wise=1.0)
    monkeypatch.setattr(
        running.course.Course, "_interpolated", lambda self, book: contextlib.nullcontext()
    )
    plain, _ = run(PLAN, squares.load())
    for path, value in plain.items():
        np.testing.assert_array_equal(kept[path], value)


def test_without_a_probe_the_line_begins_at_the_initial_weights() -> None:
    images = all_images()
    start = {v.path: np.array(v, np.float64) for v in squares.classifier().model.weights}
    tuned, _ = run((TUNED,), images)
    kept, _ = run((TUNED,), images, wise=0.6)
    for path in tuned:
        expected = 0.4 * start[path] + 0.6 * tuned[path]
        np.testing.assert_allclose(kept[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_what_is_scored_is_what_is_kept(monkeypatch) -> None:
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    images, histories = squares.load(noise=40.0), []
    for wise in (0.3, 1.0):
        classifier = squares.classifier()
        options = dataclasses.replace(OPTIONS, wise=wise)
        outcome = training.run(classifier, PLAN, images, options)
        probabilities = features.predict(classifier, images.validation)
        np.testing.assert_allclose(probabilities, outcome.validation[1], atol=1e-5)
        histories.append(outcome.history)
    for ours, theirs in zip(*histories, strict=True):
        assert ours["loss"] == theirs["loss"]
        assert (ours["val_loss"] == theirs["val_loss"]) == (ours["phase"] == "probe")


def test_what_did_not_move_stays_as_it_was_to_the_last_bit() -> None:
    phases = (PLAN[0], strategy.last_stages(GROUPS, 1, strategy.Tuning(learning_rate=1, epochs=1)))
    kept, _ = run(phases, all_images(), wise=0.37)
    start = {v.path: np.array(v, np.float64) for v in squares.classifier().model.weights}
    for path in kept:
        if path.startswith("one") or "_bn" in path:
            np.testing.assert_array_equal(kept[path], start[path])


def test_a_run_with_folds_ends_where_one_on_all_images_ends(monkeypatch) -> None:
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    images = squares.load(per_class=6)
    kept, outcome = run(PLAN, images, wise=0.4)
    expected, _ = run(PLAN, dataclasses.replace(images, folds=()), wise=0.4)
    assert [len(fold) for fold in outcome.folds] == [3, 3, 3]
    for path, value in expected.items():
        np.testing.assert_allclose(kept[path], value, atol=1e-6)


@pytest.mark.parametrize(("steps", "per_class"), [(9, 0), (9, 6), (0, 6)])
def test_a_run_that_goes_on_keeps_the_same_weights(tmp_path, monkeypatch, steps, per_class) -> None:
    """0 steps stand for a run that is over, of which only the checkpoint is left."""
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    images = squares.load(per_class=per_class)
    options = dataclasses.replace(OPTIONS, wise=0.3)
    expected, _ = run(PLAN, images, wise=0.3)
    store = training.CheckpointStore(tmp_path)
    with contextlib.suppress(KeyboardInterrupt):
        training.run(
            squares.classifier(), PLAN, images, options,
            checkpoints=store, callbacks=[Interrupt(steps)],
        )  # fmt: skip
    resumed = squares.classifier()
    training.run(resumed, PLAN, images, options, checkpoints=store, resume=True)
    for variable in resumed.model.weights:
        np.testing.assert_allclose(variable, expected[variable.path], rtol=1e-3, atol=1e-5)


def test_a_value_at_rest_is_met_again_to_the_last_bit_whatever_it_is() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    variable = keras.Variable(values)
    with interpolation.interpolated([variable], [values], 0.37):
        np.testing.assert_array_equal(variable, values)


def test_values_come_back_even_after_an_error() -> None:
    classifier = squares.classifier()
    kernel = classifier.head.kernel
    before = np.array(kernel)
    zero = [np.zeros_like(before)]
    with pytest.raises(KeyboardInterrupt), interpolation.interpolated([kernel], zero, 0.25):
        np.testing.assert_allclose(kernel, before / 4, rtol=1e-6)
        raise KeyboardInterrupt
    np.testing.assert_array_equal(kernel, before)
