"""Rows of a benchmark: on the disk at once, and whole or not there."""

import dataclasses
import json
import os

import pytest

from apps.benchmarks import records
from finetune_kit import checks, cores
from tests.apps.benchmark_rows import row


def test_what_is_appended_is_loaded_in_order(tmp_path) -> None:
    file = tmp_path / "new" / "rows.jsonl"
    assert records.load(file) == []
    first, second, third = row(), row("peer", kind="peer", process=None), row(seed=2)
    records.append(file, [first, second])
    records.append(file, [third])
    assert records.load(file) == [first, second, third]
    assert len(file.read_text().splitlines()) == 3


def test_a_row_is_synced_before_append_returns(tmp_path, monkeypatch) -> None:
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(real(number)))
    records.append(tmp_path / "rows.jsonl", [row()])
    assert len(synced) == 1


@pytest.mark.parametrize("length", [1, 40, -1])
def test_a_line_that_a_crash_cut_off_is_passed_over_and_then_replaced(tmp_path, length) -> None:
    file = tmp_path / "rows.jsonl"
    records.append(file, [row(seed=0), row(seed=1)])
    whole = file.read_bytes()
    start = whole.index(b"\n") + 1
    file.write_bytes(whole[:start] + whole[start:][:length])
    assert records.load(file) == [row(seed=0)]
    records.append(file, [row(seed=2)])
    assert records.load(file) == [row(seed=0), row(seed=2)]


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        "{}",
        json.dumps(dataclasses.asdict(row()) | {"extra": 1}),
        json.dumps(dataclasses.asdict(row()) | {"accuracy": 1.2}),
        json.dumps(dataclasses.asdict(row()) | {"kind": "friend"}),
        json.dumps(dataclasses.asdict(row()) | {"test": 0}),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line) -> None:
    file = tmp_path / "rows.jsonl"
    records.append(file, [row()])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(checks.DataError, match=r"must be a row.*rows.jsonl:2, .*another --rows"):
        records.load(file)


def test_rows_that_cannot_be_written_are_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.EnvironmentFault, match="file that can be written"):
        records.append(tmp_path / "file" / "rows.jsonl", [row()])


def test_the_latest_of_equal_runs_counts() -> None:
    other = dataclasses.replace(row().protocol, per_class=5)
    old, new = row(accuracy=0.1, code="old"), row(accuracy=0.2, code="new")
    kept = [row(seed=1), row(data="cats"), row(protocol=other), row("full")]
    assert records.latest([old, *kept, new]) == [new, *kept]


def test_a_fingerprint_follows_contents_and_names_not_order(tmp_path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a")
    two.write_text("b")
    before = records.fingerprint([one, two])
    assert records.fingerprint([two, one]) == before and len(before) == 12
    two.write_text("c")
    changed = records.fingerprint([one, two])
    two.rename(tmp_path / "three.py")
    renamed = records.fingerprint([one, tmp_path / "three.py"])
    assert len({before, changed, renamed}) == 3


def test_the_machine_is_named() -> None:
    assert f"{cores.available()} core" in records.machine()
