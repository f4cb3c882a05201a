"""`finetune-kit evaluate`: the run's own splits, and images of others."""

import contextlib
import dataclasses
import json
import re
import shutil

import keras
import numpy as np
import pytest

from apps import evaluate, main
from finetune_kit import checks, console, data, results
from tests.apps import brightness


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return brightness.write_images(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(tmp_path_factory, photos):
    return brightness.write_run(tmp_path_factory.mktemp("runs") / "1", data=photos, seed=5)


def test_the_runs_own_test_split_is_found_again(run, photos) -> None:
    found = evaluate.run(evaluate.Config(model=str(run)))
    images = data.load(photos, image_size=8, seed=5)
    assert found["scores"]["n"] == len(images.test) and found["split"] == "test"
    assert found["fingerprint"] == images.fingerprint
    assert found["scores"]["accuracy"]["value"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 5, 36, 37])
def test_no_image_is_lost(run, batch_size) -> None:
    config = evaluate.Config(model=str(run), split="all", batch_size=batch_size)
    assert evaluate.run(config)["scores"]["n"] == 36


def test_other_images_with_fewer_classes_in_another_order(run, tmp_path) -> None:
    root = brightness.write_images(tmp_path / "other", classes=("light", "dark"), per_class=12)
    # What is called light is dark, and the other way round: every answer must be wrong.
    found = evaluate.run(evaluate.Config(model=str(run), data=str(root), split="all"))
    assert found["scores"]["n"] == 24 and found["scores"]["accuracy"]["value"] == 0.0


def test_the_command_shows_and_writes_the_scores(run, tmp_path, capsys) -> None:
    console.activate(plain=True)
    output = tmp_path / "scores.json"
    assert evaluate.main([f"--model={run}", f"--output={output}", "--split=train"]) == 0
    console.deactivate()
    out = capsys.readouterr().out
    values = json.loads(output.read_text())
    assert f"train: {values['scores']['n']} images" in out
    assert "Accuracy" in out and "100.0 %" in out
    assert values["scores"]["accuracy"].keys() == {"value", "low", "high"}


def test_classes_are_translated_by_name(photos) -> None:
    images = data.load(photos, image_size=8)
    parts = list(images.splits().values())
    labels = evaluate.translate(images, parts, ("middling", "dark", "light"))
    expected = np.concatenate([part.labels for part in parts])
    np.testing.assert_array_equal(labels, np.array([1, 2, 0])[expected])


def test_the_runs_budget_of_labels_is_its_own(photos, tmp_path) -> None:
    elsewhere = str(brightness.write_images(tmp_path / "other", per_class=1))
    trained = {"data": str(photos), "seed": 4, "per_class": 3, "test_fraction": 0.3}
    own = evaluate.source_of(evaluate.Config(model="m"), trained)
    assert own == {"source": str(photos), "data_dir": None} | {
        "seed": 4,
        "per_class": 3,
        "test_fraction": 0.3,
    }
    again = evaluate.source_of(evaluate.Config(model="m", data=f"{photos}/../photos"), trained)
    assert again["per_class"] == 3
    other = evaluate.source_of(evaluate.Config(model="m", data=elsewhere), trained)
    assert other == {"source": elsewhere, "data_dir": None, "seed": 4}


def test_faults(run, photos, tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="needs --model=WORKDIR"):
        evaluate.Config()
    with pytest.raises(checks.DataError, match="nowhere"):
        evaluate.Config(model=str(run), data=str(tmp_path / "nowhere"))
    with pytest.raises(checks.ConfigError, match="needs --data=SOURCE. Received: a run that names"):
        evaluate.source_of(evaluate.Config(model="m"), {})
    with pytest.raises(checks.DataError, match="A run needs a report"):
        evaluate.run(evaluate.Config(model=str(tmp_path)))
    with pytest.raises(checks.ConfigError, match="none.*Received|Received.*extra"):
        evaluate.main([f"--model={run}", "extra"])
    budget = brightness.write_run(tmp_path / "budget", data=photos, per_class=3)
    with pytest.raises(
        checks.DataError, match="--split must be one that the data have: train, test"
    ):
        evaluate.run(evaluate.Config(model=str(budget), split="validation"))
    shutil.copytree(photos, tmp_path / "more")
    shutil.copytree(photos / "dark", tmp_path / "more" / "unknown")
    with pytest.raises(checks.DataError, match="of the model's classes: dark, light.*: unknown"):
        evaluate.run(evaluate.Config(model=str(run), data=str(tmp_path / "more")))


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        ("report.json", 3, "A run needs a report. Received: .*report.json', No such file"),
        ("model.keras", 4, "needs a whole model.keras. Received: .* which does not exist"),
        ("classes.json", 4, "needs the names of its classes. Received: .* No such file"),
    ],
)
@pytest.mark.usefixtures("untouched_process")
def test_a_folder_that_is_no_finished_run(run, spoil, code, message, tmp_path, capsys) -> None:
    shutil.copytree(run, tmp_path / "1")
    (tmp_path / "1" / spoil).unlink()
    assert main.run(["evaluate", f"--model={tmp_path / '1'}"]) == code
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(f"finetune-kit: .*{message}.*\n", err)


def test_files_that_are_no_images_are_left_out_or_refused(run, photos, tmp_path) -> None:
    more = tmp_path / "more"
    shutil.copytree(photos, more)
    (more / "dark" / "text.png").write_text("no image")
    config = evaluate.Config(model=str(run), data=str(more), split="all")
    with pytest.raises(checks.DataError, match="1 of 37.*text.png"):
        evaluate.run(config)
    found = evaluate.run(dataclasses.replace(config, max_bad_fraction=0.1))
    assert found["scores"]["n"] == 36


def test_images_that_are_decoded_are_counted(run, monkeypatch) -> None:
    counted = []

    class Task:
        def advance(self, n=1, **postfix):
            counted.append(n)

    monkeypatch.setattr(console, "progress", lambda *words: contextlib.nullcontext(Task()))
    evaluate.run(evaluate.Config(model=str(run)))
    assert sum(counted) == 36


def test_scores_that_cannot_be_written(run, tmp_path) -> None:
    with pytest.raises(checks.EnvironmentFault, match="needs a folder that can be written"):
        evaluate.main([f"--model={run}", f"--output={tmp_path / 'gone' / 'scores.json'}"])


def test_a_model_that_does_not_resize_is_given_the_size_of_its_run(tmp_path, photos) -> None:
    run = brightness.write_run(tmp_path / "1", data=photos)
    inner = brightness.predictor()
    pixels = keras.Input((None, None, 3))
    plain = keras.Model(pixels, keras.Sequential(inner.layers[2:])(pixels))
    results.save_model(plain, brightness.CLASSES, run)
    found = evaluate.run(evaluate.Config(model=str(run), split="all"))
    assert results.input_size(plain) is None and found["scores"]["accuracy"]["value"] == 1.0
