"""Activations of frozen layers: computed once an image and view, then read again and again.

    store = ActivationStore()
    kept = store.get(classifier.model.inputs[0], cut.tensors, images.train)
    kept.rows(images.train.indices[:32])

A tensor is known by the weights before it, the layers and the views that led to it, so activations
outlive phases and folds for as long as they hold, and not a step longer.
"""

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import console, data
from finetune_kit.features import cuts, forward

if TYPE_CHECKING:
    from finetune_kit.data.types import Split

CHUNK = 1024  # images that are computed before they are written
SPARE = 2**30  # bytes that a disk keeps free


class NoRoomError(Exception):
    """Neither memory nor disk has room; the message says how much is needed."""


@dataclasses.dataclass(frozen=True)
class Views:
    """A fixed number of augmented views of every image.

    Attributes:
        level: Name of the augmentation, a key of `data.LEVELS`.
        count: Views an image, at least 1.
        seed: Decides, with the image and the number of the view, what it looks like.
    """

    level: str
    count: int
    seed: int


@dataclasses.dataclass(frozen=True)
class Kept:
    """Activations of some tensors.

    Attributes:
        arrays: One a tensor, [images, views, …]; an image is found at its position in its store.
    """

    arrays: tuple[np.ndarray, ...]

    def rows(self, images: np.ndarray, views: np.ndarray | int = 0) -> tuple[np.ndarray, ...]:
        """Returns the activations of images, [b, …] for each tensor.

        Args:
            images: int [b], positions in the store that the split names.
            views: int [b], or one for all.
        """
        return tuple(np.ascontiguousarray(array[images, views]) for array in self.arrays)


class ActivationStore:
    """All activations that a run keeps: in memory, and past a budget in files.

    Attributes:
        computed: Images times views that were run so far.
        on_disk: Bytes that did not fit into memory.
    """

    def __init__(
        self,
        *,
        memory_mb: int = 2048,
        directory: str | os.PathLike[str] | None = None,
        batch_size: int = 32,
    ) -> None:
        """Holds nothing yet.

        Args:
            memory_mb: Budget in MiB.
            directory: Where files go, in a folder of their own; None keeps to memory.
            batch_size: Images a forward pass: that of training, for some kernels sum in another
                order for another number of images.
        """
        self._budget, self._batch_size = memory_mb * 2**20, batch_size
        self._directory = None if directory is None else pathlib.Path(directory)
        self._folder: pathlib.Path | None = None
        self._tables: dict[tuple[str, int], _Table] = {}
        self._models: list[tuple[tuple[Any, ...], keras.Model]] = []
        self.computed = 0
        self.on_disk = 0

    def get(
        self,
        pixels: Any,
        tensors: Sequence[Any],
        split: "Split",
        *,
        views: Views | None = None,
        also: Sequence[Any] = (),
        whatever: bool = False,
    ) -> Kept:
        """Returns the activations of a split, and computes those that are not known.

        The network runs in inference mode.

        Args:
            pixels: Symbolic input of the network, [b, h, w, 3].
            tensors: Symbolic, [b, …]; whatever leads to them is frozen.
            split: n images.
            views: Augmented views; None is one view, the image as it is.
            also: Tensors that are computed in the same pass if there is one, for later.
            whatever: Whether `tensors` are kept in memory whatever the budget says.

        Raises:
            NoRoomError: The activations fit neither into memory nor on the disk.
        """
        if not len(split):
            return Kept(tuple(np.zeros((0, 1, *t.shape[1:]), str(t.dtype)) for t in tensors))
        count = 1 if views is None else views.count
        wanted = {id(t): self._table(t, split, views, free=whatever) for t in tensors}
        missing = [t for t in tensors if wanted[id(t)].lacks(split.indices, count).any()]
        if missing:
            with contextlib.suppress(NoRoomError):  # what is for later may not fit
                for tensor in also:
                    wanted[id(tensor)] = self._table(tensor, split, views)
                    missing.append(tensor)
            self._compute(pixels, missing, [wanted[id(t)] for t in missing], split, views)
        return Kept(tuple(wanted[id(t)].array for t in tensors))

    @property
    def tensors(self) -> int:
        """Number of tensors of which activations are kept."""
        return len(self._tables)

    def close(self) -> None:
        """Forgets everything and deletes the files."""
        self._tables.clear()
        self._models.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _table(
        self,
        tensor: Any,
        split: "Split",
        views: Views | None,
        *,
        free: bool = False,
    ) -> "_Table":
        key = (_digest(tensor, views), id(split.store))
        if key not in self._tables:
            self._tables[key] = _Table(split.store)
        table = self._tables[key]
        count = 1 if views is None else views.count
        if table.capacity <= split.indices.max():
            shape = (int(split.indices.max()) + 1, count, *tensor.shape[1:])
            needed = len(split) * count * _row_bytes(tensor)
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            room = np.zeros(shape, dtype) if free else self._room(shape, dtype, needed)
            table.grow(room, 0 if free else needed)
        return table

    def _room(self, shape: tuple[int, ...], dtype: str, needed: int) -> np.ndarray:
        """Returns an array of that shape, in memory or in a file."""
        used = sum(table.used for table in self._tables.values())
        if used + needed <= self._budget:
            return np.zeros(shape, dtype)  # pages that nothing is written to take no memory
        if self._directory is None:
            raise NoRoomError(f"{needed / 2**20:.0f} MiB")
        self._directory.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._directory).free < needed + SPARE:
            raise NoRoomError(f"{needed / 2**20:.0f} MiB on the disk")
        if self._folder is None:
            self._folder = pathlib.Path(
                tempfile.mkdtemp(prefix="activations-", dir=self._directory)
            )
        handle, path = tempfile.mkstemp(suffix=".bin", dir=self._folder)
        os.close(handle)
        self.on_disk += needed
        return np.memmap(path, dtype, "w+", shape=shape)

    def _compute(
        self,
        pixels: Any,
        tensors: Sequence[Any],
        tables: "Sequence[_Table]",
        split: "Split",
        views: Views | None,
    ) -> None:
        places, model = self._model(pixels, tensors)
        count = 1 if views is None else views.count
        lacking = np.any([table.lacks(split.indices, count) for table in tables], axis=0)
        with console.progress("Computing features", int(lacking.sum())) as bar:
            for view in range(count):
                for part in _chunks(np.flatnonzero(lacking[:, view])):
                    images = split.take(part)
                    batches = data.view_batches(
                        images,
                        batch_size=self._batch_size,
                        augmentation="none" if views is None else views.level,
                        seed=0 if views is None else views.seed,
                        view=view,
                    )
                    values = forward.run(model, batches)
                    each = values if isinstance(values, (list, tuple)) else [values]
                    for table, place in zip(tables, places, strict=True):
                        table.put(images.indices, view, each[place])
                    self.computed += len(part)
                    bar.advance(len(part))

    def _model(self, pixels: Any, tensors: Sequence[Any]) -> tuple[list[int], keras.Model]:
        """Returns which outputs of a model are the tensors; one that was traced before, if any."""
        for outputs, model in self._models:
            known = [id(output) for output in outputs]
            if all(id(tensor) in known for tensor in tensors):
                return [known.index(id(tensor)) for tensor in tensors], model
        model = keras.Model(pixels, tensors[0] if len(tensors) == 1 else list(tensors))
        self._models.append((tuple(tensors), model))
        return list(range(len(tensors))), model


class _Table:
    """Activations of one tensor, by position in a store and by view."""

    def __init__(self, store: Any) -> None:
        self._store = store  # kept, so that nothing else gets its id
        self.array: np.ndarray = np.zeros((0, 0))
        self._known: np.ndarray = np.zeros((0, 0), bool)
        self._bytes = 0

    @property
    def capacity(self) -> int:
        """Images that there is room for."""
        return len(self.array)

    @property
    def used(self) -> int:
        """Bytes of memory that the images need."""
        return 0 if isinstance(self.array, np.memmap) else self._bytes

    def grow(self, array: np.ndarray, needed: int) -> None:
        """Moves to a larger array, of which `needed` bytes more are going to be used."""
        known = np.zeros(array.shape[:2], bool)
        if self.capacity:
            array[: self.capacity] = self.array
            known[: self.capacity] = self._known
        self.array, self._known = array, known
        self._bytes += needed

    def lacks(self, images: np.ndarray, count: int) -> np.ndarray:
        """Returns which of the images' views are not known, bool [n, count]."""
        return ~self._known[images, :count]

    def put(self, images: np.ndarray, view: int, values: Any) -> None:
        """Enters the activations of one view of images, [n, …]."""
        self.array[images, view] = np.asarray(values)
        self._known[images, view] = True


def _chunks(positions: np.ndarray) -> list[np.ndarray]:
    return [positions[i : i + CHUNK] for i in range(0, len(positions), CHUNK)]


def _row_bytes(tensor: Any) -> int:
    dtype = np.dtype(keras.backend.standardize_dtype(tensor.dtype))
    return int(math.prod(tensor.shape[1:])) * dtype.itemsize


def _digest(tensor: Any, views: Views | None) -> str:
    """Returns what activations depend on besides the images: weights, layers and views."""
    total = hashlib.blake2b(repr(views).encode(), digest_size=16)
    for layer in cuts.layers_before([tensor]):
        total.update(f"{layer.name} {type(layer).__name__}".encode())
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
            total.update(f"{variable.path} {value.dtype} {value.shape}".encode())
            total.update(value.tobytes())
    return total.hexdigest()
