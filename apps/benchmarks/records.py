"""Measurements as lines of JSON: one a finished run, on the disk before the next run begins."""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import pathlib
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from finetune_kit import checks, cores
from finetune_kit.results import report

KINDS = ("recipe", "baseline", "peer")
CODE_DIGITS = 12

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What runs must share for their figures to stand in one table.

    Attributes:
        backbone: Name of the network.
        backbone_args: Its arguments, as in alpha=0.25.
        weights: File name of its weights, or "imagenet" or "none"; no folder, so that rows made on
            two machines agree.
        image_size: Side of the input in pixels.
        per_class: Training images of each class.
    """

    backbone: str
    backbone_args: str
    weights: str
    image_size: int
    per_class: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One run of one method on one set.

    Attributes:
        kind: One of `KINDS`.
        method: What the table calls it; names are unique within a kind.
        program: What was run, without folders.
        data: Name of the set.
        seed: Draws the training images and all that is random.
        protocol: See `Protocol`.
        n: Training images.
        test: Test images.
        accuracy: Share of the test images recognised, in [0, 1].
        seconds: Seconds of training, as the program itself measures them.
        total: Seconds from the first image to the report, as the program measures them; or None.
        process: Seconds from start to end of the process, start-up included; None if one process
            made several rows.
        parameters: Parameters of the network without head, or None if it does not say.
        code: Fingerprint of the code that was measured.
        device: What trained, in the words of the program; may be empty.
        machine: Processor and memory.
        versions: Python and the packages of the interpreter that ran the suite.
        finished: Local time with its offset from UTC, ISO 8601.
    """

    kind: str
    method: str
    program: str
    data: str
    seed: int
    protocol: Protocol
    n: int
    test: int
    accuracy: float
    seconds: float
    total: float | None
    process: float | None
    parameters: int | None
    code: str
    device: str
    machine: str
    versions: Mapping[str, str]
    finished: str

    def __post_init__(self) -> None:
        checks.one_of("kind", self.kind, KINDS)
        checks.in_range("accuracy", self.accuracy, 0.0, 1.0)
        checks.in_range("test", self.test, 1)


def append(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Adds rows to a file; see `append_lines`."""
    append_lines(path, [dataclasses.asdict(row) for row in rows])


def load(path: str | os.PathLike[str]) -> list[Row]:
    """Returns the rows of a file in the order of their writing; none if there is no file.

    Raises:
        DataError: A line that is no row; a last line that was cut off is passed over instead.
    """
    return _each_line(path, row)


def append_lines(path: str | os.PathLike[str], values: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines of JSON to a file and returns when they are on the disk.

    A line that a crash cut off is removed first.

    Raises:
        EnvironmentFault: The file cannot be written.
    """
    file = pathlib.Path(path)
    text = "".join(
        json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+") as stream:
            stream.truncate(_whole_lines(stream))
            stream.write(text.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise checks.EnvironmentFault(
            f"Rows need a file that can be written. Received: {str(file)!r}, "
            f"{error.strerror or error}"
        ) from error


def load_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Returns the objects that `append_lines` wrote; raises as `load` does."""
    return _each_line(path, dict)


def latest(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows without those that a later one of the same run replaces."""
    kept = {(row.kind, row.method, row.program, row.data, row.seed, row.protocol): row
            for row in rows}  # fmt: skip
    return list(kept.values())


def fingerprint(paths: Iterable[pathlib.Path]) -> str:
    """Returns twelve hexadecimal digits that stand for the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:CODE_DIGITS]


@functools.cache
def machine() -> str:
    """Returns the processor, the number of cores and the memory, as far as they can be known."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        name = models[0].partition(":")[2].strip() if models else name
    parts = [name, cores.described()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{memory / 2**30:.0f} GiB")
    return ", ".join(parts)


def device() -> str:
    """Returns the name of the device that TensorFlow trains on; imports it."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "CPU"
    details = tf.config.experimental.get_device_details(gpus[0])
    return str(details.get("device_name", "GPU"))


def now() -> str:
    """Returns the local time with its offset from UTC, ISO 8601."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def stamp() -> dict[str, Any]:
    """Returns what every line says of where and when it was made."""
    return {"machine": machine(), "versions": report.versions(), "finished": now()}


def row(values: Mapping[str, Any]) -> Row:
    """Returns the row that a line of a file holds."""
    return Row(**dict(values) | {"protocol": Protocol(**values["protocol"])})


def _each_line(path: str | os.PathLike[str], make: Callable[[dict[str, Any]], T]) -> list[T]:
    file = pathlib.Path(path)
    if not file.is_file():
        return []
    made = []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what stands behind the last end is cut
        try:
            made.append(make(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise checks.DataError(
                f"Every line must be a row of this benchmark. Received: {file}:{number}, {error}. "
                "Repair the line, or give another --rows."
            ) from error
    return made


def _whole_lines(stream: Any) -> int:
    """Returns the length of a file without a line that was cut off, bytes."""
    stream.seek(0)
    return int(stream.read().rfind(b"\n")) + 1
