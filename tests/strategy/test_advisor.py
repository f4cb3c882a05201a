"""From evidence to a plan."""

import dataclasses
import json

import pytest

from finetune_kit import checks, metrics, strategy
from finetune_kit.strategy import advisor
from finetune_kit.strategy.candidates import BOLD, CANDIDATES
from finetune_kit.strategy.costs import Costs
from finetune_kit.strategy.evidence import Evidence
from finetune_kit.strategy.experience import Experience

GROUPS = ("stem", "stage_1", "stage_2", "stage_3", "head")
SETTING = advisor.Setting(
    groups=GROUPS,
    tuning=strategy.Tuning(
        learning_rate=3e-4,
        epochs=30,
        schedule=strategy.Schedule("cosine", warmup_epochs=1.0),
        batch_norm="auto",
    ),
    costs=Costs(forward=0.001, trace=4.0, others=3.0, spent=5.0, shares=(0.4, 0.3, 0.2, 0.1)),
    why={"epochs": "30 epochs: 400 steps", "rates": "learning rate 0.0003: small body"},
)


def experience(residuals=({},), **gains):
    """Returns experience in which the gain over the reference does not depend on the evidence."""
    known = dict.fromkeys(CANDIDATES, -0.1) | {"deep_head": 0.0} | gains
    return Experience(
        centre=(0,) * 5, scale=(1,) * 5, low=(-9, 0, 0, -1, 0), high=(9, 1, 1, 1, 9),
        weights={name: (gain, 0, 0, 0, 0, 0) for name, gain in known.items()},
        residuals=tuple(residuals), cells=10,
    )  # fmt: skip


def evidence(**values):
    known = {"images": 200, "per_class": 20, "classes": 10, "fit": 0.5,
             "similarity": metrics.Estimate(0.7, 0.6, 0.8)}  # fmt: skip
    return Evidence(**known | values)


def advise(known=None, setting=SETTING, plan="", **gains):
    return advisor.advise(known or evidence(), setting, plan=plan, experience=experience(**gains))


def value_of(plan, what):
    return next(line.value for line in plan.decisions if line.what == what)


def reason_of(plan, what):
    return next(line.reason for line in plan.decisions if line.what == what)


def test_the_plan_of_the_highest_expected_gain_is_advised_and_the_next_is_the_runner_up() -> None:
    plan = advise(by_depth=0.05, bold_finetune=0.03)
    assert plan.candidate.name == "by_depth"
    assert plan.runner_up.name == "bold_finetune"
    assert plan.phases[-1].multipliers["stem"] == pytest.approx(0.1)


def test_of_plans_that_are_expected_to_be_as_good_the_cheapest_is_advised() -> None:
    assert advise(by_depth=0.002).candidate.name == "deep_head"
    assert advise(by_depth=0.002 + advisor.TIE).candidate.name == "by_depth"


def test_gains_that_depend_on_the_evidence_change_the_plan() -> None:
    known = experience()
    slopes = {**known.weights, "bold_finetune": (0.0, 0, 0.2, 0, 0, 0),
              "by_depth": (0.03, 0, 0, 0, 0, 0)}  # fmt: skip
    known = dataclasses.replace(known, weights=slopes)
    near, far = evidence(deep_fit=0.95), evidence(deep_fit=0.2)
    names = [advisor.advise(e, SETTING, experience=known).candidate.name for e in (near, far)]
    assert names == ["by_depth", "bold_finetune"]


def test_a_plan_that_is_named_is_taken_and_said_so() -> None:
    plan = advise(plan="last_stage", by_depth=0.05)
    assert plan.candidate.name == "last_stage"
    assert plan.runner_up.name == "by_depth"
    assert reason_of(plan, "method").startswith("as you said")
    with pytest.raises(checks.ConfigError, match="Did you mean 'by_depth'"):
        advise(plan="by_dept")


def test_a_named_plan_that_is_impossible_is_refused_with_the_reason() -> None:
    without = dataclasses.replace(SETTING, batch_norm_layers=False)
    for plan in ("batch_norm", "bold_batch_norm"):
        with pytest.raises(checks.ConfigError, match="with BatchNorm layers. Received: plan="):
            advise(setting=without, plan=plan)
    with pytest.raises(checks.ConfigError, match="with pretrained weights. Received: plan='head'"):
        advise(evidence(pretrained=False), plan="head")


def test_without_pretrained_weights_there_is_nothing_but_training_from_scratch() -> None:
    plan = advise(evidence(pretrained=False), by_depth=0.05)
    assert plan.candidate.name == "scratch"
    assert plan.runner_up is None
    assert value_of(plan, "from scratch") == "yes"
    assert value_of(plan, "runner-up") == "none"


def test_batch_norm_layers_are_tuned_only_where_there_are_some() -> None:
    assert advise(batch_norm=0.2).candidate.name == "batch_norm"
    without = dataclasses.replace(SETTING, batch_norm_layers=False)
    assert advise(setting=without, batch_norm=0.2).candidate.name == "deep_head"


def with_tuning(**values):
    return dataclasses.replace(SETTING, tuning=dataclasses.replace(SETTING.tuning, **values))


def test_a_plan_trains_batch_norm_unless_a_flag_or_the_network_says_otherwise() -> None:
    plan = advise(bold_batch_norm=0.05, by_depth=0.03)
    assert plan.candidate.name == "bold_batch_norm"
    assert value_of(plan, "BatchNorm") == "trainable"
    assert "have to become those of these images" in reason_of(plan, "BatchNorm")
    without = dataclasses.replace(SETTING, batch_norm_layers=False)
    for setting in (without, with_tuning(batch_norm="frozen")):
        other = advise(setting=setting, bold_batch_norm=0.05, by_depth=0.03)
        assert other.candidate.name == "by_depth"
        assert "bold_batch_norm" not in other.choice.gains
    random = advise(evidence(pretrained=False), without, bold_batch_norm=0.05)
    assert random.phases[-1].batch_norm == "trainable"


@pytest.mark.parametrize(("batch_size", "images"), [(15, 200), (32, 15)])
def test_batches_that_are_too_small_for_their_statistics_train_no_batch_norm(
    batch_size, images
) -> None:
    small, known = dataclasses.replace(SETTING, batch_size=batch_size), evidence(images=images)
    plan = advise(known, small, bold_batch_norm=0.05, by_depth=0.03)
    assert plan.candidate.name == "by_depth"
    named = advise(known, small, plan="bold_batch_norm", bold_batch_norm=0.05)
    assert named.phases[-1].batch_norm == "trainable"
    assert "+5.0 points" in reason_of(named, "method")
    enough = dataclasses.replace(SETTING, batch_size=16)
    assert advise(evidence(images=16), enough, bold_batch_norm=0.05).candidate.name == (
        "bold_batch_norm"
    )


def test_of_plans_that_a_flag_has_made_equal_one_is_left() -> None:
    given = dataclasses.replace(SETTING, rate_given=True)
    gains = {"deep_finetune": 0.05, "bold_finetune": 0.049, "last_stage": 0.03}
    plan = advise(setting=given, **gains)
    assert (plan.candidate.name, plan.runner_up.name) == ("deep_finetune", "last_stage")
    named = advise(setting=given, plan="bold_finetune", **gains)
    assert (named.candidate.name, named.runner_up.name) == ("bold_finetune", "last_stage")
    assert advise(**gains).runner_up.name == "bold_finetune"


def test_a_rate_that_was_given_is_not_multiplied() -> None:
    chosen = advise(bold_finetune=0.05)
    assert chosen.phases[-1].learning_rate == pytest.approx(BOLD * 3e-4)
    given = advise(setting=dataclasses.replace(SETTING, rate_given=True), bold_finetune=0.05)
    assert given.phases[-1].learning_rate == pytest.approx(3e-4)


def test_the_expected_time_is_that_of_the_phases() -> None:
    plan = advise(by_depth=0.05)
    assert plan.seconds == pytest.approx(5 + 4 + 30 * 200 * 0.001 * 3 + 3)
    assert "about 30 s" in value_of(plan, "time")
    unknown = advise(setting=dataclasses.replace(SETTING, costs=None), by_depth=0.05)
    assert unknown.seconds is None
    assert value_of(unknown, "time") == "unknown"


def test_a_budget_shortens_the_plan() -> None:
    plan = advise(setting=dataclasses.replace(SETTING, budget=22.0), by_depth=0.05)
    assert plan.candidate.name == "by_depth"
    assert 6 < plan.phases[-1].epochs < 30
    assert plan.seconds <= 22.0
    assert "shortened from 30 to keep within 22 s" in reason_of(plan, "epochs")


def test_a_budget_that_leaves_no_room_for_steps_leaves_the_head() -> None:
    plan = advise(setting=dataclasses.replace(SETTING, budget=14.0), by_depth=0.05)
    assert plan.candidate.name == "deep_head"
    assert plan.phases[-1].solved


def test_a_budget_that_leaves_nothing_is_answered_by_the_cheapest_plan() -> None:
    plan = advise(evidence(pretrained=False), setting=dataclasses.replace(SETTING, budget=6.0))
    assert plan.candidate.name == "scratch"


def test_every_decision_has_a_value_and_a_reason() -> None:
    for name in CANDIDATES:
        plan = advise(plan=name)
        lines = {line.what for line in plan.decisions}
        assert {"case", "method", "head", "stages", "from scratch", "regulariser", "resolution",
                "runner-up", "time", "confidence"} <= lines  # fmt: skip
        assert all(line.value for line in plan.decisions)
        trained = not plan.phases[-1].solved
        assert ({"rates", "epochs", "BatchNorm", "augmentation"} <= lines) == trained


def test_figures_stand_in_the_reasons() -> None:
    plan = advise(by_depth=0.052, scratch=-0.31)
    assert reason_of(plan, "case").startswith(
        "200 images, 20 a class, similarity 0.70 [0.60, 0.80], task fit 0.50"
    )
    assert "+5.2 points" in reason_of(plan, "method")
    assert "-31.0 points" in reason_of(plan, "from scratch")
    assert value_of(plan, "rates") == "0.0001 to 0.001, cosine"
    assert reason_of(plan, "epochs") == "30 epochs: 400 steps"


def test_where_experience_contradicts_the_source_text_the_plan_says_so() -> None:
    similar = evidence(similarity=metrics.Estimate(0.9, 0.9, 0.9))
    assert "the source text would not" in reason_of(advise(similar, by_depth=0.05), "method")
    assert "the source text" not in reason_of(advise(similar), "method")


def test_it_is_written_as_json() -> None:
    written = json.loads(json.dumps(advise(by_depth=0.05).to_dict()))
    assert written["plan"] == "by_depth"
    assert written["expected_gains"]["by_depth"] == 0.05
    assert written["evidence"]["amount"] == "little"
    assert len(written["decisions"]) >= 10


def near(low, **values):
    return evidence(similarity=metrics.Estimate((low + 1) / 2, low, 1.0), fit=0.7, **values)


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        (near(0.9), "head"),
        (near(0.7), "by_depth"),  # an experience has seen images as near as 0.75
        (near(0.9, images=5000, per_class=500), "by_depth"),  # much data: not the text's first case
        (evidence(similarity=None), "by_depth"),
        (dataclasses.replace(near(0.9), fit=0.5), "by_depth"),  # near, but of no use
    ],
)
def test_nearer_than_any_experience_the_source_text_decides(known, chosen) -> None:
    learned = dataclasses.replace(experience(by_depth=0.05), low=(-9, 0, 0.25, -1, 0))
    plan = advisor.advise(known, SETTING, experience=learned)
    assert plan.candidate.name == chosen
    said = reason_of(plan, "method")
    assert ("source text decides" in said) == (chosen == "head")
    assert plan.runner_up.name != chosen


def test_a_plan_that_was_named_is_taken_though_the_source_text_would_decide() -> None:
    learned = dataclasses.replace(experience(by_depth=0.05), low=(-9, 0, 0.25, -1, 0))
    plan = advisor.advise(near(0.9), SETTING, plan="by_depth", experience=learned)
    assert plan.candidate.name == "by_depth"
    assert plan.runner_up.name == "head"
