"""`finetune-kit predict`: one row per file, whatever the file is."""

import csv
import json
import os
import re
import shutil
from typing import Never

import keras
import numpy as np
import pytest
from PIL import Image

from apps import main, predict
from finetune_kit import checks, console
from tests.apps import brightness


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return brightness.write_run(tmp_path_factory.mktemp("runs") / "1")


@pytest.fixture
def photos(tmp_path):
    return brightness.write_images(tmp_path / "photos", per_class=11)


@pytest.fixture(autouse=True)
def output():
    console.activate(plain=True)
    yield
    console.deactivate()


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_to_csv(run, photos, tmp_path) -> None:
    output = tmp_path / "out.csv"
    flags = [f"--model={run}", f"--output={output}", "--batch_size=7"]
    assert predict.main([str(photos), *flags]) == 0
    table = read_csv(output)
    assert len(table) == 33
    assert all(row["class"] in row["path"] and not row["error"] for row in table)
    names = [os.path.basename(row["path"]) for row in table[:11]]
    assert names == [f"dark {index}.png" for index in range(11)]


def test_files_to_json_lines_with_the_likeliest_classes(run, photos, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    image = photos / "light" / "light 3.png"
    predict.main([str(image), f"--model={run}", f"--output={output}", "--top_k=9"])
    (row,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert row["path"] == str(image) and row["class"] == "light" and row["error"] is None
    assert [entry["class"] for entry in row["top_k"]] == ["light", "middling", "dark"]
    assert sum(entry["probability"] for entry in row["top_k"]) == pytest.approx(1, abs=1e-5)


def test_probabilities_are_those_of_the_model(run, photos, tmp_path) -> None:
    image = photos / "middling" / "middling 0.png"
    output = tmp_path / "out.jsonl"
    predict.main([str(image), f"--model={run}", f"--output={output}"])
    pixels = np.asarray(Image.open(image), np.float32)[None]
    expected = brightness.predictor().predict(pixels, verbose=0)[0]
    row = json.loads(output.read_text())
    assert row["probability"] == pytest.approx(expected[2], abs=0.01)


def test_bad_files_are_rows_with_their_error(run, photos, tmp_path, capsys) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "empty.png").write_bytes(b"")
    (bad / "half.png").write_bytes((photos / "dark" / "dark 0.png").read_bytes()[:80])
    (bad / "text.jpg").write_text("<html>no</html>")
    os.mkfifo(bad / "pipe.png")
    words = [bad / "pipe.png", bad, photos / "dark" / "dark 1.png", tmp_path / "missing.png"]
    output = tmp_path / "out.csv"
    flags = [f"--model={run}", f"--output={output}", "--top_k=2", "--batch_size=2"]
    assert predict.main([*map(str, words), *flags]) == 0
    table = read_csv(output)
    errors = {os.path.basename(row["path"]): row["error"] for row in table}
    assert errors["empty.png"] == "the file is empty"
    assert errors["pipe.png"] == "not a regular file"
    assert errors["missing.png"] == "No such file or directory"
    assert errors["half.png"] and errors["text.jpg"]
    assert errors["dark 1.png"] == ""
    assert len(table) == 6
    assert all(not row["class"] and not row["class_2"] for row in table if row["error"])
    assert "5 of 6 files could not be read" in capsys.readouterr().err


def test_only_bad_files_end_in_a_fault_after_their_rows(run, tmp_path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    output = tmp_path / "out.csv"
    with pytest.raises(checks.DataError, match="at least one readable image. Received: 1"):
        predict.main([str(tmp_path / "empty.png"), f"--model={run}", f"--output={output}"])
    assert read_csv(output)[0]["error"] == "the file is empty"


def test_standard_output_holds_rows_alone(run, photos, capsys) -> None:
    predict.main([str(photos / "dark"), f"--model={run}"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "path,class,probability,error" and len(lines) == 12
    predict.main([str(photos / "dark"), f"--model={run}", "--format=jsonl"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["class"] for row in rows} == {"dark"}


def test_folders_skip_what_is_hidden_or_no_image(photos, tmp_path) -> None:
    (photos / "notes.txt").write_text("x")
    (photos / ".hidden.png").write_bytes(b"x")
    (photos / ".cache").mkdir()
    shutil.copy(photos / "dark" / "dark 1.png", photos / ".cache" / "x.png")
    (photos / "loop").symlink_to(photos)
    assert len(predict.find([str(photos)])) == 33


def test_names_with_commas_and_other_letters(run, photos, tmp_path) -> None:
    odd = tmp_path / 'a, "b"\n日本.png'
    raw = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.png")
    for path in (odd, raw):
        shutil.copy(photos / "dark" / "dark 1.png", path)
    output = tmp_path / "out.csv"
    predict.main([str(odd), raw, f"--model={run}", f"--output={output}"])
    assert [row["path"] for row in read_csv(output)] == [str(odd), f"{tmp_path}/caf\\xe9.png"]


def test_models_that_do_not_resize_take_one_image_at_a_time(photos) -> None:
    predictor = predict.Predictor(brightness.predictor(), brightness.CLASSES, None, 1)
    paths = predict.find([str(photos / "dark"), str(photos / "light")])
    found = [row["class"] for row in predict.rows(predictor, paths, batch_size=8)]
    assert found == ["dark"] * 11 + ["light"] * 11


def test_an_output_is_there_whole_or_not_at_all(run, photos, tmp_path, monkeypatch) -> None:
    output = tmp_path / "out.csv"
    output.write_text("old")

    def break_off(*args, **kwargs) -> Never:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "rows", break_off)
    with pytest.raises(KeyboardInterrupt):
        predict.main([str(photos), f"--model={run}", f"--output={output}"])
    assert output.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_faults(run, tmp_path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(checks.ConfigError, match="needs --model=WORKDIR"):
        predict.main(["x.png"])
    with pytest.raises(checks.ConfigError, match="needs files or folders. Received: none"):
        predict.main([f"--model={run}"])
    with pytest.raises(checks.DataError, match="needs images. Received: .*none, which hold none"):
        predict.main([str(tmp_path / "none"), f"--model={run}"])
    with pytest.raises(checks.ConfigError, match="ending of --output must be one of csv, jsonl"):
        predict.main(["x.png", f"--model={run}", "--output=x.txt"])
    with pytest.raises(checks.WeightsError, match="names of its classes"):
        predict.main([str(run / "model.keras"), f"--model={tmp_path}"])


@pytest.mark.usefixtures("untouched_process")
def test_every_kind_of_bad_model_has_its_exit_code(run, photos, tmp_path, capsys) -> None:
    folder = tmp_path / "1"
    words = ["predict", str(photos), f"--model={folder}"]
    assert main.run(words) == 4
    assert "needs the names of its classes" in capsys.readouterr().err
    shutil.copytree(run, folder)
    content = (run / "model.keras").read_bytes()
    for damaged in (b"", b"text", content[: len(content) // 2]):
        (folder / "model.keras").write_bytes(damaged)
        assert main.run(words) == 4
        assert "needs a whole model.keras" in capsys.readouterr().err
    pixels = keras.Input((None, None, 3))
    code = keras.layers.Lambda(lambda x: x[:, 0, 0], output_shape=(3,))(pixels)
    keras.Model(pixels, code).save(folder / "model.keras")
    assert main.run(words) == 7
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch("finetune-kit: A model must be made of Keras layers.*\n", err)


def test_rows_that_cannot_be_written(run, photos, tmp_path) -> None:
    output = tmp_path / "gone" / "rows.csv"
    with pytest.raises(checks.EnvironmentFault, match="needs a folder that can be written"):
        predict.main([str(photos), f"--model={run}", f"--output={output}"])
