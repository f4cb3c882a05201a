"""What a weights file says of the network it was made for, and loading it without surprises."""

import dataclasses
import os
import pathlib
import re
import tempfile
import warnings
from collections.abc import Sequence

import h5py
import keras
import numpy as np

from finetune_kit import checks

# Widths that keras.applications offers for its MobileNets.
ALPHAS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
# Files that Keras keeps under another name than they have on the server.
SAVED_AS = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}


@dataclasses.dataclass(frozen=True)
class FileShapes:
    """Shapes in a weights file.

    Attributes:
        kernels: Shapes of all tensors of rank 2 and more.
    """

    kernels: tuple[tuple[int, ...], ...]


def read_shapes(path: str | os.PathLike[str]) -> FileShapes:
    """Reads the shapes of a `.weights.h5` or legacy `.h5` file.

    Raises:
        WeightsError: No such file, not HDF5, damaged, or a value that is not finite.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise checks.WeightsError(
            f"--weights needs 'imagenet', 'none' or a weights file. Received: {str(file)!r}, which "
            "does not exist."
        )
    shapes: list[tuple[int, ...]] = []
    bad: list[str] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and "optimizer" not in name:
            if item.dtype.kind == "f" and not np.isfinite(item[()]).all():
                bad.append(name)
            shapes.append(tuple(int(n) for n in item.shape))

    try:
        with h5py.File(file, "r") as h5:
            h5.visititems(visit)
    # Damaged files make h5py raise OSError, RuntimeError, KeyError, UnicodeDecodeError and others.
    except Exception as error:
        raise checks.WeightsError(
            f"A weights file must be HDF5 and whole. Received: {str(file)!r}, {_one_line(error)}"
        ) from error
    if bad:
        raise checks.WeightsError(
            f"Weights must be finite. Received: {str(file)!r} with NaN or infinity in {bad[0]}"
        )
    return FileShapes(tuple(shape for shape in shapes if len(shape) >= 2))


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Loads a file into a network; a head that the file has besides is left unused.

    Raises:
        WeightsError: The file does not fit; names what was needed and what came.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns, and goes on, where it leaves layers with their random weights.
            warnings.simplefilter("error", UserWarning)
            model.load_weights(path)
    except Exception as error:  # what h5py raises depends on where a file is damaged
        raise checks.WeightsError(
            f"The weights must fit {model.name}. Received: {str(path)!r}, {_one_line(error)}"
        ) from error


def kernels(model: keras.Model) -> list[tuple[int, ...]]:
    """Returns the shapes of a network's tensors of rank 2 and more."""
    return [tuple(w.shape) for w in model.weights if len(w.shape) >= 2]


def leftover(needed: Sequence[tuple[int, ...]], found: FileShapes) -> list[tuple[int, ...]] | None:
    """Returns the kernels of a file that a network without head does not need.

    Args:
        needed: See `kernels`.
        found: What the file holds.

    Returns:
        Shapes; None if the file lacks one that is needed.
    """
    rest = list(found.kernels)
    for shape in needed:
        if tuple(shape) not in rest:
            return None
        rest.remove(tuple(shape))
    return rest


def head_width(rest: Sequence[tuple[int, ...]]) -> int | None:
    """Returns the classes of a head, from the shapes of its kernels; None if there are none.

    A head of several layers ends with the one whose output no other takes; the order of the shapes
    says nothing, as a file is sorted by name.
    """
    if not rest:
        return None
    inputs = [shape[-2] for shape in rest]
    ends = [shape[-1] for shape in rest if shape[-1] not in inputs]
    return (ends or [rest[-1][-1]])[-1]


def alphas_by_stem(found: FileShapes) -> list[float]:
    """Returns `ALPHAS`, the likeliest first: a MobileNet begins with 32 alpha filters."""
    stems = [s[-1] for s in found.kernels if len(s) == 4 and s[2] == 3 and s[0] > 1]
    filters = stems[0] if stems else 32
    return sorted(ALPHAS, key=lambda alpha: abs(32 * alpha - filters))


def download_advice(error: Exception, constructor: str) -> str:
    """Returns one line that says which file to download and where to put it."""
    url = re.search(r"https?://\S+", str(error))
    if url is None:
        return (
            f"The ImageNet weights of {constructor} cannot be had: {_one_line(error).rstrip('.')}. "
            "Try again, or give --weights=FILE or --weights=none."
        )
    address = url.group().rstrip(".:,")
    name = address.rsplit("/", 1)[-1]
    return (
        f"The ImageNet weights of {constructor} cannot be downloaded. Download {address} elsewhere "
        f"and save it as {_keras_cache() / 'models' / SAVED_AS.get(name, name)}, or give "
        "--weights=FILE or --weights=none."
    )


def _keras_cache() -> pathlib.Path:
    """Returns the folder in which Keras looks for downloads; it has no public name."""
    home = os.path.expanduser("~")
    folder = os.environ.get("KERAS_HOME") or os.path.join(
        home if os.access(home, os.W_OK) else tempfile.gettempdir(), ".keras"
    )
    folder = os.path.expanduser(folder)
    if not os.access(folder, os.W_OK):
        folder = os.path.join(tempfile.gettempdir(), ".keras")
    return pathlib.Path(folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
