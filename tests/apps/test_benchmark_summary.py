"""The statistics of a study, against closed forms and SciPy."""

import math

import numpy as np
import pytest
import scipy.stats

from apps.benchmarks import summary
from finetune_kit import metrics
from tests.apps.benchmark_rows import row

Z = scipy.stats.norm.ppf(0.975)


def runs(*accuracies, test=200):
    return {seed: summary.Point(a, test, 1.0, 2.0) for seed, a in enumerate(accuracies)}


def wilson(p, n):
    centre, width = (p + Z**2 / (2 * n)), Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return (centre - width) / (1 + Z**2 / n), (centre + width) / (1 + Z**2 / n)


def student(values):
    return scipy.stats.t.interval(0.95, len(values) - 1, np.mean(values), scipy.stats.sem(values))


def ends(estimate):
    return estimate.low, estimate.high


def test_one_seed_has_wilsons_interval_over_the_images() -> None:
    found = summary.accuracy(runs(0.61, test=300))
    assert found.value == 0.61
    assert ends(found) == pytest.approx(wilson(0.61, 300))


def test_several_seeds_have_students_interval_within_0_and_1() -> None:
    found = summary.accuracy(runs(0.5, 0.6, 0.55))
    assert found.value == pytest.approx(0.55)
    assert ends(found) == pytest.approx(student([0.5, 0.6, 0.55]))
    assert summary.accuracy(runs(0.9, 1.0)).high == 1.0
    assert summary.accuracy(runs(0.1, 0.0)).low == 0.0


def test_the_mean_over_sets_with_seeds_is_students_over_the_seeds() -> None:
    study = {"a": runs(0.5, 0.6, 0.7), "b": runs(0.9, 0.8, 0.9)}
    found = summary.overall(study, ["a", "b"])
    assert found.value == pytest.approx((0.7 + 0.7 + 0.8) / 3)
    assert ends(found) == pytest.approx(student([0.7, 0.7, 0.8]))


def test_seeds_that_one_set_lacks_do_not_count_in_the_mean() -> None:
    study = {"a": runs(0.5, 0.56, 0.0), "b": runs(0.6, 0.58)}
    found = summary.overall(study, ["a", "b"])
    assert ends(found) == pytest.approx(student([0.55, 0.57]))


def test_the_mean_over_sets_of_one_seed_combines_the_intervals() -> None:
    study = {"a": runs(0.5, test=100), "b": runs(0.9, test=400)}
    found = summary.overall(study, ["a", "b"])
    (low_a, high_a), (low_b, high_b) = wilson(0.5, 100), wilson(0.9, 400)
    assert found.value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - math.sqrt((0.5 - low_a) ** 2 + (0.9 - low_b) ** 2) / 2)
    assert found.high == pytest.approx(
        0.7 + math.sqrt((high_a - 0.5) ** 2 + (high_b - 0.9) ** 2) / 2
    )


def test_the_combined_interval_covers_in_simulation() -> None:
    generator = np.random.default_rng(0)
    truth, sizes, hits = (0.3, 0.6, 0.95), (250, 400, 1000), 0
    for _ in range(1000):
        drawn = [generator.binomial(n, p) / n for p, n in zip(truth, sizes, strict=True)]
        study = {str(i): runs(a, test=n) for i, (a, n) in enumerate(zip(drawn, sizes, strict=True))}
        found = summary.overall(study, list(study))
        hits += found.low <= np.mean(truth) <= found.high
    assert 930 <= hits <= 970


def test_there_is_no_mean_without_every_set() -> None:
    assert summary.overall({"a": runs(0.5)}, ["a", "b"]) is None
    assert summary.overall({"a": runs(0.5), "b": {}}, ["a", "b"]) is None
    assert summary.overall({}, []) is None


def test_a_difference_pairs_the_seeds_that_both_have() -> None:
    first, second = runs(0.6, 0.7, 0.9), runs(0.5, 0.5)
    found = summary.difference(first, second)
    paired = scipy.stats.ttest_rel([0.6, 0.7], [0.5, 0.5]).confidence_interval(0.95)
    assert found.value == pytest.approx(0.15)
    assert ends(found) == pytest.approx((paired.low, paired.high))
    assert summary.difference(first, {7: first[0]}) is None


def test_a_difference_of_one_seed_has_newcombes_interval() -> None:
    # Newcombe (1998), "Interval estimation for the difference between independent proportions",
    # table II, (a) 56/70 - 48/80 by method 10: 0.0524 to 0.3339.
    found = summary.difference(runs(56 / 70, test=70), runs(48 / 80, test=80))
    assert found.value == pytest.approx(0.2)
    assert ends(found) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_the_mean_difference_is_students_over_the_sets() -> None:
    first = {"a": runs(0.6), "b": runs(0.9), "c": runs(0.4, 0.6)}
    second = {"a": runs(0.5), "b": runs(0.7), "c": runs(0.5, 0.6)}
    found = summary.overall_difference(first, second, ["a", "b", "c"])
    assert found.value == pytest.approx((0.1 + 0.2 - 0.05) / 3)
    assert ends(found) == pytest.approx(student([0.1, 0.2, -0.05]))
    assert summary.overall_difference(first, second, ["a"]) is None
    assert summary.overall_difference(first, {"a": runs(0.5)}, ["a", "b"]) is None


def test_the_better_of_two_is_chosen_on_each_set_and_seed() -> None:
    first = {"a": runs(0.6, 0.7), "b": runs(0.9)}
    second = {"a": runs(0.5, 0.8, 0.9), "c": runs(0.9)}
    better = summary.best_of([first, second])
    assert {n: {s: p.accuracy for s, p in r.items()} for n, r in better.items()} == {
        "a": {0: 0.6, 1: 0.8}
    }
    assert summary.best_of([]) == {}


def test_rows_become_points_by_entrant_set_and_seed() -> None:
    rows = [
        row("z", kind="peer"),
        row("b", accuracy=0.25, test=7, seconds=5.0, process=None, seed=3),
        row("a", data="ants"),
        row("guide", kind="baseline"),
        row("guide", kind="recipe"),
    ]
    assert summary.sets(rows) == ["ants", "birds"]
    assert summary.entrants(rows, ["b", "a"]) == [
        ("recipe", "b"),
        ("recipe", "a"),
        ("recipe", "guide"),
        ("baseline", "guide"),
        ("peer", "z"),
    ]
    assert summary.points(rows, ("recipe", "b")) == {
        "birds": {3: summary.Point(0.25, 7, 5.0, None)}
    }


def test_one_seed_keeps_the_accuracy_that_was_measured() -> None:
    """A peer rounds to four digits; the count that Wilson's interval needs is the nearest."""
    found = summary.accuracy(runs(0.3333, test=300))
    assert found.value == 0.3333 and ends(found) == ends(metrics.wilson(100, 300))
