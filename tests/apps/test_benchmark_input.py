"""The suite `input`: what goes through the pipelines, and what its table says."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from apps.benchmarks import feed, pictures, records
from apps.benchmarks import input as input_suite
from finetune_kit import checks, console


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Returns 26 small photos to train on and ten to test on."""
    monkeypatch.setattr(pictures, "WIDTH", 60)
    monkeypatch.setattr(pictures, "HEIGHT", 45)
    return pictures.write_photos(tmp_path / "photos", 26)


def run(photos, program, **values):
    options = {"image_size": 16, "batch_size": 8, "epochs": 3} | values
    return feed.run(feed.Config(data=str(photos), program=program, **options))


def line(*, kit=(2.0, 0.1, 0.2, 0.3), keras=(4.0, 0.8, 0.4, 0.4), floor=(1.0,), **values):
    arms = {"kit": kit, "keras": keras, "floor": floor}
    return {
        "images": 2000,
        "image_size": 128,
        "batch_size": 32,
        "augment": "light",
        "epochs": 4,
        "cores": "2 cores",
        **{arm: {"seconds": list(seconds)} for arm, seconds in arms.items()},
        "machine": "Abacus",
        "versions": {"python": "3.11.7"},
        **values,
    }


@pytest.mark.parametrize("program", ["kit", "keras"])
def test_every_photo_to_train_on_comes_once_an_epoch(photos, program) -> None:
    found = run(photos, program)
    assert found["images"] == [26, 26, 26] and found["program"] == program
    assert len(found["seconds"]) == len(found["processor"]) == 3 and min(found["seconds"]) > 0
    assert 10 < found["base"] <= found["peak"]


def test_the_floor_decodes_every_photo_in_full(photos, monkeypatch) -> None:
    decoded, load = [], Image.Image.load

    def spy(image):
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", spy)
    assert run(photos, "floor")["images"] == [26]
    assert decoded == [(60, 45)] * 26


def test_the_kit_says_what_loading_took(photos) -> None:
    found = run(photos, "kit", epochs=1, cache_mb=0)
    assert found["loaded"] == 36 and 0 < found["load"] < found["seconds"][0]


def test_the_peer_is_that_of_the_tutorials(photos, monkeypatch) -> None:
    import keras
    import tensorflow as tf

    asked, steps = {}, []
    source = keras.utils.image_dataset_from_directory

    def spy(folder, **options):
        asked.update(options, folder=folder)
        return source(folder, **options)

    monkeypatch.setattr(keras.utils, "image_dataset_from_directory", spy)
    for name in ("cache", "shuffle", "map", "prefetch"):
        original = getattr(tf.data.Dataset, name)

        def note(self, *args, _name=name, _original=original, **options):
            steps.append(_name)
            return _original(self, *args, **options)

        monkeypatch.setattr(tf.data.Dataset, name, note)
    run(photos, "keras", epochs=1)
    assert asked["folder"].endswith("train") and asked["image_size"] == (16, 16)
    assert steps[-4:] == ["cache", "shuffle", "map", "prefetch"]


def test_bad_flags_are_refused(tmp_path) -> None:
    with pytest.raises(checks.DataError, match="needs a folder. Received: data='gone'"):
        feed.Config(data="gone")
    with pytest.raises(checks.ConfigError, match="program must be one of kit, keras, floor"):
        feed.Config(data=str(tmp_path), program="jax")
    with pytest.raises(checks.ConfigError, match="epochs must lie in"):
        input_suite.Config(epochs=1)


def test_ratios_are_those_within_a_turn() -> None:
    text = input_suite.section([line(), line(kit=(1.0, 0.2, 0.2, 0.2)), line(kit=(8.0, 0.4, 0.4))])
    first, later = (row for row in text.splitlines() if row.startswith("| 2,000 photos"))
    cells = [cell.strip() for cell in first.split("|")[1:-1]]
    assert cells[0].endswith("first epoch")
    assert cells[1:] == ["1.000", "2.000", "2.00 [0.50, 4.00]", "0.500", "3"]
    cells = [cell.strip() for cell in later.split("|")[1:-1]]
    # Medians of the later epochs: 0.2, 0.2, 0.4 of the kit and 0.4 of the peer.
    assert cells[1:] == ["0.100", "0.200", "2.00 [1.00, 2.00]", "–", "3"]
    assert "- Abacus; python 3.11.7" in text


def test_other_settings_are_other_lines() -> None:
    text = input_suite.section([line(), line(image_size=64), line(cores="1 core")])
    assert sum(row.startswith("| 2,000 photos") for row in text.splitlines()) == 6


def test_programs_take_turns_in_being_first(tmp_path, monkeypatch) -> None:
    calls = []

    def call(values):
        calls.append(values["program"])
        return {"seconds": [1.0, 1.0]}

    monkeypatch.setattr(input_suite, "call", call)
    monkeypatch.setattr(pictures, "write_photos", lambda folder, count: folder)
    rows = tmp_path / "rows.jsonl"
    input_suite.measure(input_suite.Config(repeats=3, rows=str(rows), workdir=str(tmp_path)))
    turns = [tuple(calls[i : i + 3]) for i in (0, 3, 6)]
    assert {turn[0] for turn in turns} == set(input_suite.ARMS)
    assert all(set(turn) == set(input_suite.ARMS) for turn in turns)
    assert len(records.load_lines(rows)) == 3


@pytest.mark.slow
def test_it_measures_and_writes_rows_and_page(tmp_path) -> None:
    rows, page = tmp_path / "input.jsonl", tmp_path / "benchmarks.md"
    words = ["--images=20", "--image_size=16", "--epochs=2", "--repeats=1", f"--rows={rows}",
             f"--output={page}", f"--workdir={tmp_path / 'work'}"]  # fmt: skip
    console.activate(plain=True)
    try:
        assert input_suite.main(words) == 0
    finally:
        console.deactivate()
    (row,) = records.load_lines(rows)
    assert row["images"] == 20 and row["kit"]["images"] == row["keras"]["images"] == [20, 20]
    assert len(list((tmp_path / "work").rglob("train/*/*.jpg"))) == 20
    assert input_suite.section([row]) in page.read_text()
    before = rows.read_text()
    assert input_suite.main([*words, "--repeats=0"]) == 0 and rows.read_text() == before


def test_the_rows_in_the_repository_can_be_shown() -> None:
    root = pathlib.Path(__file__).resolve().parents[2] / "docs"
    lines = records.load_lines(root / "results" / "input.jsonl")
    if not lines:
        pytest.skip("docs/results/input.jsonl is not there")
    assert json.dumps(lines)
    assert input_suite.section(lines) in (root / "benchmarks.md").read_text()


def test_a_line_is_plain_numbers(photos) -> None:
    found = run(photos, "floor")
    assert json.loads(json.dumps(found)) == found
    assert np.isfinite(found["seconds"]).all()
