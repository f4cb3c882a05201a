"""Programs by other people, and their figures.

A peer is run as `PROGRAM --data=SET --weights=FILE --per_class=N --seed=S`. It draws the images of
the case itself (`cases.draw` says how), and writes one line of JSON for each thing that it
measured, with at least `peer` (a name), `accuracy` (in [0, 1]) and `seconds` (of training). With
`n` and `test`, the numbers of its images, they are compared with those of the case.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from apps.benchmarks import records
from finetune_kit import checks

LIMIT_SECONDS = 2 * 60 * 60  # a run that takes longer hangs; the others are to have their turn
ROOT = pathlib.Path(__file__).resolve().parents[2]  # where the packages apps and recipes are


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that can be run.

    Attributes:
        label: How rows name it: its file name and arguments.
        words: The command.
        code: Fingerprint of its file.
    """

    label: str
    words: tuple[str, ...]
    code: str


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a process left: its standard output and its seconds from start to end."""

    output: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class Figure:
    """One line of a peer; see the module's docstring. None stands for what it did not say."""

    peer: str
    accuracy: float
    seconds: float
    n: int | None
    test: int | None
    device: str


def resolve(command: str) -> Program:
    """Returns the program that a command line names: `fast.py --plan=full`, `/opt/peer`.

    A Python file is run by this interpreter.

    Raises:
        ConfigError: There is no such file or command, or quotes do not match.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise checks.ConfigError(
            f"--peer must be a command line. Received: peer={command!r}, {error}"
        ) from error
    found = shutil.which(words[0]) if words else None
    file = pathlib.Path(words[0]).expanduser() if words else pathlib.Path()
    is_script = file.suffix == ".py" and file.is_file()
    if not is_script and found is None:
        raise checks.ConfigError(f"--peer needs a program that exists. Received: peer={command!r}")
    start = (sys.executable, os.fspath(file)) if is_script else (str(found),)
    return Program(
        label=shlex.join([file.name, *words[1:]]),
        words=(*start, *words[1:]),
        code=records.fingerprint([pathlib.Path(start[-1])]),
    )


def call(words: Sequence[str]) -> Finished:
    """Runs a program to its end, with the kit's packages importable.

    Raises:
        EnvironmentFault: It could not be started, failed, or took longer than `LIMIT_SECONDS`.
    """
    paths = [os.fspath(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            list(words),
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise checks.EnvironmentFault(
            f"A program must run to its end. Received: {error}"
        ) from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise checks.EnvironmentFault(
            f"A program must end with exit code 0. Received: {done.returncode} from "
            f"{shlex.join(words)}, which said last: {said[-1] if said else 'nothing'}"
        )
    return Finished(done.stdout, time.perf_counter() - began)


def figures(output: str, program: str) -> list[Figure]:
    """Returns the figures among the lines that a program wrote; other lines are passed over.

    Raises:
        DataError: There is none, or one lacks a field or has a value out of range.
    """
    lines = [line for line in output.splitlines() if line.lstrip().startswith("{")]
    found = [_figure(line, program) for line in lines]
    if not found:
        raise checks.DataError(
            "A peer must write a line of JSON with peer, accuracy and seconds. Received: none from "
            f"{program}"
        )
    return found


def _figure(line: str, program: str) -> Figure:
    try:
        values: Mapping[str, Any] = json.loads(line)
        figure = Figure(
            peer=str(values["peer"]),
            accuracy=float(values["accuracy"]),
            seconds=float(values["seconds"]),
            n=values.get("n"),
            test=values.get("test"),
            device=str(values.get("device", "")),
        )
        checks.in_range("accuracy", figure.accuracy, 0.0, 1.0)
    except (ValueError, TypeError, KeyError) as error:
        raise checks.DataError(
            "A peer must write peer, accuracy in [0, 1] and seconds. Received: "
            f"{line.strip()[:200]} from {program}, {type(error).__name__} {error}"
        ) from error
    return figure
