"""The phases that recipes are made of, against their formulas."""

import dataclasses

import numpy as np
import pytest

from finetune_kit import checks, strategy

GROUPS = ("stem", "stage_1", "stage_2", "stage_3", "stage_4", "head")
HOW = strategy.Tuning(learning_rate=1e-3, epochs=9)
FITTED = {
    "last_stages": lambda groups, tuning, **name: strategy.last_stages(groups, 2, tuning, **name),
    "everything": strategy.everything,
    "discriminative": lambda groups, tuning, **name: strategy.discriminative(
        groups, 0.1, tuning, **name
    ),
}


@pytest.mark.parametrize("ratio", [0.01, 0.022, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("stages", [2, 3, 5, 10])
def test_rates_spread_geometrically_from_end_to_end(stages, ratio) -> None:
    groups = (*(f"stage_{i}" for i in range(stages)), "head")
    rates = strategy.spread(groups, ratio, head=7.0)
    assert tuple(rates) == groups
    assert rates.pop("head") == 7.0
    values = list(rates.values())
    np.testing.assert_allclose(values, np.geomspace(ratio, 1.0, stages), rtol=1e-12)


def test_a_factor_of_2_6_over_five_stages_is_a_ratio_of_0_022() -> None:
    """Howard & Ruder, 2018, section 3.2."""
    rates = strategy.spread(GROUPS, 2.6**-4)
    assert pytest.approx(0.022, abs=2e-4) == 2.6**-4
    for lower, upper in zip(GROUPS[:4], GROUPS[1:5], strict=True):
        assert rates[upper] / rates[lower] == pytest.approx(2.6)


def test_one_stage_has_nothing_to_spread_over() -> None:
    assert strategy.spread(("stem", "head"), 0.1) == {"stem": 1.0, "head": 1.0}


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_a_ratio_is_above_zero(ratio) -> None:
    with pytest.raises(checks.ConfigError, match="ratio must be above 0. Received: ratio="):
        strategy.spread(GROUPS, ratio)


@pytest.mark.parametrize(
    "groups",
    [(), ("head",), ("stem", "stage_1"), ("head", "stem"), ("head", "stem", "head")],
)
@pytest.mark.parametrize("plan", ["last_stages", "discriminative"])
def test_groups_are_stages_and_then_the_head(groups, plan) -> None:
    with pytest.raises(checks.ConfigError, match="one stage or more, then 'head'. Received: group"):
        FITTED[plan](groups, HOW)
    with pytest.raises(checks.ConfigError, match="one stage or more, then 'head'. Received: group"):
        strategy.gradual(groups, 0.1, HOW)


@pytest.mark.parametrize(
    ("plan", "multipliers"),
    [
        ("last_stages", (0, 0, 0, 1, 1, 1)),
        ("everything", (1, 1, 1, 1, 1, 1)),
        ("discriminative", (0.1, 10**-0.75, 10**-0.5, 10**-0.25, 1, 1)),
    ],
)
def test_what_a_plan_trains(plan, multipliers) -> None:
    phase = FITTED[plan](GROUPS, HOW)
    assert tuple(phase.multipliers) == GROUPS
    np.testing.assert_allclose(list(phase.multipliers.values()), multipliers)
    strategy.check((phase,), GROUPS)
    assert not phase.solved


@pytest.mark.parametrize("plan", FITTED)
def test_a_plan_hands_on_how_to_train(plan) -> None:
    how = {
        "learning_rate": 0.02,
        "epochs": 3,
        "schedule": strategy.Schedule("step", halve_every=2),
        "batch_norm": "trainable",
        "augment": "strong",
    }
    phase = FITTED[plan](GROUPS, strategy.Tuning(**how), name="mine")
    assert {name: getattr(phase, name) for name in how} == how
    assert phase.name == "mine"


@pytest.mark.parametrize("plan", FITTED)
def test_batch_norm_stays_frozen_unless_it_is_asked_for(plan) -> None:
    phase = FITTED[plan](GROUPS, HOW)
    assert phase.batch_norm == "frozen"
    assert phase.augment == "light"
    assert phase.schedule == strategy.Schedule("cosine")


def test_batch_norm_only_is_everything_with_less_in_it() -> None:
    alone = strategy.batch_norm_only(GROUPS, HOW, name="mine")
    assert alone == dataclasses.replace(
        strategy.everything(GROUPS, HOW, name="mine"), layers="batch_norm"
    )
    assert strategy.everything(GROUPS, HOW).layers == "all"


@pytest.mark.parametrize("stage", GROUPS[:-1])
def test_one_stage_trains_with_the_head(stage) -> None:
    phase = strategy.one_stage(GROUPS, stage, HOW)
    assert phase.trained == (stage, "head") and tuple(phase.multipliers) == GROUPS
    assert set(phase.multipliers.values()) == {0.0, 1.0}


def test_the_head_is_no_stage_to_open() -> None:
    with pytest.raises(checks.ConfigError, match="stage must be one of stem.*Received: stage='hea"):
        strategy.one_stage(GROUPS, "head", HOW)


def test_a_probe_solves_the_head_and_nothing_else() -> None:
    phase = strategy.probe(GROUPS)
    assert phase.multipliers == {**dict.fromkeys(GROUPS, 0.0), "head": 1.0}
    assert (phase.solved, phase.epochs, phase.learning_rate, phase.name) == (True, 0, 0.0, "probe")
    assert (phase.augment, phase.batch_norm) == ("none", "frozen")
    assert strategy.probe(GROUPS, name="solve").name == "solve"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_last_stages_are_counted_from_the_output(count) -> None:
    phase = strategy.last_stages(GROUPS, count, HOW)
    assert phase.trained == GROUPS[5 - count :]


@pytest.mark.parametrize("count", [0, 6, -1])
def test_more_stages_than_there_are(count) -> None:
    with pytest.raises(checks.ConfigError, match=rf"stages must lie in \[1, 5\].*stages={count}"):
        strategy.last_stages(GROUPS, count, HOW)


def test_stages_open_one_by_one_from_the_output() -> None:
    schedule = strategy.Schedule("cosine", warmup_epochs=1)
    phases = strategy.gradual(
        GROUPS,
        0.0625,
        strategy.Tuning(learning_rate=1e-3, epochs=15, schedule=schedule),
        epochs_each=2,
    )
    strategy.check(phases, GROUPS)
    assert [phase.name for phase in phases] == [
        *("from_stage_4", "from_stage_3", "from_stage_2", "from_stage_1", "from_stem")
    ]
    rates = {"stem": 1 / 16, "stage_1": 1 / 8, "stage_2": 1 / 4, "stage_3": 1 / 2, "stage_4": 1.0}
    for opened, phase in enumerate(phases, start=1):
        expected = {g: rates[g] if i >= 5 - opened else 0.0 for i, g in enumerate(GROUPS[:5])}
        assert phase.multipliers == pytest.approx({**expected, "head": 1.0})
        assert tuple(phase.multipliers) == GROUPS
        assert phase.learning_rate == 1e-3
    assert [phase.epochs for phase in phases] == [2, 2, 2, 2, 7]
    assert [phase.schedule.name for phase in phases] == ["constant"] * 4 + ["cosine"]
    assert phases[-1].schedule == schedule


@pytest.mark.parametrize(
    ("asked", "rest", "kept"), [(1, 7, 1), (3, 6, 3), (3, 1, 0.5), (4, 3, 1.5)]
)
def test_a_warm_up_takes_half_of_the_last_phase_at_most(asked, rest, kept) -> None:
    schedule = strategy.Schedule("step", warmup_epochs=asked, halve_every=2)
    *opening, last = strategy.gradual(
        GROUPS, 0.1, strategy.Tuning(learning_rate=1.0, epochs=4 + rest, schedule=schedule)
    )
    assert last.schedule == strategy.Schedule("step", warmup_epochs=kept, halve_every=2)
    assert {phase.schedule for phase in opening} == {strategy.Schedule("constant")}


def test_gradual_hands_on_batch_norm_and_augmentation_to_every_phase() -> None:
    phases = strategy.gradual(
        GROUPS, 0.1, dataclasses.replace(HOW, batch_norm="trainable", augment="medium")
    )
    assert {(phase.batch_norm, phase.augment) for phase in phases} == {("trainable", "medium")}
    assert sum(phase.epochs for phase in phases) == HOW.epochs


def test_one_stage_opens_at_once() -> None:
    (phase,) = strategy.gradual(("stem", "head"), 0.1, strategy.Tuning(learning_rate=1.0, epochs=1))
    assert phase.multipliers == {"stem": 1.0, "head": 1.0}
    assert (phase.name, phase.epochs) == ("from_stem", 1)


@pytest.mark.parametrize(("epochs", "each"), [(4, 1), (8, 2), (0, 1)])
def test_fewer_epochs_than_openings(epochs, each) -> None:
    with pytest.raises(
        checks.ConfigError,
        match=f"one by one needs more than {4 * each} epochs.*epochs={epochs}",
    ):
        strategy.gradual(
            GROUPS, 0.1, strategy.Tuning(learning_rate=1.0, epochs=epochs), epochs_each=each
        )
    assert (
        len(
            strategy.gradual(
                GROUPS,
                0.1,
                strategy.Tuning(learning_rate=1.0, epochs=4 * each + 1),
                epochs_each=each,
            )
        )
        == 5
    )


@pytest.mark.parametrize("each", [0, -1])
def test_an_opening_lasts_an_epoch_at_least(each) -> None:
    with pytest.raises(checks.ConfigError, match=r"epochs must lie in \[1, inf\)"):
        strategy.gradual(
            GROUPS, 0.1, strategy.Tuning(learning_rate=1.0, epochs=9), epochs_each=each
        )
