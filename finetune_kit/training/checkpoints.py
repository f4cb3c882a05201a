"""Generations of a run's state on disk: written whole or not at all, verified when read.

A generation is a folder with the weights, the optimizer's state and a JSON of everything else. It
is written under a temporary name in the same folder, synced, and renamed; its manifest with the
digest of every file is written last. The newest generation that verifies is the one that counts.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_kit import checks

MANIFEST, STATE, ARRAYS = "manifest.json", "state.json", "arrays.npz"
KEEP = 2


@dataclasses.dataclass(frozen=True)
class Generation:
    """One state of a run.

    Attributes:
        state: Plain JSON values: phase, epoch, history, what was chosen.
        arrays: Named arrays: weights and optimizer state.
    """

    state: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


class CheckpointStore:
    """The generations of one run.

    Attributes:
        folder: Where they are; made by the first `save`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Names the folder; nothing is read or written yet."""
        self.folder = pathlib.Path(folder)

    def save(self, state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a generation and removes those before the last `KEEP`.

        Raises:
            EnvironmentFault: The disk is full or not writable; older generations are untouched.
        """
        number = max(self._numbers(), default=0) + 1
        temporary = self.folder / f".writing-{number}-{os.getpid()}"
        try:
            self._clear()
            temporary.mkdir(parents=True)
            _write(temporary / STATE, json.dumps(state).encode())
            with (temporary / ARRAYS).open("wb") as file:
                np.savez(file, **_named(arrays))
                _sync(file)
            _write(temporary / MANIFEST, json.dumps(_digests(temporary)).encode())
            os.replace(temporary, self._path(number))
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise checks.EnvironmentFault(
                f"A checkpoint needs space and permission in {str(self.folder)!r}. Received: "
                f"{error.strerror or error}. Free some space, then go on with --resume."
            ) from error
        for old in self._numbers()[:-KEEP]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def latest(self) -> Generation | None:
        """Returns the newest generation that is whole, None if there is none."""
        for number in reversed(self._numbers()):
            path = self._path(number)
            try:
                if json.loads((path / MANIFEST).read_bytes()) != _digests(path):
                    continue
                with np.load(path / ARRAYS) as file:
                    arrays = {name.removeprefix("/"): file[name] for name in file.files}
                return Generation(json.loads((path / STATE).read_bytes()), arrays)
            except (OSError, ValueError):  # torn or damaged: the one before it counts
                continue
        return None

    def _numbers(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = [path.name.removeprefix("generation-") for path in self.folder.iterdir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def _clear(self) -> None:
        """Removes what a run that was killed had begun to write."""
        for path in self.folder.glob(".writing-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f"generation-{number}"


def _named(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {f"/{name}": array for name, array in arrays.items()}  # "file" is savez's own argument


def _write(path: pathlib.Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _digests(path: pathlib.Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in (STATE, ARRAYS)
    }
