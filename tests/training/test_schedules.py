"""Schedules by epoch (S8) against their closed formulas."""

import json
import math

import keras
import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.strategy.schedules import Schedule
from finetune_kit.training import schedules

PEAK, EPOCHS = 0.02, 24
TIMES = [0.0, 0.25, 0.999, 1.0, 1.5, 4.0, 4.99, 5.0, 7.3, 9.99, 10.0, 14.5, 15.0, 20.0, 23.97]


def constant(t):
    return PEAK


def step(t):
    return PEAK * 0.5 ** (t // 5)


def exponential(t):
    return PEAK * 0.9 ** math.floor(t)


def fractional(t):
    return PEAK / (1 + 0.5 * math.floor(t))


def cosine(t, length=EPOCHS):
    return PEAK * (1 + math.cos(math.pi * t / length)) / 2


FORMULAS = {f.__name__: f for f in (constant, step, exponential, fractional, cosine)}


def rates(schedule, times, epochs=EPOCHS):
    made = schedules.keras_schedule(schedule, peak=PEAK, epochs=epochs)
    return [float(made(t)) for t in times]


@pytest.mark.parametrize("name", FORMULAS)
def test_rates_are_those_of_the_formula(name) -> None:
    expected = [FORMULAS[name](t) for t in TIMES]
    np.testing.assert_allclose(rates(Schedule(name), TIMES), expected, rtol=2e-5, atol=1e-9)


def test_parameters_are_those_of_the_schedule() -> None:
    halving = rates(Schedule("step", halve_every=3), [0, 2.9, 3, 6.5, 9])
    np.testing.assert_allclose(halving, [PEAK / 2**k for k in (0, 0, 1, 2, 3)], rtol=1e-6)
    decay = rates(Schedule("exponential", decay=0.7), [0.5, 1.5, 3.0])
    np.testing.assert_allclose(decay, [PEAK, 0.7 * PEAK, 0.343 * PEAK], rtol=1e-6)
    falling = rates(Schedule("fractional", k=2.0), [0.5, 1.5, 3.0])
    np.testing.assert_allclose(falling, [PEAK, PEAK / 3, PEAK / 7], rtol=1e-6)


@pytest.mark.parametrize("name", FORMULAS)
def test_a_warm_up_rises_linearly_and_the_schedule_counts_from_its_end(name) -> None:
    schedule = Schedule(name, warmup_epochs=2.5)
    rising = [0.0, 0.1, 1.0, 2.0, 2.49]
    np.testing.assert_allclose(rates(schedule, rising), [PEAK * t / 2.5 for t in rising], rtol=1e-6)
    after = [t for t in TIMES if t < EPOCHS - 2.5]
    formula = FORMULAS[name]
    expected = [formula(t, length=EPOCHS - 2.5) if name == "cosine" else formula(t) for t in after]
    found = rates(schedule, [t + 2.5 for t in after])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-9)


def test_a_cosine_ends_at_zero_and_stays_there() -> None:
    np.testing.assert_allclose(rates(Schedule("cosine"), [EPOCHS, EPOCHS + 3]), 0.0, atol=1e-9)


@pytest.mark.parametrize("warmup", [0.0, 1.5])
@pytest.mark.parametrize("name", FORMULAS)
def test_schedules_survive_json(name, warmup) -> None:
    made = schedules.keras_schedule(Schedule(name, warmup_epochs=warmup), peak=PEAK, epochs=EPOCHS)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(made)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(made)
    assert [float(again(t)) for t in TIMES] == [float(made(t)) for t in TIMES]


def test_an_optimizer_takes_a_schedule_and_gives_it_back() -> None:
    made = schedules.keras_schedule(
        Schedule("constant", warmup_epochs=4.0), peak=PEAK, epochs=EPOCHS
    )
    optimizer = keras.optimizers.SGD(made)
    optimizer = keras.optimizers.SGD.from_config(optimizer.get_config())
    weight = keras.Variable(np.zeros(1, "float32"))
    found = []
    for _ in range(6):
        before = float(weight[0])
        optimizer.apply([keras.ops.ones(1)], [weight])
        found.append(before - float(weight[0]))
    np.testing.assert_allclose(found, [0.0, 0.005, 0.01, 0.015, 0.02, 0.02], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("warmup", [3.0, 4.0])
def test_a_warm_up_must_be_shorter_than_its_phase(warmup) -> None:
    with pytest.raises(
        checks.ConfigError,
        match=f"shorter than its phase. Received: warmup_epochs={warmup}, epochs=3",
    ):
        schedules.keras_schedule(Schedule(warmup_epochs=warmup), peak=PEAK, epochs=3)
