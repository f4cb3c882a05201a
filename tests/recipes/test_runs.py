"""Whole runs: from a folder of images to model, report and logs; and back from them."""

import dataclasses
import importlib
import json
import pathlib
import re

import keras
import numpy as np
import pytest
from PIL import Image

from apps import evaluate, predict
from apps.finetune import RECIPES
from finetune_kit import checks, console, training
from recipes import jobs, looking, probe_then_finetune
from tests.recipes import coloured

QUICK = {"epochs": 5, "learning_rate": 3e-3, "batch_size": 8, "augment": "none"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares", per_class=20))


def configure(name: str, photos: str, workdir: pathlib.Path, **values):
    method = importlib.import_module(f"recipes.{name}")
    quick = {} if name == "head_only" else QUICK
    if name == "selective_joint":
        quick = {**QUICK, "source_data": photos, "neighbours": 5}
    made = {"data": photos, "workdir": str(workdir), **quick}
    return method, method.Config(**{**made, **values})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, photos):
    """A run of the default recipe, its report and its directory."""
    workdir = tmp_path_factory.mktemp("runs") / "1"
    method, config = configure("probe_then_finetune", photos, workdir)
    method.run(config)
    return workdir, json.loads((workdir / "report.json").read_text())


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_the_colours(name, photos, tmp_path) -> None:
    method, config = configure(name, photos, tmp_path / "run")
    report = method.run(config)
    assert report.recipe == name
    assert report.scores["test"]["accuracy"].value >= 0.75  # of 12 images; guessing gets a third
    assert report.scores["test"].n == 12


def test_the_work_directory_holds_what_others_rely_on(finished) -> None:
    workdir, report = finished
    names = {path.name for path in workdir.iterdir()}
    assert {"model.keras", "classes.json", "report.json", "report.html"} <= names
    assert {"tensorboard", "checkpoints"} <= names
    assert json.loads((workdir / "classes.json").read_text()) == sorted(coloured.CLASSES)
    assert {"recipe", "config", "data", "phases", "seconds", "scores"} <= report.keys()
    assert report["data"]["fingerprint"] and report["data"]["counts"]["train"]["red"] == 13
    assert report["config"]["learning_rate"] == QUICK["learning_rate"]
    for split in ("validation", "test"):
        accuracy = report["scores"][split]["accuracy"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert report["scores"][split]["n"] == sum(report["data"]["counts"][split].values())


def test_the_parts_of_the_time_do_not_exceed_the_whole(finished) -> None:
    seconds = dict(finished[1]["seconds"])
    total = seconds.pop("total")
    assert seconds.keys() >= {
        "data", "backbone", "features", "head", "forward", "backward", "validation", "evaluation"
    }  # fmt: skip
    assert 0 < sum(seconds.values()) <= total


def test_the_saved_model_scores_what_the_report_says(finished, photos) -> None:
    workdir, report = finished
    found = evaluate.run(evaluate.Config(model=str(workdir)))
    assert found["scores"]["n"] == report["scores"]["test"]["n"]
    for name in ("accuracy", "log_loss"):
        expected = report["scores"]["test"][name]["value"]
        assert found["scores"][name]["value"] == pytest.approx(expected, abs=1e-4)


def test_the_saved_model_takes_raw_images_of_any_size(finished) -> None:
    model = keras.saving.load_model(finished[0] / "model.keras")
    big = np.full((2, 75, 50, 3), 30, np.uint8)
    big[..., 2] = 250
    probabilities = model.predict(big.astype(np.float32), verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert probabilities.argmax(axis=1).tolist() == [0, 0]  # blue


def test_the_saved_model_is_the_backbone_of_another_run(finished, photos, tmp_path) -> None:
    exported = str(finished[0] / "model.keras")
    method, config = configure("head_only", photos, tmp_path / "run", backbone=exported)
    report = method.run(config)
    first = finished[1]["backbone"]
    assert report.backbone["image_size"] == first["image_size"]
    assert report.backbone["stages"] == first["stages"]
    assert report.scores["test"]["accuracy"].value >= 0.75


def test_pictures_and_scalars_are_in_tensorboard(finished) -> None:
    from tests.training.test_running import events

    tags = {tag for tag, _, _ in events(finished[0] / "tensorboard")}
    assert {"plan", "loss/training", "accuracy/validation", "rate/head", "test/confusion"} <= tags


def test_a_used_work_directory_is_refused_and_can_be_overwritten(tmp_path, photos) -> None:
    method, config = configure("head_only", photos, tmp_path / "run")
    method.run(config)
    (tmp_path / "run" / "mine.txt").write_text("keep")
    with pytest.raises(checks.EnvironmentFault, match="must not hold another run"):
        method.run(config)
    method, config = configure("head_only", photos, tmp_path / "run", overwrite=True, seed=1)
    method.run(config)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["config"]["seed"] == 1
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"


def test_a_killed_run_goes_on(tmp_path, photos, monkeypatch) -> None:
    method, config = configure("probe_then_finetune", photos, tmp_path / "run")

    def killed(self) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs.Job, "_save", killed)
        with pytest.raises(KeyboardInterrupt):
            method.run(config)
    with pytest.raises(checks.ConfigError, match="epochs=9 instead of 5"):
        method.run(configure("probe_then_finetune", photos, tmp_path / "run",
                             resume=True, epochs=9)[1])  # fmt: skip
    others = {"batch_norm_statistics": "target", "head_stages": 2, "l2_sp": 0.5, "wise": 0.5}
    for name, value in others.items():
        other = {name: value, "resume": True}
        with pytest.raises(checks.ConfigError, match=f"Received: {name}={value!r} instead of"):
            method.run(configure("probe_then_finetune", photos, tmp_path / "run", **other)[1])
    report = method.run(configure("probe_then_finetune", photos, tmp_path / "run", resume=True)[1])
    assert any("gone on with an interrupted run" in note for note in report.notes)
    assert len(report.history) == 6


def test_what_diverged_is_saved_with_its_last_good_weights(tmp_path, photos, monkeypatch) -> None:
    method, config = configure("full_finetune", photos, tmp_path / "run")

    def diverged(*args: object, **kwargs: object) -> None:
        raise checks.NumericsError("The loss must be a finite number.")

    monkeypatch.setattr(training, "run", diverged, raising=False)
    monkeypatch.setattr(jobs.training, "run", diverged, raising=False)
    with pytest.raises(checks.NumericsError):
        method.run(config)
    assert (tmp_path / "run" / "model.keras").is_file()
    assert not (tmp_path / "run" / "report.json").exists()


def test_half_precision_trains_and_exports(tmp_path, photos) -> None:
    method, config = configure(
        "probe_then_finetune", photos, tmp_path / "run", precision="mixed_bfloat16"
    )
    report = method.run(config)
    assert report.scores["test"]["accuracy"].value >= 0.75
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert {layer.compute_dtype for layer in model._flatten_layers()} >= {"bfloat16", "float32"}
    found = evaluate.run(evaluate.Config(model=str(tmp_path / "run")))
    expected = report.scores["test"]["accuracy"].value
    assert found["scores"]["accuracy"]["value"] == pytest.approx(expected, abs=1 / 12 + 1e-6)
    assert all(weight.dtype == "float32" for weight in model.weights)


def test_a_head_on_all_stages_trains_and_exports(tmp_path, photos) -> None:
    run = tmp_path / "run"
    method, config = configure("probe_then_finetune", photos, run, head_stages=0)
    report = method.run(config)
    weights = keras.saving.load_model(run / "model.keras").weights
    shapes = {weight.path: weight.shape for weight in weights}
    assert shapes["head/kernel"] == (32 + 64 + 128 + 256, 3)  # the bundled network's four blocks
    found = evaluate.run(evaluate.Config(model=str(run)))
    expected = report.scores["test"]["log_loss"].value
    assert found["scores"]["log_loss"]["value"] == pytest.approx(expected, abs=1e-4)
    method, config = configure("head_only", photos, tmp_path / "other", head_stages=5)
    with pytest.raises(checks.ConfigError, match="1 to 4 stages of this network.*stages=5"):
        method.run(config)


def test_a_stage_is_chosen_by_its_gradient_and_the_report_says_so(tmp_path, photos) -> None:
    method, config = configure("surgical", photos, tmp_path / "run")
    report = method.run(config)
    stage = report.config["stage"]
    assert report.phases[1]["multipliers"][stage] == 1.0
    (note,) = [note for note in report.notes if "largest gradient" in note]
    figures = dict(re.findall(r"(stem|stage_\d) ([\d.e-]+)[,)]", note))
    assert list(figures) == ["stem", "stage_1", "stage_2", "stage_3"]
    assert max(figures, key=lambda name: float(figures[name])) == stage
    named = configure("surgical", photos, tmp_path / "run", stage=stage, resume=True)[1]
    again = method.run(named)  # to name what was chosen is to ask for the same run
    assert any("gone on with an interrupted run" in note for note in again.notes)


def test_a_label_budget_is_all_that_is_seen(tmp_path, photos) -> None:
    method, config = configure("head_only", photos, tmp_path / "run", per_class=4)
    report = method.run(config)
    assert report.data["images"] == {"train": 12, "test": 12}
    assert report.scores["validation"].n == 12  # every image of the budget, in some fold


def test_what_is_chosen_is_resolved_and_explained(tmp_path, photos) -> None:
    method, config = configure("full_finetune", photos, tmp_path / "run", epochs=0,
                               learning_rate=0.0, batch_size=64)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.strategy, "default_epochs", lambda n, batch_size: (2, f"2 for {n}"),
                      raising=False)  # fmt: skip
        report = method.run(config)
    assert report.config["epochs"] == 2 and report.config["learning_rate"] > 0
    assert any("2 for 39" in note for note in report.notes)
    assert any("S10" in note for note in report.notes)


def test_a_long_run_says_how_long_it_takes(tmp_path, photos, monkeypatch, capsys) -> None:
    timed = looking.costs.Costs(
        forward=0.01, trace=2.0, others=5.0, spent=3.0, shares=(0.5, 0.3, 0.1, 0.1)
    )
    monkeypatch.setattr(jobs.looking, "measured_costs", lambda job: timed)
    method, config = configure("full_finetune", photos, tmp_path / "short", per_class=4)
    assert method.run(config).outcome["expected_seconds"] is None
    monkeypatch.setattr(jobs, "LONG", 0)
    console.activate(plain=True)
    try:
        expected = method.run(dataclasses.replace(config, workdir=str(tmp_path / "long"))).outcome[
            "expected_seconds"
        ]
    finally:
        console.deactivate()
    # Backward takes twice as long as forward; three folds of two thirds, then all 12 images.
    assert expected == pytest.approx(3 + 2 + 3 * 12 * 5 * 0.01 * (1 + 2) + 5)
    assert f"about {expected:.0f} s in all" in capsys.readouterr().out


def test_a_bad_file_is_left_out_and_named(tmp_path) -> None:
    root = coloured.write(tmp_path / "squares", per_class=40)
    (root / "red" / "00.png").write_bytes(b"\x89PNG\r\n")
    method, config = configure("head_only", str(root), tmp_path / "run")
    report = method.run(config)
    assert any("red/00.png was left out" in note for note in report.notes)
    assert sum(report.data["images"].values()) == 119


def test_a_run_on_images_that_are_not_square_and_what_becomes_of_it(photos, tmp_path) -> None:
    size, workdir = (32, 48), tmp_path / "run"
    quick = {"augment": "strong", "epochs": 1, "plan": "last_stage", "tensorboard": False}
    method, config = configure("auto", photos, workdir, image_size=size, **quick)
    report = method.run(config)
    saved = json.loads((workdir / "report.json").read_text())
    for part in ("config", "data", "backbone"):
        assert saved[part]["image_size"] == list(size)
    assert any("measured at 32 px, the images are seen at 32x48 px" in x for x in report.notes)
    assert '"32x48 px"' in json.dumps(saved["advice"]["plan"])

    found = evaluate.run(evaluate.Config(model=str(workdir)))
    for name in ("accuracy", "log_loss"):
        value = found["scores"][name]["value"]
        assert value == pytest.approx(report.scores["test"][name].value, abs=1e-3)

    paths = sorted(pathlib.Path(photos).glob("*/0*.png"))[:6]
    model = keras.saving.load_model(workdir / "model.keras")
    # Of another form than the network's: model and decoder both have to squeeze them.
    given = [np.asarray(Image.open(path).resize((40, 70))) for path in paths]
    for number, pixels in enumerate(given):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    expected = model.predict(np.stack(given).astype(np.float32), verbose=0)
    words = [*(str(tmp_path / f"{n}.png") for n in range(6)), f"--output={tmp_path / 'out.jsonl'}"]
    assert predict.main([f"--model={workdir}", *words]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["probability"] for row in rows], expected.max(1), atol=0.02)


def test_a_run_on_arrays_of_which_the_fourth_channel_alone_tells_the_classes(tmp_path) -> None:
    generator = np.random.default_rng(0)
    for name, axis in (("across", 0), ("down", 1)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 120, (40, 36, 4)).astype(np.uint8)
            stripes = 120 * (np.arange(pixels.shape[axis]) // 5 % 2).astype(np.uint8)
            pixels[..., 3] += np.expand_dims(stripes, 1 - axis)
            np.save(tmp_path / "photos" / name / f"{number}.npy", pixels)
    photos, workdir = str(tmp_path / "photos"), tmp_path / "run"
    quick = {"augment": "strong", "epochs": 1, "plan": "last_stage", "image_size": 32}
    method, config = configure("auto", photos, workdir, channels=4, **quick)
    report = method.run(config)
    assert report.scores["test"]["accuracy"].value == 1.0
    assert report.config["channels"] == report.data["channels"] == 4
    assert any("in RGB, and these images have 4 channels" in note for note in report.notes)

    found = evaluate.run(evaluate.Config(model=str(workdir)))
    expected = report.scores["test"]["log_loss"].value
    assert found["scores"]["log_loss"]["value"] == pytest.approx(expected, abs=1e-3)
    model = keras.saving.load_model(workdir / "model.keras")
    assert model.input_shape == (None, None, None, 4)
    paths = sorted(pathlib.Path(photos).glob("*/1*.npy"))
    expected = model.predict(np.stack([np.load(p) for p in paths]).astype(np.float32), verbose=0)
    odd = tmp_path / "odd.npy"
    np.save(odd, np.zeros((40, 36, 3), np.uint8))
    words = [*map(str, paths), str(odd), f"--output={tmp_path / 'out.jsonl'}"]
    assert predict.main([f"--model={workdir}", *words]) == 0
    *rows, bad = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["probability"] for row in rows], expected.max(1), atol=0.01)
    assert bad["error"] == "an array of shape (40, 36, 3), where [h, w, 4] is needed"

    # The export is itself a network for four channels.
    own = {"backbone": str(workdir / "model.keras"), "channels": 4}
    method, config = configure("head_only", photos, tmp_path / "again", **own)
    assert method.run(config).scores["test"]["accuracy"].value == 1.0
    with pytest.raises(checks.ConfigError, match="4 channels. Received: channels=3. Give --chann"):
        dataclasses.replace(config, channels=0)


def test_settings_are_checked_before_anything_is_loaded(photos, tmp_path) -> None:
    made = {"data": photos, "workdir": str(tmp_path)}
    for values, words in (
        ({"epochs": -1}, "epochs must lie in"),
        ({"optimizer": "adamm"}, "Did you mean 'adam'"),
        ({"image_size": 16}, "at least 32 px"),
        ({"image_size": (48, 16)}, r"at least 32 px. Received: image_size=\(48, 16\)"),
        ({"image_size": (32, 48, 3)}, "a side in pixels, or .height, width"),
        ({"image_size": (32, 160)}, "32 to 128 px. Received: image_size=.32, 160"),
        ({"channels": 65}, "channels must lie in"),
        ({"channels": 4, "dense_top": "convolve", "backbone": "mobilenet"}, "for RGB images"),
        ({"backbone_args": "alpha"}, "must look like alpha=0.25"),
        ({"data": ""}, "--data is needed"),
        ({"workdir": ""}, "--workdir is needed"),
        ({"resume": True, "overwrite": True}, "Either --overwrite or --resume"),
    ):
        with pytest.raises(checks.ConfigError, match=words):
            probe_then_finetune.Config(**{**made, **values})
    with pytest.raises(checks.WeightsError, match="does not exist"):
        probe_then_finetune.Config(**made, weights="nowhere.h5")


def test_images_of_one_shade_do_not_break_a_run(tmp_path) -> None:
    for name in ("black", "white"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        for i in range(8):
            value = 255 * (name == "white")
            Image.new("L", (40, 30), value).save(tmp_path / "flat" / name / f"{i}.png")
    method, config = configure("head_only", str(tmp_path / "flat"), tmp_path / "run")
    assert method.run(config).scores["test"]["accuracy"].value == 1.0
