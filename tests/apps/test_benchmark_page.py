"""The page of a study: every figure, the losing ones marked."""

import itertools
import pathlib
import re

import pytest

from apps.benchmarks import markdown, page, recipes, records
from finetune_kit import metrics
from tests.apps.benchmark_rows import row

ORDER = recipes.ORDER
ACCURACIES = {  # method: by set, by seed
    ("recipe", "probe_then_finetune"): {"ants": (0.80, 0.82), "birds": (0.60, 0.62)},
    ("recipe", "head_only"): {"ants": (0.75, 0.75), "birds": (0.64, 0.65)},
    ("recipe", "from_scratch"): {"ants": (0.30,), "birds": (0.20,)},
    ("baseline", "guide"): {"ants": (0.50, 0.52), "birds": (0.30, 0.32)},
    ("baseline", "full"): {"ants": (0.40, 0.42), "birds": (0.40, 0.42)},
    ("peer", "quick"): {"ants": (0.70,), "birds": (0.70,)},
}


def study(**values):
    return [
        row(
            method,
            kind=kind,
            data=name,
            seed=seed,
            accuracy=accuracy,
            program="quick.py --plan 'a b'" if kind == "peer" else f"run {method}",
            **values,
        )
        for (kind, method), by_set in ACCURACIES.items()
        for name, by_seed in by_set.items()
        for seed, accuracy in enumerate(by_seed)
    ]


def tables(text):
    """Returns the tables of a page: name of the first column to {line: {column: cell}}."""
    found = {}
    for _, group in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        lines = [
            [cell.strip() for cell in line[1:-1].split("|")]
            for line in group
            if line.startswith("|")
        ]
        if lines:
            heading, _, *body = lines
            found[heading[0]] = {
                line[0]: dict(zip(heading[1:], line[1:], strict=True)) for line in body
            }
    return found


@pytest.fixture
def text():
    return page.page(study(), ORDER)


def test_every_method_and_set_has_its_accuracy_and_interval(text) -> None:
    shown = tables(text)["accuracy, %"]
    assert list(shown) == [
        "head_only",
        "probe_then_finetune",
        "from_scratch",
        "guide (baseline)",
        "full (baseline)",
        "quick (peer)",
    ]
    intervals = tables(text)["95 % interval"]
    assert list(intervals) == list(shown)
    ours, once = metrics.mean([0.60, 0.62]), metrics.wilson(60, 200)
    assert shown["probe_then_finetune"]["birds"] == "61.0"
    assert intervals["probe_then_finetune"]["birds"] == markdown.interval(ours)
    assert shown["probe_then_finetune"]["seeds"] == "2"
    assert shown["from_scratch"]["ants"] == "30.0"
    assert intervals["from_scratch"]["ants"] == markdown.interval(once)
    assert shown["from_scratch"]["mean"] == "25.0"


def test_the_best_of_every_column_is_bold(text) -> None:
    shown = tables(text)["accuracy, %"]
    best = {
        column: [name for name, line in shown.items() if line[column].startswith("**")]
        for column in ("ants", "birds", "mean")
    }
    assert best == {
        "ants": ["probe_then_finetune"],
        "birds": ["quick (peer)"],
        "mean": ["probe_then_finetune"],
    }


def test_the_differences_are_paired_and_the_losing_cells_bold(text) -> None:
    shown = tables(text)["points"]
    assert list(shown) == ["ants", "birds", "mean"]
    better = shown["ants"]["− better of guide and full"]
    assert better == "+30.0 [+30.0, +30.0]", "0.80 - 0.50 and 0.82 - 0.52"
    assert shown["birds"]["− better of guide and full"].startswith("+20.0 [")
    assert (
        shown["birds"]["− head_only"].startswith("**−3.5 [")
        and "**" in shown["birds"]["− quick (peer)"]
    )
    assert shown["ants"]["− head_only"].startswith("+6.0 [")
    mean = metrics.mean([0.30, 0.20])
    assert shown["mean"]["− better of guide and full"] == markdown.percent(mean, signed=True)


def test_the_first_words_say_where_it_is_behind(text) -> None:
    head = text.split("## Accuracy")[0]
    assert "`probe_then_finetune` reaches 71.0 [" in head
    assert re.search(
        r"against better of guide and full: \+25.0 \[.*\] points, behind on no set", head
    )
    assert re.search(r"against head_only: \+1.2 \[.*\] points, behind on birds", head)
    assert re.search(r"against quick \(peer\): 0.0 \[.*\] points, behind on birds", head)


def test_seconds_of_training_and_of_the_process_are_shown() -> None:
    rows = [
        row(seconds=2.0, process=10.0),
        row(seed=1, seconds=4.0, process=20.0),
        row("quick", kind="peer", seconds=5.4, process=None),
    ]
    shown = tables(page.page(rows, ORDER))["training / process, s"]
    assert shown["head_only"] == {"birds": "3 / 15", "mean": "3 / 15"}
    assert shown["quick (peer)"] == {"birds": "5 / –", "mean": "5 / –"}


def test_what_is_missing_is_shown_as_missing() -> None:
    rows = [r for r in study() if (r.method, r.data) != ("from_scratch", "birds")]
    shown = tables(page.page(rows, ORDER))
    assert shown["accuracy, %"]["from_scratch"]["birds"] == "–"
    assert shown["accuracy, %"]["from_scratch"]["mean"] == "–"
    assert shown["training / process, s"]["from_scratch"]["birds"] == "–"


def test_a_set_that_was_not_compared_is_named() -> None:
    rows = [r for r in study() if (r.method, r.data) != ("quick", "ants")]
    assert "- against quick (peer): – points, behind on birds, not compared on ants" in page.page(
        rows, ORDER
    )


@pytest.mark.parametrize("gone", ["probe_then_finetune", "head_only", "guide", "full", "quick"])
def test_a_page_can_be_made_of_part_of_a_study(gone) -> None:
    shown = tables(page.page([r for r in study() if r.method != gone], ORDER))
    assert len(shown["accuracy, %"]) == 5
    if gone == "probe_then_finetune":
        assert "points" not in shown
    elif gone in ("guide", "full"):
        assert list(shown["points"]["ants"]) == ["− head_only", "− quick (peer)"]


def test_the_head_names_machine_versions_days_and_the_command() -> None:
    rows = study(versions={"python": "3.12.1", "keras": "3.15.1"})
    head = page.page(rows, ORDER).split("## Accuracy")[0]
    for words in (
        "# Recipes and baselines at 20 images a class",
        "- mobilenet, 128 px, weights w.weights.h5, 1,000 parameters without head",
        "- Abacus, 2 cores, 8 GiB (CPU)",
        "- python 3.12.1, keras 3.15.1",
        "- 20 rows, 2026-01-02; recipes by code c0de",
        "--weights=w.weights.h5",
        "--seeds=2 --other_seeds=1 --peer_seeds=1",
        "--peer='quick.py --plan '\"'\"'a b'\"'\"''",
    ):
        assert words in head


def test_rows_of_several_versions_of_the_code_do_not_look_like_one() -> None:
    rows = [row(code="new"), row(seed=1, code="old", finished="2026-02-03T00:00:00+00:00")]
    head = page.page(rows, ORDER)
    assert "2026-01-02 to 2026-02-03; recipes by code new (1 rows), old (1 rows)" in head


def test_a_page_without_recipes_names_no_code() -> None:
    head = page.page([row("quick", kind="peer")], ORDER).split("## Accuracy")[0]
    assert "- 1 rows, 2026-01-02\n" in head and "code" not in head


def test_a_network_of_another_size_is_named() -> None:
    rows = [row(), row("from_scratch", parameters=3_000_000)]
    assert "1,000 or 3,000,000 parameters" in page.page(rows, ORDER)


def test_the_protocol_has_the_numbers_of_images(text) -> None:
    assert "training / test ants 40 / 200, birds 40 / 200" in text


def test_the_page_in_the_repository_is_made_of_the_rows_in_the_repository() -> None:
    root = pathlib.Path(__file__).resolve().parents[2]
    rows = records.latest(records.load(root / "docs" / "results" / "recipes.jsonl"))
    if not rows:
        pytest.skip("docs/results/recipes.jsonl is not there")
    # Others are there for the page of the advice.
    rows = [row for row in rows if row.protocol == rows[0].protocol]
    assert (root / "docs" / "recipes.md").read_text() == page.page(rows, ORDER)


def test_a_grid_is_aligned_and_escapes_bars() -> None:
    assert markdown.grid(["name", "a|b"], [["x", "1"], ["longer", "22"]]).splitlines() == [
        "| name   | a\\|b |",
        "| ------ | ---: |",
        "| x      |    1 |",
        "| longer |   22 |",
    ]


def test_numbers_are_per_cent_with_one_digit() -> None:
    estimate = metrics.Estimate(-0.012, -0.034, 0.0004)
    assert markdown.percent(estimate, signed=True) == "−1.2 [−3.4, 0.0]"
    assert markdown.percent(metrics.Estimate(0.5, 0.25, 1.0)) == "50.0 [25.0, 100.0]"
    assert markdown.value(estimate) == "−1.2" and markdown.interval(estimate) == "[−3.4, 0.0]"
    assert markdown.percent(None) == markdown.value(None) == markdown.interval(None) == "–"
