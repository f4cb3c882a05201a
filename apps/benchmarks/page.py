"""The page of the suite `recipes`: every figure of the rows, those that speak against us too."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from apps.benchmarks import markdown, records, summary
from finetune_kit import metrics

OURS = ("recipe", "probe_then_finetune")
SIMPLER = ("recipe", "head_only")
BASELINES = (("baseline", "guide"), ("baseline", "full"))
BETTER = "better of guide and full"

Study = Mapping[summary.Entrant, summary.Points]
Opponent = tuple[str, summary.Points]  # heading and runs


def page(measured: Sequence[records.Row], order: Sequence[str]) -> str:
    """Returns the page, a function of the rows alone.

    Args:
        measured: At least one row, all of one protocol.
        order: Names of recipes and baselines, as the tables are to have them.
    """
    names = summary.sets(measured)
    study = {
        entrant: summary.points(measured, entrant) for entrant in summary.entrants(measured, order)
    }
    against = _opponents(study)
    parts = [
        f"# Recipes and baselines at {measured[0].protocol.per_class} images a class",
        _facts(measured),
        _verdict(study, against, names),
        "## Accuracy",
        _accuracies(study, names),
        _how_accuracies_read(),
        _paired(study, against, names),
        "## Seconds",
        _seconds(study, names),
        "Training, then the whole process from start to end. Training is what a peer reports: "
        "fitting, its tracing and what fitting needs (cross-validation, cached features), without "
        "start-up, decoding (the baselines decode in their first epoch) and test. A recipe's "
        "process also writes model, report and pictures.",
        "## Protocol",
        _protocol(measured),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def name_of(entrant: summary.Entrant) -> str:
    """Returns how the tables name an entrant."""
    kind, method = entrant
    return method if kind == "recipe" else f"{method} ({kind})"


def _facts(measured: Sequence[records.Row]) -> str:
    protocol = measured[0].protocol
    days = sorted(row.finished[:10] for row in measured)
    period = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    arguments = f" ({protocol.backbone_args})" if protocol.backbone_args else ""
    sizes = sorted({row.parameters for row in measured if row.parameters})
    parameters = " or ".join(f"{size:,}" for size in sizes)
    lines = [
        f"{protocol.backbone}{arguments}, {protocol.image_size} px, weights {protocol.weights}"
        + (f", {parameters} parameters without head" if sizes else ""),
        "; ".join(_distinct(row.machine for row in measured))
        + _in_brackets(_distinct(row.device for row in measured)),
        "; ".join(_distinct(_versions(row.versions) for row in measured)),
        "; ".join([f"{len(measured)} rows, {period}", *_code(measured)]),
    ]
    return f"Written by\n\n{_command(measured)}\n\n" + "\n".join(f"- {line}" for line in lines)


def _command(measured: Sequence[records.Row]) -> str:
    """Returns the command that makes the page, as a block; folders are left to the reader."""
    protocol = measured[0].protocol
    seeds = [1 + max((row.seed for row in some), default=0) for some in _by_flag(measured)]
    words = [
        "finetune-kit benchmark recipes",
        "--data_root=DATA",
        f"--weights={protocol.weights}",
        f"--backbone={protocol.backbone}",
        *([f"--backbone_args={protocol.backbone_args}"] if protocol.backbone_args else []),
        f"--image_size={protocol.image_size} --per_class={protocol.per_class}",
        f"--seeds={seeds[0]} --other_seeds={seeds[1]} --peer_seeds={seeds[2]}",
        *(
            f"--peer={shlex.quote(program)}"
            for program in _distinct(row.program for row in measured if row.kind == "peer")
        ),
    ]
    return "```\n" + " \\\n    ".join(words) + "\n```"


def _by_flag(measured: Sequence[records.Row]) -> tuple[list[records.Row], ...]:
    """Returns the rows whose seeds --seeds, --other_seeds and --peer_seeds decide."""
    most = (OURS, SIMPLER, *BASELINES)
    peers = [row for row in measured if row.kind == "peer"]
    several = [row for row in measured if (row.kind, row.method) in most]
    return several, [row for row in measured if row not in peers + several], peers


def _code(measured: Sequence[records.Row]) -> list[str]:
    """Returns the fingerprint of the kit's code; with several, the number of the rows of each.

    Rows of several versions in one table must not look like rows of one.
    """
    codes = [row.code for row in measured if row.kind == "recipe"]
    found = _distinct(codes)
    if len(found) > 1:
        found = [f"{code} ({codes.count(code)} rows)" for code in found]
    return [f"recipes by code {', '.join(found)}"] if found else []


def _opponents(study: Study) -> list[Opponent]:
    """Returns what the main recipe is compared with: baselines, head alone, peers."""
    found: list[Opponent] = []
    if all(baseline in study for baseline in BASELINES):
        better = summary.best_of([study[baseline] for baseline in BASELINES])
        found.append((BETTER, better))
    found += [(name_of(SIMPLER), study[SIMPLER])] if SIMPLER in study else []
    found += [(name_of(entrant), runs) for entrant, runs in study.items() if entrant[0] == "peer"]
    return found


def _verdict(study: Study, against: Sequence[Opponent], names: Sequence[str]) -> str:
    if OURS not in study:
        return ""
    mean = summary.overall(study[OURS], names)
    lines = [f"`{OURS[1]}` reaches {markdown.percent(mean)} % on the mean of {len(names)} sets."]
    for opponent, runs in against:
        total = summary.overall_difference(study[OURS], runs, names)
        gaps = _differences(study[OURS], runs, names)
        behind = [name for name, gap in gaps if gap is not None and gap.value < 0]
        unknown = [name for name, gap in gaps if gap is None]
        where = f"behind on {', '.join(behind) or 'no set'}"
        where += f", not compared on {', '.join(unknown)}" if unknown else ""
        gain = markdown.percent(total, signed=True)
        lines.append(f"- against {opponent}: {gain} points, {where}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _accuracies(study: Study, names: Sequence[str]) -> str:
    """Returns two tables, values and intervals: in one they would be too wide to read."""
    table = [
        [
            *(summary.accuracy(runs[name]) if runs.get(name) else None for name in names),
            summary.overall(runs, names),
        ]
        for runs in study.values()
    ]
    best = [
        max((cell.value for cell in column if cell is not None), default=None)
        for column in zip(*table, strict=True)
    ]
    values, intervals = [], []
    for (entrant, runs), cells in zip(study.items(), table, strict=True):
        start = [name_of(entrant), str(max(len(runs[name]) for name in runs))]
        shown = [
            _bold(markdown.value(cell), cell is not None and cell.value == top)
            for cell, top in zip(cells, best, strict=True)
        ]
        values.append([*start, *shown])
        intervals.append([*start, *(markdown.interval(cell) for cell in cells)])
    return "\n\n".join(
        [
            markdown.grid(["accuracy, %", "seeds", *names, "mean"], values),
            markdown.grid(["95 % interval", "seeds", *names, "mean"], intervals),
        ]
    )


def _how_accuracies_read() -> str:
    return (
        "Intervals with several seeds are Student's over the seeds, so they hold what other "
        "training images would change; with one seed they are Wilson's over the test images, which "
        "knows nothing of that and so looks narrower than it is. Bold: the highest of a column, "
        "which need not be significant."
    )


def _paired(study: Study, against: Sequence[Opponent], names: Sequence[str]) -> str:
    if OURS not in study or not against:
        return ""
    columns = [dict(_differences(study[OURS], runs, names)) for _, runs in against]
    lines = [[name, *(_behind(column[name]) for column in columns)] for name in names]
    means = [summary.overall_difference(study[OURS], runs, names) for _, runs in against]
    lines.append(["mean", *(_behind(mean) for mean in means)])
    headings = ["points", *(f"− {opponent}" for opponent, _ in against)]
    return "\n\n".join(
        [
            f"## {OURS[1]} against the others",
            markdown.grid(headings, lines),
            "Paired: the same seed, so the same training and test images, on both sides. The "
            "better of guide and full is chosen for each set and seed by its test accuracy, in its "
            "favour. "
            "Intervals: Student's over the seeds, Newcombe's where there is one seed, Student's "
            f"over the sets in the last line. Bold: `{OURS[1]}` is behind.",
        ]
    )


def _differences(
    ours: summary.Points, theirs: summary.Points, names: Sequence[str]
) -> list[tuple[str, metrics.Estimate | None]]:
    return [(name, summary.difference(ours.get(name, {}), theirs.get(name, {}))) for name in names]


def _seconds(study: Study, names: Sequence[str]) -> str:
    lines = []
    for entrant, runs in study.items():
        cells = [[*runs.get(name, {}).values()] for name in names]
        every = [run for cell in cells for run in cell] if all(cells) else []
        lines.append([name_of(entrant), *(_spent(cell) for cell in [*cells, every])])
    return markdown.grid(["training / process, s", *names, "mean"], lines)


def _spent(runs: Sequence[summary.Point]) -> str:
    if not runs:
        return markdown.MISSING
    processes = [run.process for run in runs if run.process is not None]
    process = f"{np.mean(processes):.0f}" if len(processes) == len(runs) else markdown.MISSING
    return f"{np.mean([run.seconds for run in runs]):.0f} / {process}"


def _protocol(measured: Sequence[records.Row]) -> str:
    tests = {row.data: row.test for row in measured}
    trains = {row.data: row.n for row in measured}
    counts = ", ".join(f"{name} {trains[name]} / {tests[name]}" for name in sorted(tests))
    items = [
        "Every run is a process of its own, with the cores named above to itself. The training "
        "images of a seed and the test images are the same for all (`apps/benchmarks/cases.py`), "
        f"checked by their numbers: training / test {counts}.",
        "Recipes are run with their defaults by `finetune-kit finetune`; all their choices are "
        "made on the training images. The test split is read once, after training.",
        "guide: the recipe of Keras' transfer-learning guide, 20 epochs with a frozen backbone at "
        "1e-3, then 10 of everything at 1e-5. full: 30 epochs of everything at 1e-4 "
        "(`apps/benchmarks/guide.py`).",
        "Peers are programs by others, by the protocol of `apps/benchmarks/peers.py`. What "
        "several lines of one process cost each is not known.",
    ]
    return "\n".join(f"- {item}" for item in items)


def _behind(gap: metrics.Estimate | None) -> str:
    return _bold(markdown.percent(gap, signed=True), gap is not None and gap.value < 0)


def _bold(text: str, marked: bool) -> str:
    return f"**{text}**" if marked else text


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _in_brackets(words: Sequence[str]) -> str:
    shown = [word for word in words if word]
    return f" ({'; '.join(shown)})" if shown else ""


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
