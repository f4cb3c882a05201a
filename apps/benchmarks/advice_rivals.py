"""What the advised plans are worth beside other programs, on the same images and weights."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from apps.benchmarks import markdown, records, regret
from finetune_kit import metrics

OURS = "auto"  # how rows name a whole run of the advised recipe


def section(
    measured: Iterable[records.Row], draws: Sequence[regret.Draw], pick: regret.Pick
) -> str:
    """Returns tables of accuracy and of whole-process seconds, "" without a rival's rows.

    Args:
        measured: Rows of one network: peers, and whole runs of the advised recipe for their time.
        draws: The study of that network.
        pick: What was advised, by experience that has not seen the set.
    """
    rows = [row for row in measured if row.kind == "peer"]
    lines = []
    for number in sorted({row.protocol.per_class for row in rows}):
        ours = _ours(draws, pick, number)
        for method in sorted({row.method for row in rows if row.protocol.per_class == number}):
            theirs = [r for r in rows if r.method == method and r.protocol.per_class == number]
            lines.append(_line(method, number, ours, theirs))
    kept = [line for line in lines if line is not None]
    if not kept:
        return ""
    headings = ["program", "labels a class", "its accuracy", "advised minus program, points",
                "for these sets", "behind on", "draws"]  # fmt: skip
    reading = (
        "Same images, weights and test splits; differences are paired by draw and averaged by set. "
        "The first interval is Student's over the sets: for other sets like these. The second is "
        "for the test images of these very sets, each taken once and as if the two programs had "
        "not seen the same ones, which makes it wider than it need be."
    )
    parts = ["### Against other programs", markdown.grid(headings, kept), reading,
             _seconds(list(measured))]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def _ours(
    draws: Sequence[regret.Draw], pick: regret.Pick, number: int
) -> dict[tuple[str, int], float]:
    return {
        (draw.place[0], draw.seed): draw.accuracies[pick(draw)]
        for draw in draws
        if draw.place[1] == number
    }


def _line(
    method: str,
    number: int,
    ours: Mapping[tuple[str, int], float],
    rows: Sequence[records.Row],
) -> list[str] | None:
    """Returns the cells of a program's line; None if it shares fewer than two sets."""
    theirs = {(row.data, row.seed): row.accuracy for row in rows}
    tested = {row.data: row.test for row in rows}
    shared = sorted(set(ours) & set(theirs))
    sets = sorted({name for name, _ in shared})
    if len(sets) < 2:
        return None

    def mean(values: Mapping[tuple[str, int], float], name: str) -> float:
        return float(np.mean([values[key] for key in shared if key[0] == name]))

    pairs = {name: (mean(ours, name), mean(theirs, name)) for name in sets}
    gaps = {name: first - second for name, (first, second) in pairs.items()}
    behind = [f"{name} ({100 * gap:.1f})" for name, gap in gaps.items() if gap < 0]
    return [
        method,
        str(number),
        f"{100 * np.mean([second for _, second in pairs.values()]):.1f}",
        markdown.percent(metrics.mean(list(gaps.values())), signed=True),
        markdown.interval(_of_these_sets(pairs, tested), signed=True),
        ", ".join(behind) or "no set",
        str(len(shared)),
    ]


def _of_these_sets(
    pairs: Mapping[str, tuple[float, float]], tested: Mapping[str, int]
) -> metrics.Estimate:
    """Returns the mean difference with the interval that the numbers of test images give."""
    value = float(np.mean([first - second for first, second in pairs.values()]))
    variances = [
        sum(share * (1 - share) for share in pair) / tested[name] for name, pair in pairs.items()
    ]
    error = math.sqrt(sum(variances)) / len(pairs)
    return metrics.Estimate(value, value - metrics.Z * error, value + metrics.Z * error)


def _seconds(measured: Sequence[records.Row]) -> str:
    """Returns whole-process seconds of every program that has some, side by side with ours."""
    timed = [row for row in measured if row.process is not None]
    names = sorted({row.method for row in timed if row.kind == "peer"})
    whole = {row.method for row in timed}
    if OURS not in whole or not names:
        return ""
    sets = sorted({row.data for row in timed if row.method == OURS})
    rows = []
    for method in (OURS, *names):
        cells = [_median(r for r in timed if r.method == method and r.data == name)
                 for name in sets]  # fmt: skip
        rows.append([method, *cells])
    return (
        "Whole process from start to report, seconds, at the smallest number of labels that both "
        "have:\n\n" + markdown.grid(["program", *sets], rows)
    )


def _median(rows: Iterable[records.Row]) -> str:
    found = list(rows)
    if not found:
        return markdown.MISSING
    fewest = min(row.protocol.per_class for row in found)
    values = [r.process for r in found if r.protocol.per_class == fewest and r.process is not None]
    return f"{np.median(values):.0f}"
