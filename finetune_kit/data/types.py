"""The values that carry images through a run."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_kit.data import sizes

if TYPE_CHECKING:
    from finetune_kit.data.store import PixelStore


@dataclasses.dataclass(frozen=True)
class Split:
    """Labelled images in a stable order.

    Attributes:
        store: Where their pixels are.
        indices: int64 [n], their positions in the store.
        labels: int64 [n], indices into the class names.
        names: n names: paths relative to the source, or `train[17]`.
    """

    store: "PixelStore"
    indices: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the images at `positions`, int [m] or bool [n]."""
        chosen = np.arange(len(self))[positions]
        return Split(
            self.store,
            self.indices[chosen],
            self.labels[chosen],
            tuple(self.names[i] for i in chosen),
        )

    def at_size(self, size: sizes.Size) -> "Split":
        """Returns the same images brought to another size, decoded for every batch."""
        return dataclasses.replace(self, store=self.store.at_size(size))

    def mirrored(self) -> "Split":
        """Returns the images mirrored left to right, in memory."""
        store = self.store.mirrored(self.indices)
        return dataclasses.replace(self, store=store, indices=np.arange(len(self)))

    def counts(self, num_classes: int) -> np.ndarray:
        """Returns the images of each class, int64 [num_classes]."""
        return np.bincount(self.labels, minlength=num_classes)


@dataclasses.dataclass(frozen=True)
class Fold:
    """One division of the training images: positions to train on and positions held out."""

    train: np.ndarray
    validation: np.ndarray


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A file that was left out, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found when every image was decoded once.

    Attributes:
        listed: Images that the source names.
        decoded: Images that could be decoded.
        bad: Files that could not.
        ignored: Files that are no images, counted by suffix.
        seconds: Seconds that the pass took.
        warnings: What a person should know before training.
        median_side: Median short side of the originals in pixels.
    """

    listed: int
    decoded: int
    bad: tuple[BadFile, ...]
    ignored: Mapping[str, int]
    seconds: float
    warnings: tuple[str, ...]
    median_side: int

    @property
    def notes(self) -> tuple[str, ...]:
        """The warnings, and a sentence for every file that could not be decoded."""
        left_out = (f"{file.name} was left out: {file.reason}" for file in self.bad)
        return (*self.warnings, *left_out)


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Everything that a run trains and scores on.

    Attributes:
        name: The source as the user gave it.
        class_names: C names in natural order.
        train: Images to train on; with a label budget, the whole of it.
        validation: Images to choose by; None with a label budget.
        test: Images that are scored once, or None.
        folds: With a label budget, how it is cross-validated; empty otherwise.
        image_size: Side in pixels to which images are brought, or (height, width).
        fingerprint: SHA-256 of the sorted (name, label, content) of all images, hexadecimal; see
            `audit.fingerprint`.
        audit: What the decoding pass found.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split | None
    folds: tuple[Fold, ...]
    image_size: sizes.Size
    fingerprint: str
    audit: Audit

    @property
    def num_classes(self) -> int:
        """C, at least 2."""
        return len(self.class_names)

    @property
    def channels(self) -> int:
        """N, of every image."""
        return self.train.store.channels

    def splits(self) -> dict[str, Split]:
        """Returns the splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    def summary(self) -> dict[str, Any]:
        """Returns what `report.json` says about the data, JSON types alone."""
        return {
            "source": self.name,
            "fingerprint": self.fingerprint,
            "image_size": self.image_size,
            "channels": self.channels,
            "classes": list(self.class_names),
            "counts": {
                name: dict(
                    zip(self.class_names, map(int, split.counts(self.num_classes)), strict=True)
                )
                for name, split in self.splits().items()
            },
            "images": {name: len(split) for name, split in self.splits().items()},
            "folds": len(self.folds),
            "audit": {
                **dataclasses.asdict(self.audit),
                "ignored": dict(self.audit.ignored),
            },
        }
