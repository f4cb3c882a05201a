"""The suite `peers`: whole processes of the kit against whole processes of other programs.

    finetune-kit benchmark peers --data_root=photo_sets --weights=net.weights.h5 --peer=fast.sh

Set by set, one program after the other on the same images; a peer speaks the protocol of
`benchmark recipes`. What counts is whether the kit recognises as many test images, and in what part
of the time from start to end.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import cases, markdown, methods, network, overview, peers, records
from apps.benchmarks import recipes as suite
from finetune_kit import checks, console
from finetune_kit.backbones import catalogue
from recipes import settings

FAST = 2.0  # times faster that the kit wants to be, at no less accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(network.Network):
    """Flags of `finetune-kit benchmark peers`."""

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    per_class: int = settings.option("Training images a class; 0 is all.", 20, low=0)
    seed: int = settings.option("Draws the training images.", 0, low=0)
    recipes: str = settings.option("Names of recipes, with commas.", "auto,probe_then_finetune")
    peer: str = settings.option(
        "Program that draws and measures the same images; may be given several times.", ""
    )
    rows: str = settings.option("Where finished runs are kept.", "docs/results/peers.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where images and runs go; may be deleted.", "runs/benchmark")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in suite.listed(self.recipes):
            checks.one_of("recipes", name, suite.MEASURED)
        for command in self.peer.splitlines():
            peers.resolve(command)
        if self.data_root:
            known = cases.sets_in(self.data_root)
            for name in suite.listed(self.sets):
                checks.one_of("sets", name, known)

    @property
    def protocol(self) -> records.Protocol:
        """What all rows of a table share."""
        return records.Protocol(
            backbone=catalogue.canonical(self.backbone),
            backbone_args=self.backbone_args,
            weights=pathlib.Path(self.weights).name,
            image_size=self.image_size,
            per_class=self.per_class,
        )


def main(argv: list[str]) -> int:
    """Measures what has no row, writes the page; returns 0, or 75 if a run failed."""
    config, words = flags.parse(suite.together(argv, "peer"), Config, command="benchmark peers")
    flags.refuse_words("benchmark peers", words)
    failures = measure(config) if config.data_root else 0
    overview.write(config.output, suite="peers", rows=config.rows)
    console.say(f"page  {config.output}")
    return suite.INCOMPLETE if failures else 0


def measure(config: Config) -> int:
    """Adds a row for every program and set that has none; returns how many runs failed."""
    bench = methods.Bench(
        data_root=pathlib.Path(config.data_root),
        weights=config.weights,
        workdir=pathlib.Path(config.workdir),
        protocol=config.protocol,
    )
    chosen = [
        *(methods.of_recipe(name, seeds=1) for name in suite.listed(config.recipes)),
        *(methods.of_peer(command, seeds=1) for command in config.peer.splitlines()),
    ]
    names = suite.listed(config.sets) or cases.sets_in(config.data_root)
    done = {
        (row.program, row.data, row.seed)
        for row in records.load(config.rows)
        if row.protocol == config.protocol
    }
    left = [(m, name) for name in names for m in chosen
            if (m.program, name, config.seed) not in done]  # fmt: skip
    failures = 0
    with console.progress("Runs", len(left)) as bar:
        for method, name in left:
            try:
                found = methods.measure(method, bench, data=name, seed=config.seed)
                records.append(config.rows, found)
            except checks.KitError as error:
                failures += 1
                console.warn(f"{method.name} on {name}: {error}")
            bar.advance()
    return failures


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the tables of the suite, a function of its rows alone."""
    rows = [row for row in records.latest(map(records.row, lines)) if row.process is not None]
    parts = [
        "## Against other programs",
        "Whole processes from start to end, one at a time, on the same training and test images "
        "with the same weights. A cell is the accuracy on the test images in per cent, and the "
        "seconds.",
    ]
    for protocol in dict.fromkeys(row.protocol for row in rows):
        parts += _table([row for row in rows if row.protocol == protocol])
    return "\n\n".join(parts)


def _table(rows: Sequence[records.Row]) -> list[str]:
    names = list(dict.fromkeys((row.kind, row.method) for row in rows))
    cells = {((row.kind, row.method), row.data): row for row in rows}
    sets = sorted({row.data for row in rows})
    table = [[name, *(_cell(cells.get((column, name))) for column in names)] for name in sets]
    means = ["mean", *(_mean([cells.get((column, name)) for name in sets]) for column in names)]
    p = rows[0].protocol
    arguments = f" {p.backbone_args}" if p.backbone_args else ""
    title = f"{p.backbone}{arguments} at {p.image_size} px, {p.per_class} images a class:"
    sentences = [
        _sentence(ours, theirs, cells, sets)
        for ours in names if ours[0] == "recipe"
        for theirs in names if theirs[0] == "peer"
    ]  # fmt: skip
    machines = dict.fromkeys(f"- {row.machine}" for row in rows)
    return [
        title,
        markdown.grid(["set", *(method for _, method in names)], [*table, means]),
        "\n".join(f"- {sentence}" for sentence in sentences if sentence),
        "\n".join(machines),
    ]


def _sentence(
    ours: tuple[str, str],
    theirs: tuple[str, str],
    cells: Mapping[tuple[tuple[str, str], str], records.Row],
    sets: Sequence[str],
) -> str:
    """Returns how one program of the kit stands to one of the others."""
    pairs = [(cells[ours, name], cells[theirs, name]) for name in sets
             if (ours, name) in cells and (theirs, name) in cells]  # fmt: skip
    if not pairs:
        return ""
    gains = [100 * (own.accuracy - other.accuracy) for own, other in pairs]
    ratios = [float(other.process or 0) / float(own.process or 1) for own, other in pairs]
    both = sum(gain >= 0 and ratio >= FAST for gain, ratio in zip(gains, ratios, strict=True))
    return (
        f"`{ours[1]}` against `{theirs[1]}`: {np.mean(gains):+.1f} points on average, "
        f"{np.median(ratios):.1f} times as fast [{min(ratios):.1f}, {max(ratios):.1f}]; at least "
        f"as accurate and {FAST:g} times as fast on {both} of {len(pairs)} sets"
    )


def _cell(row: records.Row | None) -> str:
    if row is None:
        return markdown.MISSING
    return f"{100 * row.accuracy:.1f}, {row.process:.0f} s"


def _mean(rows: Sequence[records.Row | None]) -> str:
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return markdown.MISSING
    accuracy = np.mean([row.accuracy for row in known])
    return f"{100 * accuracy:.1f}, {np.mean([row.process or 0.0 for row in known]):.0f} s"
