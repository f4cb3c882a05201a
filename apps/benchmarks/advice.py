"""The suite `advice`: does the advisor choose well? Every plan on every set, and what it chose.

    finetune-kit benchmark advice --data_root=photo_sets --weights=mobilenet.weights.h5

A finished piece is a row on the disk; the same command goes on where it was stopped, on this or
another machine, and writes the page from all rows at the end.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from apps import flags
from apps.benchmarks import advice_page, cases, cell, methods, network, peers, records, regret
from finetune_kit import checks, console, cores
from finetune_kit.backbones import catalogue
from finetune_kit.strategy import candidates, experience
from recipes import settings

INCOMPLETE = 75  # sysexits' EX_TEMPFAIL: the same command again does what is missing
ALL = ",".join(candidates.CANDIDATES)
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
KEYS = ("kind", "data", "per_class", "seed", "plan", "protocol")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(network.Network):
    """Flags of `finetune-kit benchmark advice`.

    Raises:
        ConfigError, DataError, WeightsError: What is asked for does not exist.
    """

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    weights: str = settings.option("A weights file, imagenet, or empty for the bundled.", "")
    per_class: str = settings.option("Labelled images a class, with commas.", "5,20")
    seeds: int = settings.option("Draws of the images, each with its own training.", 3, low=1)
    plans: str = settings.option("Candidates to train, with commas; none is none.", ALL)
    races: str = settings.option("Candidates to cross-validate, with commas.", "")
    workers: int = settings.option("Cells that are measured at a time, on equal cores.", 1, low=1)
    rows: str = settings.option("Where finished pieces are kept.", "docs/results/advice.jsonl")
    peers: str = settings.option(
        "Rows of `benchmark recipes` with other programs.", "docs/results/recipes.jsonl"
    )
    output: str = settings.option("The page.", "docs/advice.md")
    fits: bool = settings.option("Measure the evidence, too.", True)
    learn: bool = settings.option(
        "Write what the rows teach to the file that the advisor reads.", False
    )
    workdir: str = settings.option("Where images go; may be deleted.", "runs/benchmark")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*wanted(self.plans), *wanted(self.races)):
            checks.one_of("plans", name, candidates.CANDIDATES)
        for number in cell.listed(self.per_class):
            if not number.isdecimal() or int(number) < 2:
                raise checks.ConfigError(
                    "--per_class needs numbers from 2 on, with commas. "
                    + checks.received(per_class=self.per_class)
                )
        if self.data_root:
            known = cases.sets_in(self.data_root)
            for name in cell.listed(self.sets):
                checks.one_of("sets", name, known)

    @property
    def protocol(self) -> dict[str, Any]:
        """What rows must share to be compared."""
        return {
            "backbone": catalogue.canonical(self.backbone),
            "backbone_args": self.backbone_args,
            "weights": pathlib.Path(self.weights).name,
            "image_size": self.image_size,
        }


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is missing of one set of images, at one number of labels and one seed."""

    data: str
    per_class: int
    seed: int
    plans: tuple[str, ...]
    races: tuple[str, ...]
    fits: bool


def main(argv: list[str]) -> int:
    """Measures what is missing and writes the page; returns 0, or 75 if a cell failed."""
    config, words = flags.parse(argv, Config, command="benchmark advice")
    flags.refuse_words("benchmark advice", words)
    failures = _measure(config, list(missing(config, records.load_lines(config.rows))))
    lines = latest(records.load_lines(config.rows))
    if lines:
        pathlib.Path(config.output).parent.mkdir(parents=True, exist_ok=True)
        advice_page.write(lines, config.output, records.latest(records.load(config.peers)))
        console.say(f"page  {config.output}")
    if config.learn:
        known = [draw for draws in regret.studies(lines).values() for draw in draws]
        experience.write(experience.learn(regret.cells(known)))
        console.say(f"experience  {experience.FILE}")
    return INCOMPLETE if failures else 0


def missing(config: Config, lines: Iterable[Mapping[str, Any]]) -> Iterator[Cell]:
    """Yields the cells of which something is not in the rows: the first seed of all sets first."""
    done = {_key(line) for line in lines}
    names = cell.listed(config.sets) or (
        cases.sets_in(config.data_root) if config.data_root else ()
    )
    for seed in range(config.seeds):
        for per_class in map(int, cell.listed(config.per_class)):
            for data in names:
                base = {"data": data, "per_class": per_class, "seed": seed,
                        "protocol": config.protocol}  # fmt: skip

                def left(kind: str, plans: Sequence[str], base: Any = base) -> tuple[str, ...]:
                    return tuple(
                        p for p in plans if _key({"kind": kind, "plan": p, **base}) not in done
                    )

                one = Cell(
                    data,
                    per_class,
                    seed,
                    left("run", wanted(config.plans)),
                    left("race", wanted(config.races)),
                    config.fits and _key({"kind": "evidence", **base}) not in done,
                )
                if one.plans or one.races or one.fits:
                    yield one


def wanted(names: str) -> tuple[str, ...]:
    """Returns the names in `a,b`; "none" is no name."""
    found = cell.listed(names)
    return () if found == ("none",) else found


def latest(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows without those that a later one of the same piece replaces."""
    return list({_key(line): line for line in lines}.values())


def _key(line: Mapping[str, Any]) -> str:
    return json.dumps([line.get(name) for name in KEYS], sort_keys=True)


def _measure(config: Config, cells: Sequence[Cell]) -> int:
    """Measures cells, `workers` at a time, and returns how many failed."""
    failures = 0
    work = _Work(config)
    with (
        concurrent.futures.ThreadPoolExecutor(config.workers) as pool,
        console.progress("Cells", len(cells)) as bar,
    ):
        futures = [pool.submit(work.run, one) for one in cells]
        try:
            for future in concurrent.futures.as_completed(futures):
                try:
                    console.say(future.result())
                except checks.KitError as error:
                    failures += 1
                    console.warn(str(error))
                bar.advance()
        except BaseException:
            # Interrupted: without this, the pool would go through all cells that are left.
            pool.shutdown(wait=False, cancel_futures=True)
            work.stop()
            raise
    if failures:
        console.warn(f"{failures} of {len(cells)} cells failed; the same command tries them again")
    return failures


class _Work:
    """Cells in processes of their own; each line that one writes is a row at once."""

    def __init__(self, config: Config) -> None:
        self._config, self._lock = config, threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()

    def stop(self) -> None:
        """Ends the processes that are running."""
        for process in tuple(self._running):
            process.terminate()

    def run(self, one: Cell) -> str:
        """Runs a cell and returns a line about it.

        Raises:
            EnvironmentFault: The process failed.
        """
        config = self._config
        case = cases.draw(
            pathlib.Path(config.data_root) / one.data, per_class=one.per_class, seed=one.seed
        )
        name = f"{case.name}-{one.per_class}-{one.seed}-{case.digest}"
        folder = cases.write(case, pathlib.Path(config.workdir) / "cases" / name)
        # What it says goes to a file: a pipe that nobody reads would fill up and stop it.
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(
                [*methods.KIT, "benchmark", "cell", *_words(config, one, folder)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env=os.environ | _environment(config.workers),
            )
            self._running.add(process)
            found = 0
            for line in process.stdout or ():
                if line.startswith("{"):
                    with self._lock:
                        records.append_lines(config.rows, [_row(config, one, json.loads(line))])
                    found += 1
            code = process.wait()
            self._running.discard(process)
            said.seek(0)
            last = ([line for line in said.read().splitlines() if line.strip()] or ["nothing"])[-1]
        if code:
            raise checks.EnvironmentFault(
                f"A cell must end with exit code 0. Received: {code} from {name}, which said last: "
                f"{last}"
            )
        return f"{name}: {found} rows"


def _words(config: Config, one: Cell, folder: pathlib.Path) -> list[str]:
    words = [
        f"--data={folder}",
        f"--backbone={config.backbone}",
        f"--image_size={config.image_size}",
        f"--per_class={one.per_class}",
        f"--seed={one.seed}",
        f"--plans={','.join(one.plans)}",
        f"--races={','.join(one.races)}",
        "--fits" if one.fits else "--nofits",
    ]
    given = {"weights": config.weights, "backbone_args": config.backbone_args}
    return [*words, *(f"--{name}={value}" for name, value in given.items() if value)]


def _environment(workers: int) -> dict[str, str]:
    """Returns the variables that give each of several workers its share of the cores."""
    share = str(max(1, cores.available() // workers))
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS",
             "OPENBLAS_NUM_THREADS")  # fmt: skip
    return {"PYTHONPATH": os.fspath(peers.ROOT)} | (
        dict.fromkeys(names, share) if workers > 1 else {}
    )


def _row(config: Config, one: Cell, line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": line["kind"],
        "data": one.data,
        "per_class": one.per_class,
        "seed": one.seed,
        "protocol": config.protocol,
        **{name: value for name, value in line.items() if name != "kind"},
        **records.stamp(),
    }
