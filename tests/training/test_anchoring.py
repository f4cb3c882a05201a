"""L2-SP against steps taken by hand; and nothing of it is left behind."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import strategy, training
from finetune_kit.training import anchoring, running
from tests.training import squares
from tests.training.test_resuming import Interrupt

GROUPS = ("stem", "stage_1", "head")
ALPHA, RATE = 0.7, 0.2
SGD = training.Options(
    optimizer="sgd", batch_size=100, weight_decay=0.0, clip_norm=0.0, guard=False
)


def weights(classifier) -> dict[str, np.ndarray]:
    return {v.path: np.array(v, np.float64) for v in classifier.model.weights}


def trained(steps: int, *, multipliers=(0.5, 1.0, 1.0), **options):
    """Returns the weights after full-batch steps of SGD, and the history."""
    images = dataclasses.replace(squares.load(per_class=4), folds=())
    phase = strategy.Phase(
        name="sgd",
        multipliers=dict(zip(GROUPS, multipliers, strict=True)),
        learning_rate=RATE,
        epochs=steps,
        batch_norm="trainable",
    )
    classifier = squares.classifier()
    outcome = training.run(classifier, (phase,), images, dataclasses.replace(SGD, **options))
    return weights(classifier), outcome.history


def test_a_step_is_pulled_back_by_alpha_times_the_way_gone() -> None:
    """The first step has gone no way yet, so the second one shows the pull: eq. 4."""
    start, (one, _) = weights(squares.classifier()), trained(1)
    np.testing.assert_equal(trained(1, l2_sp=ALPHA)[0]["two/kernel"], one["two/kernel"])
    free, pulled = trained(2)[0], trained(2, l2_sp=ALPHA)[0]
    for path, value in free.items():
        multiplier = {"one": 0.5, "two": 1.0}.get(path[:3], 0.0)
        if "moving" in path:
            multiplier = 0.0
        expected = -RATE * multiplier * ALPHA * (one[path] - start[path])
        np.testing.assert_allclose(pulled[path] - value, expected, atol=1e-6, err_msg=path)
    assert np.abs(one["two/kernel"] - start["two/kernel"]).max() > 1e-3
    assert np.abs(one["head/kernel"] - start["head/kernel"]).max() > 1e-3


def test_the_penalty_is_in_the_loss_and_counts_what_trains() -> None:
    for multipliers, groups in (((0.5, 1, 1), ("one", "two")), ((0, 1, 1), ("two",))):
        start, (one, free) = weights(squares.classifier()), trained(1, multipliers=multipliers)
        free = trained(2, multipliers=multipliers)[1]
        pulled = trained(2, multipliers=multipliers, l2_sp=ALPHA)[1]
        ways = [
            np.sum((one[path] - start[path]) ** 2)
            for path in one
            if path.startswith(groups) and "moving" not in path
        ]
        assert pulled[0]["loss"] == free[0]["loss"]
        expected = ALPHA / 2 * sum(ways)
        assert expected > 1e-4
        assert pulled[1]["loss"] - free[1]["loss"] == pytest.approx(expected, rel=0.01)


def test_a_strong_pull_keeps_the_backbone_where_it_was() -> None:
    start = weights(squares.classifier())
    free, pulled = trained(6)[0], trained(6, l2_sp=2.0)[0]
    for path in ("one/kernel", "two/kernel"):
        ways = [np.linalg.norm(end[path] - start[path]) for end in (free, pulled)]
        assert ways[1] < 0.8 * ways[0], path


class Look(keras.callbacks.Callback):
    """Notes which variables have a penalty while a phase is fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[set[str]] = []

    def on_train_begin(self, logs: object = None) -> None:
        self.seen.append({v.path for v in self.model.weights if v.regularizer is not None})


def test_nothing_of_it_is_left_in_phases_models_and_files(tmp_path) -> None:
    classifier, look = squares.classifier(), Look()
    tuning = strategy.Tuning(learning_rate=0.01, epochs=1)
    phases = (
        strategy.everything(GROUPS, tuning, name="all"),
        strategy.last_stages(GROUPS, 1, tuning),
    )
    options = dataclasses.replace(SGD, batch_size=8, l2_sp=ALPHA)
    training.run(classifier, phases, squares.load(), options, callbacks=[look])
    assert look.seen == [{"one/kernel", "two/kernel"}, {"two/kernel"}]
    assert all(variable.regularizer is None for variable in classifier.model.variables)
    assert classifier.model.losses == [] and classifier.predictor().losses == []
    classifier.predictor().save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.losses == []


def test_a_fit_that_fails_leaves_no_penalty_and_one_of_the_network_stays() -> None:
    classifier = squares.classifier()
    own = keras.regularizers.L2(3.0)
    kernel = classifier.model.get_layer("one").kernel
    kernel.regularizer = own
    origin = [np.zeros(v.shape, v.dtype) for v in classifier.model.variables]
    found = anchoring.penalties(classifier, origin, 0.5)
    (penalty,) = [penalty for variable, penalty in found if variable is kernel]
    value = np.full(kernel.shape, 0.1, np.float32)
    assert float(penalty(value)) == pytest.approx(3.25 * np.sum(value**2), rel=1e-5)
    with pytest.raises(KeyboardInterrupt), anchoring.applied(found):
        assert kernel.regularizer is penalty
        raise KeyboardInterrupt
    assert kernel.regularizer is own
    assert classifier.model.get_layer("two").kernel.regularizer is None


@pytest.mark.parametrize("per_class", [0, 6])
def test_a_run_that_goes_on_is_pulled_to_the_same_place(tmp_path, monkeypatch, per_class) -> None:
    monkeypatch.setattr(running.journal, "EVERY", 0.0)
    monkeypatch.setattr(running.choosing, "choose_point", lambda errors: len(errors) - 1)
    images = squares.load(per_class=per_class)
    options = training.Options(batch_size=8, weight_decay=0.0, guard=False, l2_sp=5.0)
    way = (squares.phases(epochs=3), images, options)
    expected, resumed = squares.classifier(), squares.classifier()
    training.run(expected, *way)
    store = training.CheckpointStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        training.run(squares.classifier(), *way, checkpoints=store, callbacks=[Interrupt(9)])
    training.run(resumed, *way, checkpoints=store, resume=True)
    for path, value in weights(expected).items():
        np.testing.assert_allclose(weights(resumed)[path], value, rtol=1e-3, atol=1e-5)
    free = squares.classifier()
    training.run(free, *way[:2], dataclasses.replace(options, l2_sp=0.0))
    assert np.abs(weights(free)["one/kernel"] - weights(expected)["one/kernel"]).max() > 1e-3
