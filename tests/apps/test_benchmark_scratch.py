"""The suite that compares the bundled network with random weights."""

import dataclasses

import pytest

from apps import main as apps_main
from apps.benchmarks import records, scratch, trained
from finetune_kit import checks
from finetune_kit.strategy import candidates
from recipes import loading
from tests.recipes import coloured

MACHINE = {"machine": "m", "versions": {"python": "3"}}


def row(kind, recipe, data, seed, accuracy, *, rate=1e-3, per_class=5, weights="a1"):
    return {"kind": kind, "recipe": recipe, "data": data, "seed": seed, "accuracy": accuracy,
            "weights": "" if recipe == scratch.SCRATCH else weights,
            "rate": rate, "per_class": per_class, **MACHINE}  # fmt: skip


def test_the_rate_is_the_best_on_average_of_each_number_of_labels() -> None:
    found = [
        row("tuning", scratch.SCRATCH, data, 0, accuracy, rate=rate, per_class=number)
        for number, rate, data, accuracy in [
            (5, 1e-3, "a", 0.5), (5, 1e-3, "b", 0.5), (5, 3e-3, "a", 0.9), (5, 3e-3, "b", 0.2),
            (20, 1e-3, "a", 0.4), (20, 3e-3, "a", 0.3),
        ]
    ]  # fmt: skip
    found.append(row("tuning", scratch.BUNDLED, "a", 0, 0.1, rate=3e-4))
    assert scratch.chosen(found) == {
        (scratch.SCRATCH, 5): 3e-3, (scratch.SCRATCH, 20): 1e-3, (scratch.BUNDLED, 5): 3e-4
    }  # fmt: skip


def test_differences_are_paired_by_draw() -> None:
    rows = [row("tuning", recipe, "a", 0, 0.5, rate=rate)
            for recipe, rate in [(scratch.SCRATCH, 3e-3), (scratch.BUNDLED, 3e-4)]]  # fmt: skip
    # Of weights that came before.
    rows.insert(1, row("run", scratch.BUNDLED, "a", 0, 0.0, weights="old"))
    for data, scratched, tuned in [("a", (0.2, 0.4), (0.5, 0.8)), ("b", (0.6, 0.6), (0.5, 0.5))]:
        for seed in (0, 1):
            rows.append(row("run", scratch.SCRATCH, data, seed, scratched[seed], rate=3e-3))
            rows.append(row("run", scratch.BUNDLED, data, seed, tuned[seed]))
    text = scratch.section(rows)
    (line,) = [x for x in text.splitlines() if x.startswith("| a ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # 30 and 40 points; Student's quantile for one degree is 12.7.
    assert cells == ["a", "30.0", "65.0", "+35.0 [−28.5, +98.5]"]
    assert "Ahead on 1 of 2 sets, by 12.5 points on average." in text
    assert "rates 0.003 and 0.0003:" in text
    assert scratch.section(rows[:1]) == ""


def test_both_sides_are_told_what_the_page_says_and_other_weights_are_measured_anew(
    tmp_path, monkeypatch
) -> None:
    coloured.write(tmp_path / "sets" / "near")
    told = []
    monkeypatch.setattr(loading, "load", lambda config: config)

    def score(method, config):
        told.append((method.__name__.rpartition(".")[2], config))
        return {"accuracy": config.learning_rate}

    monkeypatch.setattr(trained, "score", score)
    config = scratch.Config(
        data_root=str(tmp_path / "sets"), sets="near", per_class="3", seeds=2,
        rows=str(tmp_path / "rows.jsonl"), workdir=str(tmp_path / "work"),
    )  # fmt: skip
    scratch.measure(config)
    assert len(told) == 3 + 2 + 2 * 2 and {c.epochs for _, c in told} == {scratch.EPOCHS}
    scratched, tuned = (
        {(c.learning_rate, c.weights, c.head_stages) for name, c in told[5:] if name == recipe}
        for recipe in scratch.RATES
    )
    assert scratched == {(3e-3, "none", 1)} and tuned == {(1e-3, "", candidates.DEEP)}
    scratch.measure(config)
    assert len(told) == 9
    other = tmp_path / "other.weights.h5"
    other.write_bytes(b"other")
    scratch.measure(dataclasses.replace(config, weights=str(other)))
    assert [(name, c.weights) for name, c in told[9:]] == [(scratch.BUNDLED, str(other))] * 4


@pytest.mark.slow
def test_what_is_missing_is_measured(tmp_path, monkeypatch) -> None:
    coloured.write(tmp_path / "sets" / "near")
    monkeypatch.setattr(scratch, "EPOCHS", 1)
    monkeypatch.setattr(
        scratch, "RATES", {scratch.SCRATCH: (1e-3, 3e-3), scratch.BUNDLED: (3e-4, 1e-3)}
    )
    rows, page = tmp_path / "rows.jsonl", tmp_path / "page.md"
    words = [f"--data_root={tmp_path / 'sets'}", "--per_class=3", "--seeds=2", f"--rows={rows}",
             f"--output={page}", f"--workdir={tmp_path / 'work'}"]  # fmt: skip
    assert apps_main.run(["benchmark", "scratch", *words]) == 0
    found = records.load_lines(rows)
    assert [r["kind"] for r in found] == ["tuning"] * 8 + ["run"] * 8
    runs = {(r["data"], r["seed"], r["recipe"]): r for r in found if r["kind"] == "run"}
    assert len(runs) == 8 and {data for data, _, _ in runs} == {"near", scratch.DIGITS}
    best = scratch.chosen(found)
    assert {(r["recipe"], r["rate"]) for r in runs.values()} == {
        (recipe, best[recipe, 3]) for recipe in scratch.RATES
    }
    (made,) = {r["weights"] for r in found if r["recipe"] == scratch.BUNDLED}
    assert len(made) == 8
    assert "## Against training from scratch" in page.read_text("utf-8")
    assert apps_main.run(["benchmark", "scratch", *words]) == 0
    assert records.load_lines(rows) == found


def test_an_unknown_set_is_refused(tmp_path) -> None:
    coloured.write(tmp_path / "sets" / "near")
    with pytest.raises(checks.ConfigError, match="sets must be one of near, digits"):
        scratch.Config(data_root=str(tmp_path / "sets"), sets="far")
