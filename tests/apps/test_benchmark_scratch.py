"""The suite that compares the bundled network with random weights."""

import dataclasses

import pytest
from PIL import Image

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
        (scratch.SCRATCH, 5): (3e-3, ""), (scratch.SCRATCH, 20): (1e-3, ""),
        (scratch.BUNDLED, 5): (3e-4, ""),
    }  # fmt: skip


def test_rates_are_compared_on_the_sets_that_all_of_them_were_tried_on() -> None:
    # On "b" alone 1e-3 was tried, and does badly.
    found = [row("tuning", scratch.SCRATCH, data, 0, accuracy, rate=rate)
             for data, rate, accuracy in
             [("a", 1e-3, 0.6), ("b", 1e-3, 0.1), ("a", 3e-3, 0.5)]]  # fmt: skip
    assert scratch.chosen(found) == {(scratch.SCRATCH, 5): (1e-3, "")}


def test_runs_count_at_the_setting_that_was_chosen_alone() -> None:
    rows = [
        row("tuning", scratch.SCRATCH, "a", 0, 0.5),
        row("tuning", scratch.BUNDLED, "a", 0, 0.5),
    ]
    for seed in (0, 1):
        rows += [row("run", scratch.SCRATCH, "a", seed, 0.2),
                 row("run", scratch.BUNDLED, "a", seed, 0.3)]  # fmt: skip
    trained_too = {"batch_norm": scratch.TRAINED}
    more = [{**row("run", scratch.BUNDLED, "a", seed, 0.6), **trained_too} for seed in (0, 1)]
    assert "by 10.0 points" in scratch.section([*rows, *more])
    assert "with BatchNorm:" not in scratch.section([*rows, *more])
    more.append({**row("tuning", scratch.BUNDLED, "a", 0, 0.7), **trained_too})
    text = scratch.section([*rows, *more])
    assert "by 40.0 points" in text and "rates 0.001 and 0.001, with BatchNorm:" in text
    more.append({**row("tuning", scratch.BUNDLED, "a", 0, 0.8), "batch_norm": scratch.ANEW})
    more += [{**row("run", scratch.BUNDLED, "a", seed, 0.7), "batch_norm": scratch.ANEW}
             for seed in (0, 1)]  # fmt: skip
    text = scratch.section([*rows, *more])
    assert "by 50.0 points" in text and "whose statistics are measured anew first:" in text


def test_differences_are_paired_by_draw() -> None:
    rows = [row("tuning", recipe, "a", 0, 0.5, rate=rate)
            for recipe, rate in [(scratch.SCRATCH, 3e-3), (scratch.BUNDLED, 3e-4)]]  # fmt: skip
    # Of weights that came before.
    rows.insert(1, row("run", scratch.BUNDLED, "a", 0, 0.0, weights="old"))
    for data, scratched, tuned in [("a", (0.2, 0.4), (0.5, 0.8)), ("b", (0.6, 0.6), (0.5, 0.5))]:
        for seed in (0, 1):
            rows.append(row("run", scratch.SCRATCH, data, seed, scratched[seed], rate=3e-3))
            rows.append(row("run", scratch.BUNDLED, data, seed, tuned[seed], rate=3e-4))
    text = scratch.section(rows)
    (line,) = [x for x in text.splitlines() if x.startswith("| a ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    # 30 and 40 points; Student's quantile for one degree is 12.7.
    assert cells == ["a", "30.0", "65.0", "+35.0 [−28.5, +98.5]"]
    assert "Ahead on 1 of 2 sets, by 12.5 points on average." in text
    assert "rates 0.003 and 0.0003:" in text
    assert scratch.section(rows[:1]) == ""


def test_sizes_have_tables_of_their_own_and_a_set_counts_at_its_largest() -> None:
    rows = []
    for size, rate, gaps in [
        (32, 1e-3, {"a": 0.1, "b": -0.1, scratch.DIGITS: 0.0}), (64, 3e-3, {"a": 0.3})
    ]:  # fmt: skip
        for data, gap in gaps.items():
            for recipe, more in [(scratch.SCRATCH, 0.0), (scratch.BUNDLED, gap)]:
                made = [row("tuning", recipe, data, 0, 0.5, rate=rate),
                        *(row("run", recipe, data, seed, 0.5 + more, rate=rate)
                          for seed in (0, 1))]  # fmt: skip
                # Rows of the default size need not say so.
                rows += [{**r, "image_size": size} if size == 64 else r for r in made]
    text = scratch.section(rows)
    assert "5 labelled images a class at 32 px; rates 0.001 and 0.001:" in text
    assert (
        "5 labelled images a class at 64 px, sets whose originals have as many pixels; "
        "rates 0.003 and 0.003:" in text
    )
    assert (
        "Ahead on 1 of 3 sets, by 0.0 points on average; without digits, on 1 of 2 sets, by 0.0"
        in text
    )
    assert "Ahead on 1 of 1 sets, by 30.0 points on average.\n" in text
    assert (
        "originals have the pixels. Ahead on 1 of 3 sets, by 6.7 points on average; without "
        "digits, on 1 of 2 sets, by 10.0 points on average. By the larger size and what was chosen "
        "there the bundled network gains +20.0 points on average of the sets that were seen at "
        "both, training from scratch +0.0." in text
    )
    assert "that `auto` takes" not in scratch.section([r for r in rows if "image_size" not in r])


def test_without_mirrored_images_sets_have_tables_of_their_own() -> None:
    rows = []
    for more, rate, gap in [({}, 1e-3, 0.1), ({"augment": "shift"}, 3e-3, -0.2)]:
        for recipe, by in [(scratch.SCRATCH, 0.0), (scratch.BUNDLED, gap)]:
            made = [row("tuning", recipe, "a", 0, 0.5, rate=rate),
                    *(row("run", recipe, "a", seed, 0.5 + by, rate=rate)
                      for seed in (0, 1))]  # fmt: skip
            rows += [{**r, **more} for r in made]
    text = scratch.section(rows)
    first = text.index("at 32 px; rates 0.001")
    second = text.index("at 32 px, augmentation `shift`; rates 0.003 and 0.003:")
    assert first < second
    assert "Ahead on 1 of 1 sets, by 10.0 points" in text[first:second]
    assert "Ahead on 0 of 1 sets, by -20.0 points" in text[second:]


def test_at_a_larger_size_sets_have_to_have_the_pixels(tmp_path, monkeypatch) -> None:
    for name, side in [("small", 48), ("large", 64)]:
        for path in coloured.write(tmp_path / "sets" / name).rglob("*.png"):
            Image.open(path).resize((side, 80)).save(path)
    monkeypatch.setattr(loading, "load", lambda config: config)
    told = []

    def score(method, config):
        told.append(config)
        return {"accuracy": 0.5}

    monkeypatch.setattr(trained, "score", score)
    config = scratch.Config(
        data_root=str(tmp_path / "sets"), per_class="3", seeds=2, tuned_on="small",
        image_size=64, rows=str(tmp_path / "rows.jsonl"), workdir=str(tmp_path / "work"),
    )  # fmt: skip
    assert config.names == ("large",) and config.tuned == ("small",)
    assert dataclasses.replace(config, tuned_on="").tuned == ("large",)
    assert dataclasses.replace(config, image_size=32).names == ("large", "small", scratch.DIGITS)
    scratch.measure(config)
    assert {c.image_size for c in told} == {64} and len(told) == 3 + 4 + 2 * 2
    found = records.load_lines(config.rows)
    assert {(r["kind"], r["data"]) for r in found} == {("tuning", "small"), ("run", "large")}
    # The other size is measured beside it.
    scratch.measure(dataclasses.replace(config, image_size=32, sets="large"))
    assert [c.image_size for c in told[11:]] == [32] * 11


def test_rows_of_other_weights_choose_no_setting(tmp_path, monkeypatch) -> None:
    coloured.write(tmp_path / "sets" / "near")
    monkeypatch.setattr(loading, "load", lambda config: config)
    monkeypatch.setattr(trained, "score", lambda method, config: {"accuracy": 0.5})
    rows = tmp_path / "rows.jsonl"
    old = row("tuning", scratch.BUNDLED, "near", 0, 0.9, rate=7e-4, per_class=3, weights="old")
    records.append_lines(rows, [old])
    scratch.measure(
        scratch.Config(data_root=str(tmp_path / "sets"), sets="near", per_class="3", seeds=2,
                       rows=str(rows), workdir=str(tmp_path / "work"))
    )  # fmt: skip
    runs = [r for r in records.load_lines(rows) if r["kind"] == "run"]
    assert len(runs) == 4 and 7e-4 not in {r["rate"] for r in runs}


def test_both_sides_are_told_what_the_page_says_and_other_weights_are_measured_anew(
    tmp_path, monkeypatch
) -> None:
    coloured.write(tmp_path / "sets" / "near")
    told = []
    monkeypatch.setattr(loading, "load", lambda config: config)

    def score(method, config):
        told.append((method.__name__.rpartition(".")[2], config))
        return {"accuracy": config.learning_rate * (1 + (config.batch_norm == "frozen"))}

    monkeypatch.setattr(trained, "score", score)
    config = scratch.Config(
        data_root=str(tmp_path / "sets"), sets="near", per_class="3", seeds=2,
        rows=str(tmp_path / "rows.jsonl"), workdir=str(tmp_path / "work"),
    )  # fmt: skip
    scratch.measure(config)
    assert len(told) == 3 + 4 + 2 * 2 and {c.epochs for _, c in told} == {scratch.EPOCHS}
    tried = [c for name, c in told[:7] if name == scratch.BUNDLED]
    assert [(c.batch_norm, c.batch_norm_statistics) for c in tried] == [
        ("frozen", "source"), ("frozen", "source"), ("trainable", "source"),
        ("trainable", "target"),
    ]  # fmt: skip
    assert {c.batch_norm for name, c in told if name == scratch.SCRATCH} == {"trainable"}
    scratched, tuned = (
        {(c.learning_rate, c.weights, c.head_stages) for name, c in told[7:] if name == recipe}
        for recipe in scratch.TRIED
    )
    assert scratched == {(3e-3, "none", 1)} and tuned == {(1e-3, "", candidates.DEEP)}
    scratch.measure(config)
    assert len(told) == 11
    scratch.measure(dataclasses.replace(config, augment="shift"))
    assert [c.augment for _, c in told] == ["light"] * 11 + ["shift"] * 11
    del told[11:]
    other = tmp_path / "other.weights.h5"
    other.write_bytes(b"other")
    scratch.measure(dataclasses.replace(config, weights=str(other)))
    assert [(name, c.weights) for name, c in told[11:]] == [(scratch.BUNDLED, str(other))] * 6


@pytest.mark.slow
def test_what_is_missing_is_measured(tmp_path, monkeypatch) -> None:
    coloured.write(tmp_path / "sets" / "near")
    monkeypatch.setattr(scratch, "EPOCHS", 1)
    monkeypatch.setattr(
        scratch,
        "TRIED",
        {
            scratch.SCRATCH: ((1e-3, ""), (3e-3, "")),
            scratch.BUNDLED: ((3e-4, ""), (1e-3, "trainable")),
        },
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
    assert {(r["recipe"], scratch._setting(r)) for r in runs.values()} == {
        (recipe, best[recipe, 3]) for recipe in scratch.TRIED
    }
    (made,) = {r["weights"] for r in found if r["recipe"] == scratch.BUNDLED}
    assert len(made) == 8
    assert "## Against training from scratch" in page.read_text("utf-8")
    assert apps_main.run(["benchmark", "scratch", *words]) == 0
    assert records.load_lines(rows) == found


def test_an_unknown_set_is_refused(tmp_path) -> None:
    coloured.write(tmp_path / "sets" / "near")
    for flag in ("sets", "tuned_on"):
        with pytest.raises(checks.ConfigError, match=f"{flag} must be one of near, digits"):
            scratch.Config(data_root=str(tmp_path / "sets"), **{flag: "far"})
    with pytest.raises(checks.ConfigError, match="takes images of 32 to 128 px"):
        scratch.Config(data_root=str(tmp_path / "sets"), image_size=256)
