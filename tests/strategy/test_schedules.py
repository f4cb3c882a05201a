"""Schedules are values that cannot be wrong."""

import dataclasses

import pytest

from finetune_kit import checks, strategy
from finetune_kit.strategy import schedules


@pytest.mark.parametrize("name", ["constant", "step", "exponential", "fractional", "cosine"])
def test_the_schedules_of_the_source_text_are_there(name) -> None:
    assert name in schedules.NAMES
    assert strategy.Schedule(name).name == name
    assert len(schedules.NAMES) == 5


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(checks.ConfigError, match="schedule must be one of.*Did you mean 'cosine'"):
        strategy.Schedule("cosinus")


@pytest.mark.parametrize(
    "values",
    [
        {"warmup_epochs": 0.0},
        {"warmup_epochs": 2.5},
        {"halve_every": 1},
        {"decay": 1.0},
        {"decay": 1e-6},
        {"k": 0.0},
        {"k": 100.0},
    ],
)
def test_values_at_their_limits_are_taken(values) -> None:
    made = strategy.Schedule("step", **values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("warmup_epochs", -0.5, r"\[0, inf\)"),
        ("warmup_epochs", float("nan"), r"\[0, inf\)"),
        ("warmup_epochs", float("inf"), r"\[0, inf\)"),
        ("halve_every", 0, r"\[1, inf\)"),
        ("decay", 0.0, r"\[1e-06, 1\]"),
        ("decay", 1.01, r"\[1e-06, 1\]"),
        ("k", -1.0, r"\[0, inf\)"),
        ("k", float("inf"), r"\[0, inf\)"),
    ],
)
def test_values_out_of_range_are_named(name, value, limits) -> None:
    with pytest.raises(checks.ConfigError, match=f"{name} must lie in {limits}.*{name}={value}"):
        strategy.Schedule("cosine", **{name: value})


def test_a_schedule_is_a_value() -> None:
    assert strategy.Schedule("step", halve_every=3) == strategy.Schedule("step", halve_every=3)
    assert len({strategy.Schedule("step"), strategy.Schedule("step")}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.Schedule("step").k = 1.0
