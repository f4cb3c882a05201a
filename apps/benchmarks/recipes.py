"""The suite `recipes`: every recipe, two baselines and any peer, on the same images.

    finetune-kit benchmark recipes --data_root=photo_sets --weights=mobilenet.weights.h5

A finished run is a row on the disk; the same command goes on where it was stopped, and writes the
page from all rows after each.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence

from apps import finetune, flags
from apps.benchmarks import cases, cell, guide, methods, network, page, peers, records
from finetune_kit import checks, console
from finetune_kit.backbones import catalogue
from finetune_kit.results import files
from recipes import settings

ORDER = (*finetune.RECIPES, *guide.PLANS)  # of the lines of the tables
# Source images to train beside are no part of the protocol.
MEASURED = tuple(name for name in finetune.RECIPES if name != "selective_joint")
INCOMPLETE = 75  # sysexits' EX_TEMPFAIL: the same command again does what is missing

Run = tuple[methods.Method, str, int]  # on which set, with which seed
Runner = Callable[[Sequence[str]], peers.Finished]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(network.Network):
    """Flags of `finetune-kit benchmark recipes`.

    Raises:
        ConfigError, DataError, WeightsError: What is asked for does not exist.
    """

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    per_class: int = settings.option("Training images a class; 0 is all.", 20, low=0)
    # The baselines too: with few images, the draw of their random head alone moves them by points.
    seeds: int = settings.option(
        "Seeds of head_only, probe_then_finetune and the baselines.", 3, low=1
    )
    other_seeds: int = settings.option("Seeds of the other recipes.", 1, low=1)
    peer_seeds: int = settings.option("Seeds of peers.", 1, low=1)
    recipes: str = settings.option(
        "Names of recipes, with commas; none is no recipe.", ",".join(MEASURED)
    )
    baselines: str = settings.option(
        "Plans of `benchmark guide`, with commas; none is no baseline.", ",".join(guide.PLANS)
    )
    peer: str = settings.option(
        "Program that draws and measures the same images; may be given several times.", ""
    )
    rows: str = settings.option("Where finished runs are kept.", "docs/results/recipes.jsonl")
    output: str = settings.option("The page.", "docs/recipes.md")
    workdir: str = settings.option("Where images and runs go; may be deleted.", "runs/benchmark")
    refresh: bool = settings.option(
        "Run again what another version of the code has measured.", False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in listed(self.recipes):
            checks.one_of("recipes", name, MEASURED)
        for name in listed(self.baselines):
            checks.one_of("baselines", name, guide.PLANS)
        for command in self.peer.splitlines():
            peers.resolve(command)
        if self.data_root:
            known = cases.sets_in(self.data_root)
            for name in listed(self.sets):
                checks.one_of("sets", name, known)

    @property
    def protocol(self) -> records.Protocol:
        """What all rows of the page share."""
        return records.Protocol(
            backbone=catalogue.canonical(self.backbone),
            backbone_args=self.backbone_args,
            weights=pathlib.Path(self.weights).name,
            image_size=self.image_size,
            per_class=self.per_class,
        )


def main(argv: list[str]) -> int:
    """Runs what is missing and writes the page; returns 0, or 75 if a run failed."""
    config, words = flags.parse(together(argv, "peer"), Config, command="benchmark recipes")
    flags.refuse_words("benchmark recipes", words)
    return run(config)


def run(config: Config, *, runner: Runner = peers.call) -> int:
    """Runs what is missing and writes the page; a run that fails does not stop the others.

    Args:
        config: What to measure.
        runner: Runs a command.

    Returns:
        0, or 75 if a run failed.

    Raises:
        EnvironmentFault: Rows or page cannot be written.
    """
    bench = methods.Bench(
        data_root=pathlib.Path(config.data_root),
        weights=config.weights,
        workdir=pathlib.Path(config.workdir),
        protocol=config.protocol,
        runner=runner,
    )
    write_page(config)
    missing = unfinished(planned(config), records.load(config.rows), config)
    failures = 0
    with console.progress("Runs", len(missing)) as progress:
        for method, data, seed in missing:
            try:
                found = methods.measure(method, bench, data=data, seed=seed)
            except checks.KitError as error:
                failures += 1
                console.warn(f"{method.name} on {data}, seed {seed}: {error}")
            else:
                records.append(config.rows, found)
                write_page(config)
                _tell(found)
            progress.advance()
    if failures:
        console.warn(f"{failures} of {len(missing)} runs failed; the same command tries them again")
    console.say(f"rows  {config.rows}")
    console.say(f"page  {config.output}")
    return INCOMPLETE if failures else 0


def planned(config: Config) -> list[Run]:
    """Returns all runs: the first seed of every method on every set, then the next seed."""
    if not config.data_root:
        return []
    chosen = [
        *(
            methods.of_recipe(
                name,
                seeds=config.seeds if name in methods.SEVERAL_SEEDS else config.other_seeds,
            )
            for name in listed(config.recipes)
        ),
        *(methods.of_baseline(plan, seeds=config.seeds) for plan in listed(config.baselines)),
        *(methods.of_peer(peer, seeds=config.peer_seeds) for peer in config.peer.splitlines()),
    ]
    names = listed(config.sets) or cases.sets_in(config.data_root)
    return [
        (method, data, seed)
        for seed in range(max((method.seeds for method in chosen), default=0))
        for data in names
        for method in chosen
        if seed < method.seeds
    ]


def unfinished(runs: Iterable[Run], measured: Iterable[records.Row], config: Config) -> list[Run]:
    """Returns the runs that have no row; with `refresh`, no row by the present code."""
    done = {
        (row.program, row.data, row.seed, row.code if config.refresh else "")
        for row in measured
        if row.protocol == config.protocol
    }
    return [
        (method, data, seed)
        for method, data, seed in runs
        if (method.program, data, seed, method.code if config.refresh else "") not in done
    ]


def write_page(config: Config) -> None:
    """Writes the page from the rows of the config's protocol, if there are any."""
    measured = records.latest(records.load(config.rows))
    mine = [row for row in measured if row.protocol == config.protocol]
    if mine:
        pathlib.Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        files.write_text(config.output, page.page(mine, ORDER))


def listed(names: str) -> tuple[str, ...]:
    """Returns the names in `a,b`; "none" and "" are no names."""
    found = cell.listed(names)
    return () if found == ("none",) else found


def together(argv: Sequence[str], name: str) -> list[str]:
    """Returns the words with all values of a flag that is given several times as one, in lines.

    Args:
        argv: Words; the flag must be written `--name=value`.
        name: The flag.
    """
    start = f"--{name}="
    values = [word.removeprefix(start) for word in argv if word.startswith(start)]
    others = [word for word in argv if not word.startswith(start)]
    return [start + "\n".join(values), *others] if values else others


def _tell(found: Sequence[records.Row]) -> None:
    for row in found:
        whole = "" if row.process is None else f", process {row.process:.0f} s"
        console.say(
            f"{row.data}, seed {row.seed}: {row.method} {100 * row.accuracy:.1f} %, "
            f"training {row.seconds:.0f} s{whole}"
        )
