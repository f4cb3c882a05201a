"""The suite `scale`: growth within a turn, and that streaming keeps nothing."""

import pytest

from apps.benchmarks import input as input_suite
from apps.benchmarks import overview, pictures, records, scale
from finetune_kit import checks, console


def result(images, *, peak=500.0, load=100.0, stream=200.0):
    return {"images": images, "peak": peak, "base": 400.0, "load": load, "stream": stream,
            "processor": 300.0}  # fmt: skip


def line(few, many, **values):
    return {
        "image_size": 64,
        "batch_size": 32,
        "augment": "light",
        "cores": "2 cores",
        "runs": [few, many],
        "machine": "Abacus",
        "versions": {"python": "3.11.7"},
        **values,
    }


def cells(row):
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_growth_is_that_within_a_turn() -> None:
    lines = [
        line(result(1000), result(9000, peak=550.0, load=110.0)),
        line(result(1000, peak=400.0), result(9000, peak=400.0, load=300.0, stream=100.0)),
        line(result(1000, load=200.0), result(9000, peak=600.0, load=200.0)),
    ]
    text = scale.section(lines)
    few, many, growth = (
        cells(row) for row in text.splitlines() if row.startswith(("| 1,0", "| 9,0", "| gro"))
    )
    assert few == ["1,000", "500", "400", "100", "200", "300", "3"]
    assert many == ["9,000", "550", "400", "200", "200", "300", "3"]
    assert growth == ["growth", "1.10 [1.00, 1.20]", "", "1.10 [1.00, 3.00]", "1.00 [0.50, 1.00]",
                      "1.00 [1.00, 1.00]", "3"]  # fmt: skip
    assert "1,000 and 9,000 images at 64 px" in text and "- Abacus; python 3.11.7" in text


@pytest.mark.parametrize(
    "sizes", ["1000", "", "1000,100", "100,100", "99,1000", "100,many", "1e3,1e4"]
)
def test_sizes_must_be_growing_numbers(sizes) -> None:
    with pytest.raises(checks.ConfigError, match="--sizes needs growing numbers .* Received: siz"):
        scale.Config(sizes=sizes)
    assert scale.Config(sizes="100,2000,30000").numbers() == [100, 2000, 30000]


def test_numbers_are_per_image_and_both_sizes_are_first_in_turn(tmp_path, monkeypatch) -> None:
    calls = []

    def call(values):
        calls.append(values)
        count = int(str(values["data"]).rpartition("-")[2])
        return {"loaded": count, "images": [count // 2], "load": count * 1e-3, "peak": 7.0,
                "seconds": [count * 2e-3], "processor": [count * 5e-3], "base": 6.0}  # fmt: skip

    monkeypatch.setattr(input_suite, "call", call)
    monkeypatch.setattr(pictures, "write_tiny", lambda folder, count: folder)
    rows = tmp_path / "rows.jsonl"
    scale.measure(scale.Config(sizes="100,1000", repeats=2, rows=str(rows), workdir=str(tmp_path)))
    first, second = records.load_lines(rows)
    assert [run["images"] for run in first["runs"]] == [100, 1000]
    for run in (*first["runs"], *second["runs"]):
        found = (run["load"], run["stream"], run["processor"], run["peak"], run["base"])
        assert found == pytest.approx((1000, 2000, 5000, 7, 6))
    order = [str(values["data"]).rpartition("-")[2] for values in calls]
    assert order == ["1000", "100", "100", "1000"]
    assert all(values["cache_mb"] == 0 and values["epochs"] == 1 for values in calls)


@pytest.mark.slow
def test_it_measures_and_writes_rows_and_page(tmp_path) -> None:
    rows, page = tmp_path / "scale.jsonl", tmp_path / "benchmarks.md"
    words = ["--sizes=100,200", "--image_size=16", "--repeats=1", f"--rows={rows}",
             f"--output={page}", f"--workdir={tmp_path / 'work'}"]  # fmt: skip
    console.activate(plain=True)
    try:
        assert scale.main(words) == 0
    finally:
        console.deactivate()
    (row,) = records.load_lines(rows)
    assert [run["images"] for run in row["runs"]] == [100, 200]
    assert all(run["peak"] >= run["base"] > 100 for run in row["runs"])
    assert scale.section([row]) in page.read_text()


def test_the_page_has_both_suites(tmp_path) -> None:
    assert {"input", "scale"} <= set(overview.SUITES)
    (tmp_path / "results").mkdir()
    records.append_lines(tmp_path / "results" / "scale.jsonl", [line(result(1000), result(9000))])
    overview.write(tmp_path / "benchmarks.md")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "## Any number of images" in text and "## From files to batches" not in text
