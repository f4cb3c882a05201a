"""A run that is interrupted goes on, and ends where it would have ended."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import checks, strategy, training
from finetune_kit.training import running
from tests.training import squares

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8, weight_decay=0.0)


def weights(classifier) -> dict[str, np.ndarray]:
    return {v.path: np.array(v) for v in classifier.model.weights}


class Interrupt(keras.callbacks.Callback):
    """Interrupts after a number of steps, over all phases and folds."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("steps", "per_class", "ema"), [(1, 0, 0.0), (10, 0, 0.9), (7, 6, 0.9), (16, 6, 0.0)]
)
def test_a_run_that_is_interrupted_and_goes_on_ends_where_it_would_have(
    tmp_path, monkeypatch, steps, per_class, ema
) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    images = squares.load(per_class=per_class)
    options = dataclasses.replace(OPTIONS, ema=ema, guard=False)
    phases = (
        squares.phases()[0],
        strategy.last_stages(
            GROUPS, 1, strategy.Tuning(learning_rate=0.01, epochs=1, augment="medium")
        ),
        squares.phases(epochs=2, augment="medium")[1],
    )

    def train(classifier, **more) -> training.Outcome:
        store = training.CheckpointStore(tmp_path / "checkpoints")
        return training.run(
            classifier, phases, images, options, checkpoints=store, identity={"a": 1}, **more
        )

    whole = squares.classifier(dropout=0.3)
    expected = training.run(whole, phases, images, options)
    with pytest.raises(KeyboardInterrupt):
        train(squares.classifier(dropout=0.3), callbacks=[Interrupt(steps)])
    resumed = squares.classifier(dropout=0.3)
    found = train(resumed, resume=True)

    assert [r["epoch"] for r in found.history] == [r["epoch"] for r in expected.history]
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert found.chosen_epoch == expected.chosen_epoch
    for path, value in weights(whole).items():
        np.testing.assert_allclose(weights(resumed)[path], value, rtol=1e-3, atol=1e-5)
    assert found.notes and "gone on with an interrupted run" in found.notes[0]


def test_a_run_that_is_over_is_not_run_again(tmp_path) -> None:
    images, store = squares.load(), training.CheckpointStore(tmp_path)
    options = {"checkpoints": store, "identity": {}}
    first = training.run(squares.classifier(), squares.phases(), images, OPTIONS, **options)
    again = training.run(
        squares.classifier(),
        squares.phases(),
        images,
        OPTIONS,
        resume=True,
        callbacks=[Interrupt(1)],
        **options,
    )
    assert [r["val_loss"] for r in again.history] == [r["val_loss"] for r in first.history]


def test_going_on_with_other_settings_is_refused(tmp_path) -> None:
    images, store = squares.load(), training.CheckpointStore(tmp_path)
    phases = squares.phases(epochs=1)
    training.run(
        squares.classifier(), phases, images, OPTIONS, checkpoints=store, identity={"seed": 0}
    )
    with pytest.raises(checks.ConfigError, match="Received: seed=1 instead of 0"):
        training.run(
            squares.classifier(),
            phases,
            images,
            OPTIONS,
            checkpoints=store,
            identity={"seed": 1},
            resume=True,
        )


def test_the_rate_that_the_guard_lowered_stays_lowered(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)

    class Late(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            if epoch == 2:  # reached once the rate is low enough
                raise KeyboardInterrupt

    images = squares.load()
    options = dataclasses.replace(OPTIONS, optimizer="sgd", clip_norm=0.0)
    phase = strategy.everything(GROUPS, strategy.Tuning(learning_rate=100.0, epochs=3))
    expected = training.run(squares.classifier(), (phase,), images, options)
    store = training.CheckpointStore(tmp_path)
    arguments = ((phase,), images, options)
    with pytest.raises(KeyboardInterrupt):
        training.run(squares.classifier(), *arguments, checkpoints=store, callbacks=[Late()])
    found = training.run(squares.classifier(), *arguments, checkpoints=store, resume=True)
    assert found.restarts == expected.restarts and found.restarts
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours["learning_rate"] == pytest.approx(theirs["learning_rate"])
