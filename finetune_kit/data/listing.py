"""What a source names before any pixel is read: images, labels, splits."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from finetune_kit import checks

SPLITS = ("train", "validation", "test")
ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


class Reader(Protocol):
    """Gives the content of the image at a position of the listing."""

    def read(self, position: int) -> bytes | np.ndarray:
        """Returns encoded bytes, or uint8 [h, w, N] where the source holds pixels."""
        ...


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of a source.

    Attributes:
        names: n unique names.
        labels: n class names.
        splits: n names of `SPLITS`, or all empty where the source has no splits.
        reader: Gives the content by position.
        classes: Class names in their order, those without an image included.
        ignored: What is no image or has no label, counted by suffix or kind.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    reader: Reader
    classes: tuple[str, ...]
    ignored: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


def check(found: Listing, source: str) -> None:
    """Refuses what no classifier can be trained on.

    Raises:
        DataError: Fewer than two classes, two of one name, or images with a split beside images
            without.
    """
    if len(found.classes) < 2:
        raise checks.DataError(
            f"A classifier needs at least 2 classes. Received: {source} with "
            f"{', '.join(found.classes) or 'none'}. Add images of another class."
        )
    twice = [n for n, count in collections.Counter(found.classes).items() if count > 1]
    if twice:
        raise checks.DataError(
            f"Every class needs a name of its own. Received: {source} with {', '.join(twice)} more "
            "than once. Rename one."
        )
    without = next((n for n, s in zip(found.names, found.splits, strict=True) if not s), None)
    if without is not None and any(found.splits):
        raise checks.DataError(
            f"Either every image has a split or none has. Received: {source} with {without!r}, "
            "which has none, beside others. Name its split, or drop the splits."
        )


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Returns a key that sorts as people count: 2 before 10, upper case beside lower case."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def natural(names: Iterable[str]) -> list[str]:
    """Returns names in natural order, case as the last tie-breaker."""
    return sorted(names, key=lambda name: (natural_key(name), name))
