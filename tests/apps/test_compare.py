"""`finetune-kit compare`: one row per run, no TensorFlow."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from apps import compare
from finetune_kit import checks, console, metrics, results


@pytest.fixture(autouse=True)
def output():
    console.activate(plain=True)
    yield
    console.deactivate()


def write(
    directory, *, recipe="head_only", mistakes=0, fingerprint="f", seed=0, n=20, split="test"
):
    directory.mkdir()
    labels = np.arange(n) % 2
    predicted = np.where(np.arange(n) < mistakes, 1 - labels, labels)
    scores = metrics.score(labels, np.eye(2)[predicted] * 0.8 + 0.1)
    results.Report(
        recipe=recipe,
        config={"data": "a|b", "backbone": "bundled", "seed": seed, "per_class": 0},
        data={"fingerprint": fingerprint},
        scores={"test": None, "validation": None, split: scores},
        seconds={"total": 3.21},
        device="CPU",
    ).write(directory)
    return str(directory)


@pytest.fixture
def runs(tmp_path):
    first = write(tmp_path / "1", mistakes=1)
    return [first, write(tmp_path / "2", recipe="full_finetune", mistakes=4)]


def test_a_table_with_a_row_per_run(runs, capsys) -> None:
    assert compare.main(runs) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert "recipe" in lines[0] and "seed" not in lines[0] and "backbone" not in lines[0]
    low, high = metrics.wilson(19, 20).low, metrics.wilson(19, 20).high
    assert f"95.0 [{100 * low:.1f}, {100 * high:.1f}]" in lines[2]
    assert "full_finetune" in lines[3] and "3.2" in lines[3]
    assert err == ""


def test_what_differs_is_shown(tmp_path, capsys) -> None:
    paths = [write(tmp_path / str(seed), seed=seed) for seed in (3, 4)]
    compare.main(paths)
    assert "seed" in capsys.readouterr().out.splitlines()[0]


def test_markdown(runs, capsys) -> None:
    compare.main([*runs, "--format=markdown"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4 and all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert len({line.count(" | ") for line in lines}) == 1
    assert "---:" in lines[1]


def test_csv_and_json_hold_plain_values(runs, capsys) -> None:
    compare.main([*runs, "--format=csv"])
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    compare.main(["--format=json", *runs])
    values = json.loads(capsys.readouterr().out)
    assert [float(line["accuracy"]) for line in table] == [0.95, 0.8]
    assert values[1]["accuracy"] == 0.8 and values[1]["accuracy_low"] < 0.8
    assert values[0]["data"] == table[0]["data"] == "a|b"
    assert values[0]["seconds"] == 3.21 and values[0]["n"] == 20


def test_different_images_are_pointed_out(tmp_path, capsys) -> None:
    compare.main([write(tmp_path / "1"), write(tmp_path / "2", fingerprint="other")])
    assert "scored on different images" in capsys.readouterr().err


def test_a_run_without_the_split(tmp_path, capsys) -> None:
    path = write(tmp_path / "1", split="validation")
    compare.main([path])
    out, err = capsys.readouterr()
    assert "–" in out and f"{path} has no test scores" in err
    compare.main([path, "--split=validation"])
    assert "100.0 [" in capsys.readouterr().out


def test_faults() -> None:
    with pytest.raises(checks.ConfigError, match="work directories of runs. Received: none"):
        compare.main([])
    with pytest.raises(checks.DataError, match="A run needs a report. Received: 'nowhere'"):
        compare.main(["nowhere"])
    with pytest.raises(checks.ConfigError, match="format"):
        compare.main(["x", "--format=xml"])


def test_no_tensorflow_and_quick(runs) -> None:
    code = (
        "import sys; from apps import compare; compare.main(sys.argv[1:]); "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'scipy', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code, *runs], check=True, timeout=20)
