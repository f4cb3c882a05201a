"""The recipe that measures first, and what it shares with `advise`."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from finetune_kit import checks, data, results
from finetune_kit.strategy.candidates import CANDIDATES
from finetune_kit.training import racing
from recipes import advising, auto, jobs, loading, looking, probe_then_finetune, settings
from tests.recipes import coloured

QUICK = {"epochs": 3, "learning_rate": 3e-3, "batch_size": 8, "augment": "none"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares", per_class=20))


def config(photos, workdir, **values):
    return auto.Config(**{"data": photos, "workdir": str(workdir), **QUICK, **values})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photos):
    """A run as advised, its report and its directory."""
    workdir = tmp_path_factory.mktemp("runs") / "1"
    auto.run(config(photos, workdir, plan="by_depth"))
    return workdir, json.loads((workdir / "report.json").read_text())


@pytest.fixture(scope="module")
def loaded(photos, tmp_path_factory):
    return loading.load(config(photos, tmp_path_factory.mktemp("unused")))


def test_the_advice_stands_in_its_file_in_the_report_and_on_the_page(finished) -> None:
    workdir, report = finished
    advice = results.read_advice(workdir)
    assert report["advice"] == advice
    assert advice["plan"]["plan"] == "by_depth" == report["config"]["plan"]
    assert report["config"]["head_stages"] == CANDIDATES["by_depth"].head_stages
    assert report["config"]["batch_norm"] == "frozen"
    assert report["config"]["batch_norm_statistics"] == "source"
    assert 0 <= advice["similarity"]["value"]["value"] <= 1
    assert len(advice["task_fit"]["stages"]) == len(report["backbone"]["stages"])
    page = (workdir / "report.html").read_text()
    assert "Why this plan" in page
    for line in advice["plan"]["decisions"]:
        assert line["what"] in page
    assert page.count("<svg") >= 4  # two profiles beside the curves and the matrix


def test_the_advice_is_in_tensorboard(finished) -> None:
    from tests.training.test_running import events

    tags = {tag for tag, _, _ in events(finished[0] / "tensorboard")}
    assert {"advice", "advice/similarity", "advice/probe", "advice/confidence"} <= tags


def test_what_a_flag_decides_has_no_other_reason(finished) -> None:
    reasons = {d["what"]: d["reason"] for d in finished[1]["advice"]["plan"]["decisions"]}
    assert reasons["augmentation"] == reasons["epochs"] == reasons["rates"] == "as you said"


def test_the_plan_that_is_advised_is_the_plan_that_trains(finished) -> None:
    report = finished[1]
    last = report["phases"][-1]
    stages = report["backbone"]["stages"]
    assert last["multipliers"][stages[-1]] / last["multipliers"][stages[0]] == pytest.approx(10)
    assert [phase["solved"] for phase in report["phases"]] == [True, False]


def test_a_plan_trains_the_same_weights_as_the_recipe_it_is(photos, tmp_path) -> None:
    auto.run(config(photos, tmp_path / "auto", plan="finetune"))
    method = probe_then_finetune
    method.run(method.Config(data=photos, workdir=str(tmp_path / "recipe"), **QUICK))
    ours, theirs = (
        results.load_model(tmp_path / name)[0].get_weights() for name in ("auto", "recipe")
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_unsaid_statistics_are_measured_where_a_plan_trains_batch_norm(loaded) -> None:
    plan = advising.planned(loaded, looking.counted(loaded), plan="bold_batch_norm")
    assert plan.phases[-1].batch_norm == "trainable"
    assert jobs.training_options(loaded.config).batch_norm_statistics == "auto"


@pytest.mark.slow
def test_batch_norm_trains_from_the_statistics_of_the_images(photos, tmp_path) -> None:
    report = auto.run(config(photos, tmp_path / "auto", plan="bold_batch_norm"))
    assert report.config["batch_norm"] == "trainable"
    method = probe_then_finetune
    method.run(method.Config(
        data=photos, workdir=str(tmp_path / "recipe"), head_stages=3, batch_norm="trainable",
        batch_norm_statistics="target", **QUICK,
    ))  # fmt: skip
    ours, theirs = (
        results.load_model(tmp_path / name)[0].get_weights() for name in ("auto", "recipe")
    )
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_flags_overrule_what_a_plan_says_of_batch_norm(photos, tmp_path, loaded) -> None:
    said = loading.load(config(photos, tmp_path, batch_norm="trainable"))
    known = looking.counted(said)
    plan = advising.planned(said, known, plan="by_depth")
    assert plan.phases[-1].batch_norm == "trainable"
    reasons = {line.what: line.reason for line in plan.decisions}
    assert reasons["BatchNorm"] == "as you said"
    plan = advising.planned(loaded, known, plan="by_depth")
    assert plan.phases[-1].batch_norm == "frozen"


def test_from_scratch_begins_at_random_weights(loaded) -> None:
    fresh = advising.classifier_for(loaded, CANDIDATES["scratch"])
    kept = advising.classifier_for(loaded, CANDIDATES["deep_head"])
    assert fresh.backbone.weights == "none"
    assert kept.backbone is loaded.classifier.backbone
    first = [np.array(c.backbone.model.trainable_variables[0]) for c in (fresh, kept)]
    assert not np.allclose(*first)


def test_a_network_of_few_stages_gives_its_head_those_it_has(loaded) -> None:
    backbone = loaded.classifier.backbone
    short = dataclasses.replace(backbone, stages=backbone.stages[-2:])
    deep = CANDIDATES["deep_head"]
    assert advising._head_stages(loaded.config, backbone, deep) == 3
    assert advising._head_stages(loaded.config, short, deep) == 2
    told = dataclasses.replace(loaded.config, head_stages=1)
    assert advising._head_stages(told, backbone, deep) == 1


def test_looking_leaves_the_backbone_as_it_was(loaded) -> None:
    variables = loaded.classifier.model.variables
    before = [np.array(v) for v in variables]
    found = looking.look(loaded)
    for value, variable in zip(before, variables, strict=True):
        np.testing.assert_array_equal(value, np.array(variable))
    assert found.evidence.images == len(loaded.images.train)
    assert found.evidence.classes == 3
    assert found.costs.forward > 0
    assert sum(found.costs.shares) == pytest.approx(1.0)
    json.dumps(found.to_dict())


@pytest.mark.parametrize(
    ("size", "side", "said"),
    [
        (32, 32, "32 px; the originals have 32 px: more pixels would be invented"),
        (32, 33, "32 px; the originals have 33 px: --image_size=64 may gain accuracy at four "),
        ((48, 32), 32, "48x32 px; the originals have 32 px: more pixels would be invented"),
        ((32, 48), 40, "32x48 px; the originals have 40 px: --image_size=64x96 may gain acc"),
    ],
)
def test_more_pixels_are_proposed_where_the_originals_have_them(size, side, said) -> None:
    images = types.SimpleNamespace(image_size=size, audit=types.SimpleNamespace(median_side=side))
    assert advising._resolution(types.SimpleNamespace(images=images)).startswith(said)


@pytest.fixture(scope="module")
def arrows(tmp_path_factory):
    """Wedges that point to the left, to the right and upwards; two become each other mirrored."""
    root, generator = tmp_path_factory.mktemp("arrows"), np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    shapes = {"left": x > 2 * abs(y - 0.5), "up": y > 2 * abs(x - 0.5)}
    shapes["right"] = np.fliplr(shapes["left"])
    for name, shape in shapes.items():
        (root / name).mkdir()
        for number in range(12):
            pixels = 150 * np.roll(shape, generator.integers(-3, 4, 2), (0, 1))
            pixels = pixels[..., None] + generator.uniform(0, 100, (32, 32, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return str(root)


def augmented(advice):
    (line,) = [d for d in advice.plan.decisions if d.what == "augmentation"]
    return advice.augment, line.value, line.reason


def test_what_becomes_another_class_in_the_mirror_is_not_mirrored(arrows, photos) -> None:
    tuned = {"plan": "finetune", "workdir": "unused"}
    advice = advising.consult(loading.load(auto.Config(data=arrows, **tuned)))
    upright, mirrored = (hits.mean() for hits in advice.look.mirrored)
    assert upright > 0.8 and mirrored < 0.6
    level, shown, reason = augmented(advice)
    assert level == shown == "shift" and reason.startswith("small shifts without flips: a probe")
    assert advice.plan.phases[-1].augment == "shift"
    told = advice.to_dict()
    assert told["augment"] == "shift" and told["mirrored"]["mirrored"] == pytest.approx(mirrored)
    # A square of one colour stays one.
    level, shown, reason = augmented(
        advising.consult(loading.load(auto.Config(data=photos, **tuned)))
    )
    assert level == shown == "light" and reason.startswith("flips and small shifts: a probe")


def test_an_augmentation_that_is_given_is_not_overruled(arrows) -> None:
    told = auto.Config(data=arrows, workdir="unused", plan="finetune", augment="light")
    advice = advising.consult(loading.load(told))
    assert augmented(advice) == ("light", "light", "as you said")
    assert advice.look.mirrored is None  # nobody asks
    going_on = advising.consult(loading.load(dataclasses.replace(told, resume=True)))
    assert augmented(going_on) == ("light", "light", "as decided before")


def test_a_sample_keeps_the_shares_of_the_classes() -> None:
    labels = np.repeat([0, 1], [300, 100])
    pixels = np.zeros((400, 8, 8, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(400) % 256
    pixels[:, 0, 0, 1] = np.arange(400) // 256
    split = data.load(data.Arrays(pixels, labels), image_size=8).train
    sample = looking.sample(split, 100, seed=0)
    share = split.counts(2)[0] / len(split)
    assert len(sample) == 100
    assert abs(sample.counts(2)[0] - 100 * share) <= 1
    assert looking.sample(split, len(split), seed=0) is split


def test_a_race_is_run_and_told(photos, tmp_path) -> None:
    report = auto.run(config(photos, tmp_path / "run", race=True))
    race = report.advice["race"]
    assert race["winner"] == report.advice["plan"]["plan"]
    assert set(race["errors"]) == {race["winner"], report.advice["plan"]["runner_up"]}
    assert race["reason"] in report.notes
    decisions = {d["what"]: d["reason"] for d in report.advice["plan"]["decisions"]}
    assert decisions["method"].startswith("it won the race")
    assert report.seconds["advice"] >= race["seconds"]


def test_what_a_race_took_is_not_left_for_training(photos, tmp_path, monkeypatch) -> None:
    asked = loading.load(config(photos, tmp_path, race=True, time_budget="10m", epochs=50_000))
    plans = []

    def raced(loaded, timed, plan, second):
        plans.append(second)
        return racing.Result(second.candidate.name, {}, 9, 0.1, 0.01, 240.0, "it was faster")

    monkeypatch.setattr(advising, "_race", raced)
    plan = advising.consult(asked).plan
    assert plan.candidate == plans[0].candidate
    assert plan.seconds <= 600
    assert 0 < plan.phases[-1].epochs < plans[0].phases[-1].epochs


def test_a_resumed_run_keeps_the_plan_that_was_decided(photos, tmp_path) -> None:
    workdir = tmp_path / "run"
    auto.run(config(photos, workdir, plan="last_stage"))
    (workdir / "report.json").unlink()
    resumed = auto.run(config(photos, workdir, resume=True))
    assert resumed.advice["plan"]["plan"] == "last_stage"
    decisions = {d["what"]: d["reason"] for d in resumed.advice["plan"]["decisions"]}
    assert decisions["method"].startswith("as decided before")
    assert any("gone on with an interrupted run" in note for note in resumed.notes)


def test_a_time_budget_shortens_the_plan(photos, tmp_path, loaded) -> None:
    long = {"plan": "by_depth", "epochs": 5_000}
    asked = loading.load(config(photos, tmp_path, **long, time_budget="60s"))
    found = looking.look(asked)
    plan = advising.planned(asked, found.evidence, found.costs, plan="by_depth")
    assert plan.phases[-1].epochs < 5_000
    assert plan.seconds <= 60


@pytest.mark.parametrize(
    ("text", "seconds"), [("", 0), ("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5_400)]
)
def test_times_are_read_as_people_write_them(text, seconds) -> None:
    assert settings.seconds(text) == seconds


def test_bad_values_are_found_before_anything_is_loaded(photos, tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="5m or 1h30m"):
        config(photos, tmp_path, time_budget="soon")
    with pytest.raises(checks.ConfigError, match="Did you mean 'by_depth'"):
        config(photos, tmp_path, plan="by_dept")


def test_advice_that_is_no_json_is_refused(tmp_path) -> None:
    (tmp_path / results.ADVICE).write_text("{")
    with pytest.raises(checks.DataError, match="must be JSON"):
        results.read_advice(tmp_path)
    assert results.read_advice(tmp_path / "elsewhere") == {}
