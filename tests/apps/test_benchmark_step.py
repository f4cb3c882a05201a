"""The suite `step`: ratios, their spread, and that both networks take the same step."""

import json
import pathlib

import keras
import numpy as np
import pytest
import scipy.stats

from apps.benchmarks import records, step
from finetune_kit import checks, console


def config(tmp_path, **values):
    return step.Config(
        **{
            "backbone": "mobilenet",
            "backbone_args": "alpha=0.25",
            "image_size": 32,
            "batch_size": 2,
            "rounds": 20,
            "rows": str(tmp_path / "step.jsonl"),
            "output": str(tmp_path / "step.md"),
            **values,
        }
    )


def test_the_ratio_is_the_median_over_rounds_with_its_quartiles() -> None:
    second = np.random.default_rng(0).uniform(1, 2, 101)
    first = second * np.linspace(0.9, 1.1, 101)
    found = step.ratio(first, second)
    assert found.value == pytest.approx(1.0)
    assert (found.lower, found.upper) == pytest.approx((0.95, 1.05))


@pytest.mark.parametrize("rounds", [20, 75, 300])
def test_the_interval_of_the_median_is_that_of_order_statistics(rounds) -> None:
    values = np.sort(np.random.default_rng(1).exponential(size=rounds))
    found = step.ratio(values, np.ones(rounds))
    low, high = (int(np.flatnonzero(values == end)[0]) for end in (found.low, found.high))
    below = scipy.stats.binom(rounds, 0.5)
    covers = below.cdf(high) - below.cdf(low)
    tighter = below.cdf(high - 1) - below.cdf(low + 1)
    assert covers >= 0.95 > tighter and low + high == rounds - 1


def test_one_slow_round_does_not_move_it() -> None:
    second = np.full(100, 0.05)
    first = np.where(np.arange(100) == 7, 10.0, 0.0505)
    assert step.ratio(first, second).value == pytest.approx(1.01)


def test_networks_differ_by_the_rates_alone(tmp_path) -> None:
    plain, layerwise = (
        step._network(config(tmp_path), layerwise=layerwise) for layerwise in (False, True)
    )
    assert type(plain.optimizer) is keras.optimizers.AdamW
    assert len({*layerwise.optimizer.multipliers.values()}) > 2
    assert [v.path for v in plain.trainable_variables] == [
        v.path for v in layerwise.trainable_variables
    ]
    assert not any("_bn" in variable.path for variable in plain.trainable_variables)
    more = step._network(config(tmp_path, batch_norm="trainable"), layerwise=True)
    assert len(more.trainable_variables) > 2 * len(plain.trainable_variables)


def test_every_network_steps_once_a_round_and_each_place_in_turn() -> None:
    calls = []

    class Model:
        def __init__(self, name) -> None:
            self.name = name

        def train_on_batch(self, *batch) -> None:
            calls.append(self.name)

    models = {arm: Model(arm) for arm in step.ARMS}
    seconds = step._interleaved(models, (0, 0), rounds=10)
    assert {arm: len(values) for arm, values in seconds.items()} == dict.fromkeys(step.ARMS, 10)
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(sorted(order) == sorted(step.ARMS) for order in rounds)
    assert len(set(rounds)) == 6, "all orders, so that nobody always follows the same one"


def line(**values):
    ratio = {"value": 1.004, "low": 0.998, "high": 1.011, "lower": 0.97, "upper": 1.03}
    return {
        "backbone": "mobilenet",
        "backbone_args": "alpha=0.25",
        "image_size": 128,
        "batch_size": 32,
        "batch_norm": "frozen",
        "optimizer": "adamw",
        "variables": 29,
        "rounds": 300,
        "milliseconds": {"plain": 50.123, "layerwise": 50.3, "control": 50.0},
        "ratio": ratio,
        "control": ratio | {"value": 0.999},
        "device": "CPU",
        "machine": "Abacus",
        "versions": {"python": "3.11.7"},
        "finished": "2026-01-02T03:04:05+00:00",
        **values,
    }


def test_the_page_has_a_line_for_each_setting_and_the_newest_counts() -> None:
    text = step.page([line(rounds=50), line(batch_norm="trainable"), line()])
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert len(table) == 4
    assert "1.004 [0.998, 1.011]" in table[2] and "0.970 to 1.030" in table[2]
    assert "| 300 |" in " ".join(table[2].split()) and "BatchNorm trains" in table[3]
    assert "No row is above 1.02." in text and "- Abacus (CPU); python 3.11.7" in text


def test_the_page_names_what_is_above_the_limit() -> None:
    slow = line(optimizer="sgd", ratio=line()["ratio"] | {"value": 1.03})
    assert "Above 1.02: mobilenet alpha=0.25 128 px, 32, sgd." in step.page([line(), slow])


def test_bad_flags_are_refused(tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="rounds must lie in"):
        config(tmp_path, rounds=5)
    with pytest.raises(checks.ConfigError, match="optimizer must be one of"):
        config(tmp_path, optimizer="adamm")


def test_it_measures_and_writes_row_and_page(tmp_path, capsys) -> None:
    words = [
        "--backbone=bundled",
        "--image_size=32",
        "--batch_size=2",
        "--rounds=20",
        f"--rows={tmp_path / 'step.jsonl'}",
        f"--output={tmp_path / 'step.md'}",
    ]
    console.activate(plain=True)
    try:
        assert step.main(words) == 0
    finally:
        console.deactivate()
    (row,) = records.load_lines(tmp_path / "step.jsonl")
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == row
    assert row["variables"] == 2 + 7 and set(row["milliseconds"]) == set(step.ARMS)
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert (tmp_path / "step.md").read_text() == step.page([row])


def test_the_page_in_the_repository_is_made_of_the_rows_in_the_repository() -> None:
    root = pathlib.Path(__file__).resolve().parents[2]
    rows = records.load_lines(root / "docs" / "results" / "step.jsonl")
    if not rows:
        pytest.skip("docs/results/step.jsonl is not there")
    assert (root / "docs" / "step.md").read_text() == step.page(rows)
