"""The plans to choose from, as phases."""

import dataclasses

import pytest

from finetune_kit import checks, strategy
from finetune_kit.strategy.candidates import BOLD, CANDIDATES, DEEP, Candidate

GROUPS = ("stem", "stage_1", "stage_2", "stage_3", "head")
TUNING = strategy.Tuning(learning_rate=3e-4, epochs=10)


def phases_of(name, **keywords):
    return CANDIDATES[name].phases(GROUPS, TUNING, **keywords)


@pytest.mark.parametrize("name", list(CANDIDATES))
def test_every_candidate_makes_phases_that_a_classifier_can_run(name) -> None:
    strategy.check(phases_of(name), GROUPS)


@pytest.mark.parametrize("name", ["head", "deep_head"])
def test_a_head_trains_no_stage(name) -> None:
    (only,) = phases_of(name)
    assert only.solved


def test_the_deep_ones_see_several_stages() -> None:
    assert CANDIDATES["head"].head_stages == 1
    assert CANDIDATES["deep_head"].head_stages == CANDIDATES["by_depth"].head_stages == DEEP


def test_last_stage_opens_the_last_stage() -> None:
    assert phases_of("last_stage")[-1].trained == ("stage_3", "head")


@pytest.mark.parametrize(
    ("shift", "stage"),
    [("input", "stem"), ("semantic", "stage_3"), ("middle", "stage_2"), ("unknown", "stage_2")],
)
def test_surgery_opens_the_stage_where_the_images_depart(shift, stage) -> None:
    assert phases_of("surgical", shift=shift)[-1].trained == (stage, "head")


def test_rates_by_depth_rise_tenfold_from_the_stem_to_the_last_stage() -> None:
    last = phases_of("by_depth")[-1]
    assert last.multipliers["stage_3"] / last.multipliers["stem"] == pytest.approx(10)
    assert last.learning_rate == pytest.approx(BOLD * TUNING.learning_rate)


def test_one_rate_for_all_where_rates_do_not_differ() -> None:
    assert set(phases_of("deep_finetune")[-1].multipliers.values()) == {1.0}
    assert phases_of("deep_finetune")[-1].learning_rate == TUNING.learning_rate


def test_from_scratch_nothing_is_solved_and_batch_norm_learns() -> None:
    (only,) = phases_of("scratch")
    assert not only.solved
    assert only.batch_norm == "trainable"
    assert phases_of("full")[0].batch_norm == "frozen"
    assert not phases_of("full")[0].solved


def test_a_plan_says_whether_batch_norm_trains_where_nobody_else_does() -> None:
    last = phases_of("bold_batch_norm")[-1]
    assert (last.batch_norm, last.learning_rate) == ("frozen", pytest.approx(BOLD * 3e-4))
    unsaid = dataclasses.replace(TUNING, batch_norm="auto")
    found = {name: way.phases(GROUPS, unsaid)[-1].batch_norm for name, way in CANDIDATES.items()}
    assert {name for name in found if found[name] == "trainable"} == {"bold_batch_norm", "scratch"}
    trained = dataclasses.replace(TUNING, batch_norm="trainable")
    assert CANDIDATES["by_depth"].phases(GROUPS, trained)[-1].batch_norm == "trainable"


def test_batch_norm_alone_trains_in_every_stage_and_keeps_its_statistics() -> None:
    last = phases_of("batch_norm")[-1]
    assert (last.layers, last.batch_norm) == ("batch_norm", "frozen")
    assert last.trained == GROUPS


def test_work_grows_with_what_opens() -> None:
    order = ["deep_head", "last_stage", "surgical", "batch_norm", "deep_finetune"]
    assert [CANDIDATES[name].work for name in order] == sorted(
        {CANDIDATES[name].work for name in order}
    )


def test_unknown_words_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="opens"):
        Candidate(name="x", title="x", opens="everything")
    with pytest.raises(checks.ConfigError, match="start"):
        Candidate(name="x", title="x", start="zero")
    with pytest.raises(checks.ConfigError, match="batch_norm"):
        Candidate(name="x", title="x", batch_norm="learned")
