"""Loads TensorFlow without its chatter, and without waiting for Python's garbage collector.

TensorFlow's libraries write to the process's standard error while they are loaded, before any
setting of theirs is heeded. So the first import of `tensorflow`, whoever makes it, runs with
standard error turned aside; if it fails, what was written is shown.

Its million objects stay until the process ends. The collector would look through them again and
again while they are made, later, and once more at the end: two seconds of a run.
"""

import atexit
import contextlib
import gc
import importlib.abc
import importlib.machinery
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

NOISY = "tensorflow"
SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "GLOG_minloglevel": "3",
    "AUTOGRAPH_VERBOSITY": "0",
}


def switch_on() -> None:
    """Makes TensorFlow quiet and quick in this process; what is set already stays.

    It is quiet in the processes that this one starts, too.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="keras|tensorflow|tensorflow_datasets")
    # It warns of retracing whenever several models predict, each traced once.
    logging.getLogger(NOISY).setLevel(logging.ERROR)
    if NOISY not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        atexit.register(gc.freeze)  # what is left then goes with the process


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `tensorflow` as Python does, and has it loaded quietly."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != NOISY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs another loader with standard error turned aside."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        with _aside(), _uncollected():
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Keeps the garbage collector from looking at what is made, now and later."""
    used = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if used:
            gc.enable()


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """Sends what is written to file descriptor 2 to a file that is shown after an error."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
