"""Work directories: claimed once, never mixed up with another run or with a user's files."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from finetune_kit import checks

MARKER = ".finetune_kit"  # its presence says that this kit wrote the directory
RESERVED, USED = "reserved\n", "used\n"  # what the marker holds

MODEL, CLASSES = "model.keras", "classes.json"
REPORT, PAGE = "report.json", "report.html"
ADVICE = "advice.json"
TENSORBOARD, CHECKPOINTS = "tensorboard", "checkpoints"
FILES = (MODEL, CLASSES, ADVICE, REPORT, PAGE, TENSORBOARD, CHECKPOINTS)


def refuse_used(
    path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool = False
) -> None:
    """Looks whether `prepare` would take a directory, and writes nothing.

    Raises:
        EnvironmentFault: As `prepare` would.
    """
    directory = pathlib.Path(path)
    with _usable(directory):
        if not directory.exists():
            return
        entries = sorted(entry.name for entry in directory.iterdir())
        reserved = MARKER in entries and (directory / MARKER).read_text() == RESERVED
        if entries and not reserved:
            _refuse(directory, entries, overwrite=overwrite, resume=resume)


def prepare(
    path: str | os.PathLike[str], *, overwrite: bool = False, resume: bool = False
) -> pathlib.Path:
    """Makes a work directory and claims it for a run.

    A new, an empty and a directory from `next_numbered` are taken as they are.

    Args:
        path: The directory; missing parents are made.
        overwrite: Delete what an earlier run left there: the names in `FILES`, nothing else, and
            only where the marker of an earlier run stands.
        resume: Leave what an earlier run left there; the caller goes on from it.

    Returns:
        The directory.

    Raises:
        EnvironmentFault: The directory is used, holds files of somebody else, or is not writable.
    """
    directory = pathlib.Path(path)
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(entry.name for entry in directory.iterdir())
        if not _claimed_now(directory, entries):
            _refuse(directory, entries, overwrite=overwrite, resume=resume)
            if overwrite:
                for name in FILES:
                    _delete(directory / name)
    return directory


def next_numbered(prefix: str | os.PathLike[str]) -> pathlib.Path:
    """Makes and reserves `<prefix>-1`, or the first number above all that exist.

    The caller may put files there; the next `prepare` of it succeeds once.

    Raises:
        EnvironmentFault: The place is not writable.
    """
    start = pathlib.Path(prefix)
    try:
        start.parent.mkdir(parents=True, exist_ok=True)
        taken = [entry.name.removeprefix(f"{start.name}-") for entry in start.parent.iterdir()]
        number = 1 + max((int(name) for name in taken if name.isdecimal()), default=0)
        while True:
            directory = start.with_name(f"{start.name}-{number}")
            try:
                directory.mkdir()
            except FileExistsError:  # Another run took this number in the meantime.
                number += 1
                continue
            (directory / MARKER).write_text(RESERVED)
            return directory
    except OSError as error:
        raise checks.EnvironmentFault(
            f"A numbered work directory needs a folder that can be written. Received: "
            f"{str(start.parent)!r}, {error.strerror or error}"
        ) from error


def _claimed_now(directory: pathlib.Path, entries: list[str]) -> bool:
    """Claims a directory that is empty or reserved; returns whether it was."""
    marker = directory / MARKER
    if MARKER in entries:
        reserved = marker.read_text() == RESERVED
        if reserved:
            marker.write_text(USED)
        return reserved
    if entries:
        return False
    try:
        with marker.open("x") as file:
            file.write(USED)
    except FileExistsError:  # Another run claimed it since the listing.
        return False
    return True


def _refuse(directory: pathlib.Path, entries: list[str], *, overwrite: bool, resume: bool) -> None:
    """Raises `EnvironmentFault` unless a directory that is used may be used again."""
    if MARKER in entries:
        if not (overwrite or resume):
            raise checks.EnvironmentFault(
                f"A work directory must not hold another run. Received: "
                f"workdir={str(directory)!r}. Choose another --workdir, or give --overwrite to "
                "delete that run."
            )
    elif (directory / MARKER).is_file():
        raise checks.EnvironmentFault(
            f"A work directory must not hold another run. Received: workdir={str(directory)!r}, "
            "which another run has just claimed. Choose another --workdir."
        )
    else:
        raise checks.EnvironmentFault(
            f"A work directory must be new, empty or left by an earlier run. Received: "
            f"workdir={str(directory)!r}, which holds {', '.join(entries[:3])} and no earlier run. "
            "Choose another --workdir."
        )


@contextlib.contextmanager
def _usable(directory: pathlib.Path) -> Iterator[None]:
    """Turns what the system says against a directory into one line."""
    try:
        yield
    except checks.EnvironmentFault:
        raise
    except OSError as error:
        raise checks.EnvironmentFault(
            f"A work directory needs a place that can be written. Received: {str(directory)!r}, "
            f"{error.strerror or error}. Choose another --workdir."
        ) from error


def _delete(path: pathlib.Path) -> None:
    # A link is removed, never what it points to.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
