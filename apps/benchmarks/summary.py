"""What the rows of a study say: means, intervals and paired differences. NumPy and SciPy alone."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from apps.benchmarks import records
from finetune_kit import metrics

Entrant = tuple[str, str]  # kind and method
Points = Mapping[str, Mapping[int, "Point"]]  # set, then seed


@dataclasses.dataclass(frozen=True)
class Point:
    """One run: accuracy in [0, 1], number of test images, seconds (see `records.Row`)."""

    accuracy: float
    test: int
    seconds: float
    process: float | None


def sets(measured: Iterable[records.Row]) -> list[str]:
    """Returns the names of the sets, sorted."""
    return sorted({row.data for row in measured})


def entrants(measured: Iterable[records.Row], order: Sequence[str]) -> list[Entrant]:
    """Returns what was measured: recipes, baselines, peers; each kind in the order of names."""
    found = {(row.kind, row.method) for row in measured}
    places = {name: place for place, name in enumerate(order)}
    return sorted(
        found, key=lambda e: (records.KINDS.index(e[0]), places.get(e[1], len(places)), e[1])
    )


def points(measured: Iterable[records.Row], entrant: Entrant) -> dict[str, dict[int, Point]]:
    """Returns the runs of one entrant by set and seed."""
    found: dict[str, dict[int, Point]] = {}
    for row in measured:
        if (row.kind, row.method) == entrant:
            point = Point(row.accuracy, row.test, row.seconds, row.process)
            found.setdefault(row.data, {})[row.seed] = point
    return found


def best_of(several: Sequence[Points]) -> dict[str, dict[int, Point]]:
    """Returns, by set and seed, the most accurate run of several entrants that all ran there.

    Chosen by the test split, so it is better than either entrant could be relied upon to be: what
    is compared with it is judged strictly.
    """
    if not several:
        return {}
    names = set.intersection(*(set(entrant) for entrant in several))
    return {
        name: {
            seed: max((entrant[name][seed] for entrant in several), key=lambda p: p.accuracy)
            for seed in sorted(set.intersection(*(set(entrant[name]) for entrant in several)))
        }
        for name in sorted(names)
    }


def accuracy(runs: Mapping[int, Point]) -> metrics.Estimate:
    """Returns the mean accuracy on one set and its 95 % interval, within [0, 1].

    With several seeds Student's interval over them: other training images, other luck. With one
    seed Wilson's over the test images: it knows nothing of other training images.

    Args:
        runs: Seed to run; at least one.
    """
    if len(runs) == 1:
        (only,) = runs.values()
        estimate = metrics.wilson(round(only.accuracy * only.test), only.test)
        return dataclasses.replace(estimate, value=only.accuracy)
    return _within(metrics.mean([run.accuracy for run in runs.values()]))


def overall(runs: Points, names: Sequence[str]) -> metrics.Estimate | None:
    """Returns the mean accuracy over the sets, each counting the same, or None if one is missing.

    With seeds that all sets share, Student's interval over those seeds; otherwise the intervals of
    the sets combined (MOVER: Zou & Donner, 2008, section 2).
    """
    if not names or any(not runs.get(name) for name in names):
        return None
    shared = sorted(set.intersection(*(set(runs[name]) for name in names)))
    if len(shared) > 1:
        by_seed = [np.mean([runs[name][seed].accuracy for name in names]) for seed in shared]
        return _within(metrics.mean(np.asarray(by_seed)))
    cells = [accuracy(runs[name]) for name in names]
    value = float(np.mean([cell.value for cell in cells]))
    below = math.hypot(*(cell.value - cell.low for cell in cells)) / len(cells)
    above = math.hypot(*(cell.high - cell.value for cell in cells)) / len(cells)
    return _within(metrics.Estimate(value, value - below, value + above))


def difference(first: Mapping[int, Point], second: Mapping[int, Point]) -> metrics.Estimate | None:
    """Returns the mean of `first` - `second` over the seeds that both have; None without one.

    With several seeds Student's paired interval; with one Newcombe's hybrid score interval (1998,
    method 10), which is too wide here: it does not know that both saw the same test images.
    """
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    if len(seeds) > 1:
        return metrics.paired_difference(
            [first[seed].accuracy for seed in seeds], [second[seed].accuracy for seed in seeds]
        )
    one, other = (accuracy({seeds[0]: runs[seeds[0]]}) for runs in (first, second))
    value = one.value - other.value
    return metrics.Estimate(
        value,
        value - math.hypot(one.value - one.low, other.high - other.value),
        value + math.hypot(one.high - one.value, other.value - other.low),
    )


def overall_difference(
    first: Points, second: Points, names: Sequence[str]
) -> metrics.Estimate | None:
    """Returns the mean over the sets of `difference` and Student's interval over the sets.

    None unless there are two sets or more and each has a difference.
    """
    found = [difference(first.get(name, {}), second.get(name, {})) for name in names]
    values = [estimate.value for estimate in found if estimate is not None]
    if len(values) < len(names) or len(values) < 2:
        return None
    return metrics.mean(values)


def _within(estimate: metrics.Estimate) -> metrics.Estimate:
    return metrics.Estimate(estimate.value, max(0.0, estimate.low), min(1.0, estimate.high))
