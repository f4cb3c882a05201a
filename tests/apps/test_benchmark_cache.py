"""The suite that compares kept activations with plain Keras: programs that run, and its table."""

import json

import numpy as np
import pytest
from PIL import Image

from apps import main as apps_main
from apps.benchmarks import cache, plain
from finetune_kit import checks


@pytest.fixture
def photos(tmp_path):
    """Returns a set of two classes that a colour tells apart, 12 images each."""
    generator = np.random.default_rng(0)
    for label, name in enumerate(("red", "blue")):
        for number in range(12):
            pixels = generator.uniform(0, 120, (40, 40, 3))
            pixels[..., 2 * label] += 120
            place = tmp_path / "photos" / name / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place)
    return tmp_path / "photos"


def flags_of(photos, tmp_path, **values):
    given = {"data": photos, "backbone": "bundled", "weights": "", "image_size": 32, "per_class": 8,
             "epochs": 2, "repeats": 2, "rows": tmp_path / "rows.jsonl",
             "output": tmp_path / "page.md", "workdir": tmp_path / "work"} | values  # fmt: skip
    return [f"--{name}={value}" for name, value in given.items()]


def line(turn, *, kit=10.0, plain_seconds=20.0, floor=None, stages=1):
    row = {
        "data": "photos", "backbone": "bundled", "backbone_args": "", "image_size": 32, "n": 16,
        "stages": stages, "epochs": 3, "per_class": 8, "machine": "m", "versions": {"python": "3"},
        "finished": f"2026-01-0{turn}", "kit": {"process": kit, "epochs": [9.0, 1.0, 1.0],
        "accuracy": 0.9}, "plain": {"process": plain_seconds, "epochs": [9.0, 2.5, 2.5],
        "accuracy": 0.8},
    }  # fmt: skip
    return row if floor is None else row | {"floor": {"process": floor}}


def test_ratios_are_those_of_each_turn_and_the_first_epoch_does_not_count() -> None:
    text = cache.section([line(1), line(2, kit=10.0, plain_seconds=30.0), line(3, kit=20.0)])
    (row,) = [x for x in text.splitlines() if x.startswith("| bundled")]
    assert "2.00 [1.00, 3.00]" in row  # of 2, 3 and 1
    assert "2.50 [2.50, 2.50]" in row
    assert "90.0, 80.0" in row
    assert "last 1 of the stages" in row


def test_the_head_alone_is_compared_with_the_floor() -> None:
    text = cache.section([line(1, floor=8.0, stages=0), line(2, floor=5.0, stages=0)])
    assert "head alone" in text
    assert "1.62 [1.25, 2.00]" in text


@pytest.mark.slow
@pytest.mark.parametrize("stages", [0, 1])
def test_programs_run_in_turn_and_every_turn_is_a_row(photos, tmp_path, stages) -> None:
    code = apps_main.run(["benchmark", "cache", *flags_of(photos, tmp_path, stages=stages)])
    assert code == 0
    rows = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert row["n"] == 16
        assert row["kit"]["process"] > 1
        assert len(row["plain"]["epochs"]) == 2
        assert ("floor" in row) == (stages == 0)


def test_plain_keras_trains_the_last_stages_and_holds_batch_norm_still(photos, tmp_path) -> None:
    from apps.benchmarks import cases

    folder = cases.write(cases.draw(photos, per_class=8, seed=0), tmp_path / "case")
    config = plain.Config(data=str(folder), backbone="bundled", image_size=32, stages=1, epochs=2)
    model = plain._network(config, 2)
    trains = {v.path.split("/")[0] for v in model.trainable_variables}
    assert trains == {"block_4_conv_1", "dense"} or len(trains) == 2
    assert not any("bn" in name for name in trains)
    told = plain.run(config)
    assert told["n"] == 16
    assert len(told["epochs"]) == 2
    floor = plain.run(plain.Config(data=str(folder), backbone="bundled", image_size=32, floor=True))
    assert floor["peer"] == "floor"
    assert "accuracy" not in floor


def test_what_is_no_folder_is_refused(tmp_path) -> None:
    with pytest.raises(checks.DataError, match="needs a folder"):
        plain.Config(data=str(tmp_path / "nowhere"))
    with pytest.raises(checks.DataError, match="needs a folder"):
        plain.Config()
