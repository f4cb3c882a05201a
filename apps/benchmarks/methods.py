"""What the suite `recipes` can run, and how a run becomes rows.

Every run is a process of its own, so that each begins alike and whole-process seconds compare.
Recipes are run as their users run them, by `finetune-kit finetune`; baselines and peers by the
protocol of `peers`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apps
import finetune_kit
import recipes
from apps.benchmarks import cases, peers, records
from finetune_kit import checks
from finetune_kit.results import report

KIT = (sys.executable, "-m", "apps.main")
SEVERAL_SEEDS = ("head_only", "probe_then_finetune")
FROM_NOTHING = ("from_scratch",)  # recipes that take no weights
# Parts of a report's seconds that are no training; the peers do not count them either.
NOT_TRAINING = ("start_up", "data", "backbone", "evaluation", "export")

Runner = Callable[[Sequence[str]], peers.Finished]


@dataclasses.dataclass(frozen=True)
class Method:
    """One line of the table, or several if a peer measures several things.

    Attributes:
        kind: One of `records.KINDS`.
        name: A recipe or a plan; for a peer, its label.
        program: How rows name what is run.
        words: The command, before the flags of a case.
        code: Fingerprint of the code that is measured.
        seeds: Number of seeds that it is run with.
    """

    kind: str
    name: str
    program: str
    words: tuple[str, ...]
    code: str
    seeds: int


@dataclasses.dataclass(frozen=True)
class Bench:
    """Where runs find their images and weights, and leave what they write.

    Attributes:
        data_root: Folder of the sets.
        weights: A file, "imagenet" or "none".
        workdir: Folder of the cases and runs.
        protocol: What all runs share.
        runner: Runs a command; `peers.call`.
    """

    data_root: pathlib.Path
    weights: str
    workdir: pathlib.Path
    protocol: records.Protocol
    runner: Runner = peers.call


def of_recipe(name: str, *, seeds: int) -> Method:
    """Returns a recipe of the kit as a method."""
    program, words = f"finetune-kit finetune {name}", (*KIT, "finetune", name)
    return Method("recipe", name, program, words, _code_of(finetune_kit, recipes), seeds)


def of_baseline(plan: str, *, seeds: int) -> Method:
    """Returns a plan of `benchmark guide` as a method."""
    program = f"finetune-kit benchmark guide --plan={plan}"
    words = (*KIT, "benchmark", "guide", f"--plan={plan}")
    folder = _folder(apps) / "benchmarks"
    code = records.fingerprint([folder / "guide.py", folder / "cases.py"])
    return Method("baseline", plan, program, words, code, seeds)


def of_peer(command: str, *, seeds: int) -> Method:
    """Returns a program as a method.

    Raises:
        ConfigError: There is no such program.
    """
    peer = peers.resolve(command)
    return Method("peer", peer.label, peer.label, peer.words, peer.code, seeds)


def measure(method: Method, bench: Bench, *, data: str, seed: int) -> list[records.Row]:
    """Runs a method on a set and returns its rows.

    Raises:
        KitError: The run failed, or was trained or tested on other images.
    """
    folder = bench.data_root / data
    case = cases.draw(folder, per_class=bench.protocol.per_class, seed=seed)
    if method.kind == "recipe":
        found = [_run_recipe(method, bench, case, seed)]
    else:
        found = _run_program(method, bench, case, seed)
    for row in found:
        _same_images(row, case)
    return found


def _run_recipe(method: Method, bench: Bench, case: cases.Case, seed: int) -> records.Row:
    name = f"{case.name}-{bench.protocol.per_class}-{seed}"
    # The digest: another --data_root may have a set of the same name.
    images = cases.write(case, bench.workdir / "cases" / f"{name}-{case.digest}")
    workdir = bench.workdir / "runs" / f"{method.name}-{name}"
    pretrained = [] if method.name in FROM_NOTHING else [f"--weights={bench.weights}"]
    finished = bench.runner(
        [
            *method.words,
            f"--data={images}",
            f"--workdir={workdir}",
            "--overwrite",
            "--notensorboard",
            f"--per_class={bench.protocol.per_class}",
            f"--seed={seed}",
            *_network(bench),
            *pretrained,
        ]
    )
    said = report.read(workdir)
    seconds = said["seconds"]
    training = seconds["total"] - sum(seconds.get(part, 0.0) for part in NOT_TRAINING)
    return _row(
        method,
        bench,
        method=method.name,
        data=case.name,
        seed=seed,
        n=sum(said["data"]["images"][split] for split in ("train", "validation")
              if split in said["data"]["images"]),
        test=said["scores"]["test"]["n"],
        accuracy=said["scores"]["test"]["accuracy"]["value"],
        seconds=training,
        total=seconds["total"],
        process=finished.seconds,
        parameters=said["backbone"]["parameters"],
        device=said["device"],
    )  # fmt: skip


def _run_program(method: Method, bench: Bench, case: cases.Case, seed: int) -> list[records.Row]:
    own = _network(bench) if method.kind == "baseline" else []
    finished = bench.runner(
        [
            *method.words,
            f"--data={bench.data_root / case.name}",
            f"--weights={bench.weights}",
            f"--per_class={bench.protocol.per_class}",
            f"--seed={seed}",
            *own,
        ]
    )
    found = peers.figures(finished.output, method.program)
    return [
        _row(
            method,
            bench,
            method=figure.peer,
            data=case.name,
            seed=seed,
            n=len(case.train) if figure.n is None else figure.n,
            test=len(case.test) if figure.test is None else figure.test,
            accuracy=figure.accuracy,
            seconds=figure.seconds,
            total=None,
            process=finished.seconds if len(found) == 1 else None,
            parameters=None,
            device=figure.device,
        )
        for figure in found
    ]


def _network(bench: Bench) -> list[str]:
    protocol = bench.protocol
    arguments = [f"--backbone_args={protocol.backbone_args}"] if protocol.backbone_args else []
    return [f"--backbone={protocol.backbone}", f"--image_size={protocol.image_size}", *arguments]


def _row(of: Method, bench: Bench, **values: Any) -> records.Row:
    return records.Row(
        kind=of.kind,
        program=of.program,
        protocol=bench.protocol,
        code=of.code,
        machine=records.machine(),
        versions=report.versions(),
        finished=records.now(),
        **values,
    )


def _same_images(row: records.Row, case: cases.Case) -> None:
    received: Mapping[str, int] = {"n": row.n, "test": row.test}
    needed = {"n": len(case.train), "test": len(case.test)}
    if received != needed:
        raise checks.DataError(
            f"{row.method} must train and test on the images of the case, {needed}. "
            + checks.received(**received)
        )


def _code_of(*packages: Any) -> str:
    return records.fingerprint(
        path for package in packages for path in _folder(package).rglob("*.py")
    )


def _folder(package: Any) -> pathlib.Path:
    return pathlib.Path(package.__path__[0])
