"""The suite that times whole processes beside other programs', and the page that it shares."""

import dataclasses
import json
import sys

import pytest

from apps import main as apps_main
from apps.benchmarks import against, overview, records
from tests.apps.benchmark_rows import row

PROTOCOL = row().protocol


def line(kind, method, data, accuracy, process):
    made = row(kind=kind, method=method, data=data, accuracy=accuracy, process=process)
    return json.loads(json.dumps(dataclasses.asdict(made)))


LINES = [
    line("recipe", "auto", "cats", 0.9, 10.0),
    line("peer", "slow", "cats", 0.8, 40.0),
    line("recipe", "auto", "dogs", 0.7, 20.0),
    line("peer", "slow", "dogs", 0.8, 50.0),
    line("recipe", "auto", "maps", 0.9, 30.0),
    line("peer", "slow", "maps", 0.8, 45.0),
]


def test_a_set_counts_only_where_the_kit_is_as_accurate_and_twice_as_fast() -> None:
    text = against.section(LINES)
    assert "| cats | 90.0, 10 s | 80.0, 40 s |" in " ".join(text.split())
    # Faster on all, but on dogs less accurate and on maps not twice as fast.
    assert "+3.3 points on average, 2.5 times as fast [1.5, 4.0]" in text
    assert "2 times as fast on 1 of 3 sets" in text


def test_the_page_has_a_section_for_every_suite_with_rows_and_for_no_other(tmp_path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    rows = tmp_path / "docs" / "results" / "peers.jsonl"
    records.append_lines(rows, LINES)
    overview.write(page)
    assert "## Against other programs" in page.read_text()
    assert "## Frozen stages" not in page.read_text()
    elsewhere = tmp_path / "elsewhere.jsonl"
    records.append_lines(elsewhere, LINES[:2])
    overview.write(page, suite="peers", rows=str(elsewhere))
    assert "dogs" not in page.read_text()


def test_only_what_has_no_row_is_run_and_a_failure_is_not_one(tmp_path, capsys) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for name in ("a", "b"):
            for number in range(count):
                place = tmp_path / "sets" / "cats" / split / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"")
    script = tmp_path / "peer.py"
    script.write_text(
        "import json, pathlib, sys\n"
        f"ran = pathlib.Path({str(tmp_path / 'ran')!r})\n"
        "ran.write_text(ran.read_text() + '.' if ran.exists() else '.')\n"
        "print(json.dumps({'peer': 'p', 'accuracy': 0.5, 'seconds': 1.0, 'n': 6, 'test': 4}))\n"
    )
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit(3)\n")
    words = ["benchmark", "peers", f"--data_root={tmp_path / 'sets'}", "--weights=none",
             "--per_class=3", "--recipes=none", f"--peer={script}", f"--rows={tmp_path / 'r'}",
             f"--output={tmp_path / 'page.md'}"]  # fmt: skip
    assert apps_main.run(words) == 0
    assert apps_main.run(words) == 0
    assert (tmp_path / "ran").read_text() == "."
    assert apps_main.run([*words, f"--peer={broken}"]) == 75
    assert "exit code 0" in capsys.readouterr().err
    assert sys.executable


@pytest.mark.parametrize("word", ["--recipes=autoo", "--peer=nowhere.py", "--weights=nowhere.h5"])
def test_bad_flags_are_refused(word) -> None:
    assert apps_main.run(["benchmark", "peers", word]) in (2, 4)
