"""Seconds of a plan by arithmetic."""

import pytest

from finetune_kit import checks, strategy
from finetune_kit.strategy.candidates import CANDIDATES
from finetune_kit.strategy.costs import Costs, steps

GROUPS = ("stem", "stage_1", "stage_2", "head")
COSTS = Costs(forward=0.01, trace=5.0, others=3.0, spent=2.0, shares=(0.5, 0.3, 0.2))


def phases_of(name, epochs=10):
    tuning = strategy.Tuning(learning_rate=1e-3, epochs=epochs)
    return CANDIDATES[name].phases(GROUPS, tuning)


def test_training_everything_is_a_forward_and_two_backward_passes() -> None:
    assert COSTS.step([True, True, True]) == pytest.approx(0.03)


def test_nothing_below_the_first_open_stage_is_differentiated() -> None:
    assert COSTS.step([False, False, True]) == pytest.approx(0.01 * (1 + 2 * 0.2))
    assert COSTS.step([False, False, False]) == pytest.approx(0.01)


def test_a_frozen_stage_that_is_crossed_has_gradients_of_its_input_alone() -> None:
    assert COSTS.step([True, False, False]) == pytest.approx(0.01 * (1 + 2 * 0.5 + 0.5))


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


def test_negative_times_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="forward"):
        Costs(forward=-1.0, trace=0.0, others=0.0, spent=0.0, shares=(1.0,))
