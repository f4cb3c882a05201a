"""The suite that measures what a fixed number of views costs: missing rows, and its table."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from apps.benchmarks import views


def config(tmp_path, **values):
    given = {"data_root": str(tmp_path / "sets"), "backbone": "bundled", "image_size": 32,
             "per_class": 4, "seeds": 1, "rows": str(tmp_path / "rows.jsonl"),
             "output": str(tmp_path / "page.md"), "workdir": str(tmp_path / "work")}  # fmt: skip
    return views.Config(**given | values)


@pytest.fixture
def sets(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        for label in ("train/a", "train/b", "test/a", "test/b"):
            for number in range(5):
                place = tmp_path / "sets" / name / label / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place)
    return tmp_path


def line(data, seed, count, accuracy, seconds):
    settings = {"per_class": 4, "backbone": "bundled", "backbone_args": "", "image_size": 32}
    return {**settings, "data": data, "seed": seed, "views": count, "accuracy": accuracy,
            "seconds": seconds}  # fmt: skip


def test_gaps_are_paired_by_draw_and_averaged_by_set() -> None:
    lines = [line("cats", 0, 0, 0.5, 20.0), line("cats", 0, 2, 0.48, 10.0),
             line("cats", 1, 0, 0.6, 30.0), line("cats", 1, 2, 0.56, 10.0),
             line("dogs", 0, 0, 0.7, 20.0), line("dogs", 0, 2, 0.72, 10.0),
             line("dogs", 0, 4, 0.9, 10.0)]  # fmt: skip
    text = views.section(lines)
    (row,) = [x for x in text.splitlines() if x.startswith("| 2 ")]
    assert "−0.5" in row  # of −3 and +2 points
    assert "2.00 [2.00, 3.00]" in row
    assert [cell.strip() for cell in row.strip("|").split("|")][-2:] == ["2", "3"]
    assert not [x for x in text.splitlines() if x.startswith("| 4 ")]  # one set says nothing


def test_what_has_a_row_is_not_measured_again(sets) -> None:
    own = config(sets)
    assert [(n, s) for n, s, _ in views.missing(own, [])] == [("cats", 0), ("dogs", 0)]
    done = [line("cats", 0, count, 0.5, 1.0) for count in (0, 1, 2)]
    left = list(views.missing(own, done))
    assert left[0] == ("cats", 0, (4, 8))
    assert left[1] == ("dogs", 0, views.COUNTS)


def test_every_number_of_views_starts_from_the_same_weights(sets) -> None:
    own = dataclasses.replace(config(sets), seeds=1)
    rows = list(views.measure(own, "cats", 0, (2, 2)))
    assert [row["views"] for row in rows] == [2, 2]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[0]["n"] == 8
