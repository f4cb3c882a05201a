"""The suite that changes one option at a time: missing rows, equal starts, and its table."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from apps.benchmarks import variants


def config(tmp_path, **values):
    given = {"data_root": str(tmp_path / "sets"), "backbone": "bundled", "image_size": 32,
             "per_class": 4, "seeds": 1, "rows": str(tmp_path / "rows.jsonl"),
             "output": str(tmp_path / "page.md"), "workdir": str(tmp_path / "work")}  # fmt: skip
    return variants.Config(**given | values)


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


def line(data, seed, variant, accuracy, seconds, recipe="last_stages"):
    known = {"per_class": 4, "backbone": "bundled", "backbone_args": "", "image_size": 32}
    return {**known, "recipe": recipe, "data": data, "seed": seed, "variant": variant,
            "accuracy": accuracy, "seconds": seconds, "machine": "m", "versions": {}}  # fmt: skip


def test_gaps_are_paired_by_draw_and_averaged_by_set() -> None:
    lines = [line("cats", 0, "", 0.5, 20.0), line("cats", 0, "--views=2", 0.48, 10.0),
             line("cats", 1, "", 0.6, 30.0), line("cats", 1, "--views=2", 0.56, 10.0),
             line("dogs", 0, "", 0.7, 20.0), line("dogs", 0, "--views=2", 0.72, 10.0),
             line("dogs", 0, "--views=4", 0.9, 10.0),
             line("cats", 0, "", 0.1, 1.0, "probe_then_finetune")]  # fmt: skip
    text = variants.section(lines)
    (row,) = [x for x in text.splitlines() if "`--views=2`" in x]
    assert "−0.5" in row  # of −3 and +2 points
    assert "2.00 [2.00, 3.00]" in row
    assert [cell.strip() for cell in row.strip("|").split("|")][-2:] == ["2", "3"]
    assert "`--views=4`" not in text  # one set says nothing


def test_what_has_a_row_is_not_measured_again(sets) -> None:
    own = config(sets)
    first = ("last_stages", "cats", 0)
    assert [entry[:3] for entry in variants.missing(own, [])][:2] == [
        first, ("probe_then_finetune", "cats", 0)
    ]  # fmt: skip
    names = list(variants.VARIANTS["last_stages"])
    done = [line("cats", 0, name, 0.5, 1.0) for name in names[:2]]
    assert next(variants.missing(own, done)) == (*first, tuple(names[2:]))


def test_every_variant_starts_from_the_same_weights(sets) -> None:
    rows = list(variants.measure(config(sets), "last_stages", "cats", 0, ("--views=2",) * 2))
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[0]["n"] == 8


def test_every_variant_is_an_option_of_its_recipe() -> None:
    for recipe, changes in variants.VARIANTS.items():
        fields = {f.name: f for f in dataclasses.fields(variants.RECIPES[recipe].Config)}
        for title, change in changes.items():
            for name, value in change.items():
                assert fields[name].default != value
                assert title == f"--{name}={value}"
