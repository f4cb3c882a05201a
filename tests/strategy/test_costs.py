"""Seconds of a plan by arithmetic."""

import dataclasses

import pytest

from finetune_kit import checks, strategy
from finetune_kit.strategy import costs
from finetune_kit.strategy.candidates import CANDIDATES
from finetune_kit.strategy.costs import Costs, steps

GROUPS = ("stem", "stage_1", "stage_2", "head")
COSTS = Costs(forward=0.01, trace=5.0, others=3.0, spent=2.0, shares=(0.5, 0.3, 0.2))


def phases_of(name, epochs=10):
    tuning = strategy.Tuning(learning_rate=1e-3, epochs=epochs)
    return CANDIDATES[name].phases(GROUPS, tuning)


SHARES = (0.5, 0.3, 0.2)


@pytest.mark.parametrize(
    ("opened", "kept", "expected"),
    [
        ((True, True, True), False, (1.0, 2.0)),
        ((False, False, True), False, (1.0, 2 * 0.2)),
        ((False, False, True), True, (0.2, 2 * 0.2)),
        ((False, False, False), False, (1.0, 0.0)),
        ((False, False, False), True, (0.0, 0.0)),
        # Gradients cross a frozen stage by its input alone.
        ((True, False, False), True, (1.0, 2 * 0.5 + 0.5)),
    ],
)
def test_operations_are_those_of_the_stages_that_run(opened, kept, expected) -> None:
    assert costs.operations(SHARES, opened, kept=kept) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("augment", "views", "epochs", "repeated"),
    [("none", 0, 10, 1), ("none", 4, 10, 1), ("light", 0, 10, 0), ("light", 4, 10, 4),
     ("light", 10, 10, 0), ("strong", 4, 10, 0), ("none", 0, 1, 0)],
)  # fmt: skip
def test_views_repeat_where_there_are_fewer_than_epochs(augment, views, epochs, repeated) -> None:
    tuning = strategy.Tuning(learning_rate=1e-3, epochs=epochs, augment=augment)
    (phase,) = (strategy.last_stages(GROUPS, 1, tuning),)
    assert costs.repeated_views(phase, views) == repeated


def test_frozen_stages_that_are_kept_run_once_a_view() -> None:
    tuning = strategy.Tuning(learning_rate=1e-3, epochs=10)
    plan = (strategy.last_stages(GROUPS, 1, tuning),)
    kept = dataclasses.replace(COSTS, views=4)
    epoch = 100 * 0.01 * (0.2 + 2 * 0.2)
    assert kept.train(plan, 100) == pytest.approx(5.0 + 4 * 100 * 0.01 * 0.8 + 10 * epoch)
    whole = dataclasses.replace(kept, keep=False)
    assert whole.train(plan, 100) == pytest.approx(5.0 + 10 * 100 * 0.01 * (1 + 2 * 0.2))
    # Of the same budget, more epochs are left.
    assert kept.affordable(plan, 100, 25.0) > whole.affordable(plan, 100, 25.0)


def test_a_solved_head_takes_no_training() -> None:
    assert COSTS.train(phases_of("head"), images=100) == 0.0
    assert COSTS.total(phases_of("head"), images=100) == pytest.approx(5.0)


def test_a_phase_is_traced_once_and_runs_over_the_images_every_epoch() -> None:
    expected = 5.0 + 10 * 100 * 0.03
    assert COSTS.train(phases_of("finetune"), images=100) == pytest.approx(expected)
    assert COSTS.total(phases_of("finetune"), images=100) == pytest.approx(expected + 5.0)


@pytest.mark.parametrize("budget", [12.9, 13.1, 25.0, 40.0, 1_000.0])
def test_as_many_epochs_are_affordable_as_end_within_the_budget(budget) -> None:
    plan = phases_of("finetune")
    epochs = COSTS.affordable(plan, 100, budget)
    if epochs:
        assert COSTS.total(phases_of("finetune", epochs), 100) <= budget
    assert COSTS.total(phases_of("finetune", epochs + 1), 100) > budget


def test_a_head_has_no_epochs_to_afford() -> None:
    assert COSTS.affordable(phases_of("head"), 100, 1_000.0) == 0


def test_the_last_batch_of_an_epoch_is_a_step_too() -> None:
    assert steps(100, 32, 3) == 12


def test_steps_that_train_batch_norm_take_longer_by_what_was_measured() -> None:
    tuning = strategy.Tuning(learning_rate=1e-3, epochs=10, batch_norm="auto")
    plan = CANDIDATES["bold_batch_norm"].phases(GROUPS, tuning)
    assert COSTS.train(plan, 100) == pytest.approx(5.0 + 100 * 0.01 + 1.4 * 10 * 100 * 0.03)
    some = (strategy.last_stages(GROUPS, 1, dataclasses.replace(tuning, batch_norm="trainable")),)
    assert COSTS.train(some, 100) == pytest.approx(5.0 + 1.4 * 10 * 100 * 0.01 * (1 + 2 * 0.2))


def test_negative_times_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="forward"):
        Costs(forward=-1.0, trace=0.0, others=0.0, spent=0.0, shares=(1.0,))
