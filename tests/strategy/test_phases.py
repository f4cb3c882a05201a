"""Phases are complete tables: nothing trains, or stays frozen, by omission."""

import dataclasses
import subprocess
import sys

import pytest

from finetune_kit import checks, strategy

GROUPS = ("stem", "stage_1", "head")


def phase(**values):
    """Returns a phase in which the head and the last stage train, with changes."""
    given = {
        "name": "tune",
        "multipliers": {"stem": 0.0, "stage_1": 0.5, "head": 1.0},
        "learning_rate": 1e-3,
        "epochs": 4,
    }
    return strategy.Phase(**{**given, **values})


def solved(**values):
    """Returns a phase that solves the head, with changes."""
    given = {"name": "probe", "multipliers": {"stem": 0, "stage_1": 0, "head": 1}, "solved": True}
    return strategy.Phase(**{**given, **values})


def test_zero_freezes_and_everything_above_trains() -> None:
    assert phase().trained == ("stage_1", "head")
    assert phase(multipliers={"stem": 1e-9, "stage_1": 0, "head": 0}).trained == ("stem",)
    assert solved().trained == ("head",)


def test_pairs_are_as_good_as_a_mapping() -> None:
    pairs = [("stem", 0), ("stage_1", 0.5), ("head", 1)]
    assert phase(multipliers=pairs) == phase()
    assert phase(multipliers=iter(pairs)).multipliers == {"stem": 0.0, "stage_1": 0.5, "head": 1.0}


def test_a_table_is_a_copy_of_what_was_given() -> None:
    given = {"stem": 0.0, "stage_1": 0.5, "head": 1.0}
    made = phase(multipliers=given)
    given["stem"] = 1.0
    assert made.multipliers["stem"] == 0.0


def test_a_phase_is_a_value() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        phase().epochs = 5
    assert dataclasses.replace(phase(), epochs=5) == phase(epochs=5) != phase()


def test_a_stage_that_is_named_twice() -> None:
    pairs = [("stem", 0), ("head", 1), ("stem", 1)]
    with pytest.raises(checks.ConfigError, match="'tune' must name each.*Repeated: stem"):
        phase(multipliers=pairs)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_multiplier_is_a_number_from_zero_up(value) -> None:
    with pytest.raises(
        checks.ConfigError, match=r"multiplier of 'stem' in phase 'tune' must lie in \[0, inf\)"
    ):
        phase(multipliers={"stem": value, "head": 1})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"batch_norm": "freeze"}, "batch_norm must be one of frozen, trainable.*mean 'frozen'"),
        ({"layers": "norm"}, "layers must be one of all, batch_norm. Received: layers='norm'"),
        ({"augment": "lihgt"}, "augment must be one of none, shift, light.*Did you mean 'light'"),
        ({"epochs": 0}, r"epochs must lie in \[1, inf\)"),
        ({"learning_rate": -1e-3}, r"learning_rate must lie in \[0, inf\)"),
        ({"learning_rate": float("nan")}, r"learning_rate must lie in \[0, inf\)"),
        ({"learning_rate": 0.0}, "or nothing trains. Received: phase='tune', learning_rate=0.0"),
        ({"multipliers": {"stem": 0, "head": 0}}, "or nothing trains.*trains=()"),
        ({"multipliers": {}}, "or nothing trains"),
        (
            {"schedule": strategy.Schedule("cosine", warmup_epochs=4)},
            "shorter than its phase. Received: phase='tune', warmup_epochs=4, epochs=4",
        ),
    ],
)
def test_what_a_phase_cannot_be(values, words) -> None:
    with pytest.raises(checks.ConfigError, match=words):
        phase(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 1},
        {"learning_rate": 1e-3},
        {"multipliers": {"stem": 0, "stage_1": 0.1, "head": 1}},
    ],
)
def test_a_solved_phase_trains_nothing_by_steps(values) -> None:
    with pytest.raises(checks.ConfigError, match="A solved phase trains no.*phase='probe', trains"):
        solved(**values)


def test_a_warm_up_may_last_until_shortly_before_the_end() -> None:
    assert phase(schedule=strategy.Schedule("cosine", warmup_epochs=3.9)).epochs == 4


def test_a_plan_that_names_everything_once_is_taken() -> None:
    strategy.check((solved(), phase()), GROUPS)
    strategy.check([phase(multipliers={"head": 1, "stem": 0, "stage_1": 0})], GROUPS)


@pytest.mark.parametrize(
    ("multipliers", "words"),
    [
        ({"stem": 0, "head": 1}, "phase 'tune' must name each of stem.*Missing: stage_1"),
        ({"stem": 0, "stage_1": 0}, "Missing: head"),
        ({"stem": 0, "stage_1": 0, "stage_2": 0, "head": 1}, "Unknown: stage_2"),
        ({"stem": 0, "stage1": 0, "head": 1}, "Missing: stage_1; Unknown: stage1"),
    ],
)
def test_an_incomplete_table_is_an_error_that_lists_the_names(multipliers, words) -> None:
    made = phase(multipliers={**multipliers, next(iter(multipliers)): 1})
    with pytest.raises(checks.ConfigError, match=words):
        strategy.check((solved(), made), GROUPS)


def test_other_plans_that_cannot_be() -> None:
    with pytest.raises(checks.ConfigError, match="at least one phase. Received: none"):
        strategy.check((), GROUPS)
    with pytest.raises(checks.ConfigError, match="names of their own. Repeated: tune. R"):
        strategy.check((phase(), solved(), phase()), GROUPS)
    with pytest.raises(checks.ConfigError, match="The stages of a network.*Repeated: stem"):
        strategy.check((phase(),), ("stem", "stage_1", "stem", "head"))


def test_the_table_shows_rates_by_group_and_settings_below() -> None:
    plan = (
        solved(),
        phase(
            multipliers={"stem": 0.0, "stage_1": 0.123, "head": 1},
            schedule=strategy.Schedule("cosine", warmup_epochs=0.5),
            batch_norm="trainable",
            augment="light",
        ),
        phase(name="end", schedule=strategy.Schedule("step"), epochs=12),
    )
    assert strategy.table(plan) == [
        {"group": "stem", "probe": "frozen", "tune": "frozen", "end": "frozen"},
        {"group": "stage_1", "probe": "frozen", "tune": "0.00012", "end": "0.0005"},
        {"group": "head", "probe": "solved", "tune": "0.001", "end": "0.001"},
        {"group": "epochs", "probe": "-", "tune": "4", "end": "12"},
        {"group": "schedule", "probe": "-", "tune": "cosine, 0.5 to warm up", "end": "step"},
        {"group": "BatchNorm", "probe": "-", "tune": "trainable", "end": "frozen"},
        {"group": "augment", "probe": "-", "tune": "light", "end": "none"},
    ]


def test_the_table_says_which_layers_train_where_it_is_not_all() -> None:
    alone = phase(name="alone", layers="batch_norm")
    assert strategy.table((solved(), phase(), alone))[-1] == {
        "group": "layers", "probe": "-", "tune": "all", "alone": "batch_norm",
    }  # fmt: skip
    assert strategy.table((solved(), phase()))[-1]["group"] == "augment"


def test_plans_are_made_without_tensorflow() -> None:
    code = (
        "import sys; from finetune_kit import strategy;"
        "tuning = strategy.Tuning(learning_rate=1.0, epochs=3);"
        "plan = strategy.gradual(('stem', 'head'), 0.1, tuning);"
        "strategy.table(plan); sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
