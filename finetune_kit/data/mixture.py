"""Several sources as one: all their classes side by side, as pretraining on a mixture wants it."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from finetune_kit.data import listing


@dataclasses.dataclass(frozen=True)
class JoinedReader:
    """Reads from several sources, one after the other.

    Attributes:
        readers: One a source.
        ends: Where each source's positions end.
    """

    readers: tuple[listing.Reader, ...]
    ends: tuple[int, ...]

    def read(self, position: int) -> bytes | np.ndarray:
        """Returns the content of an image."""
        number = bisect.bisect_right(self.ends, position)
        return self.readers[number].read(position - (self.ends[number - 1] if number else 0))


def joined(parts: Sequence[listing.Listing]) -> listing.Listing:
    """Returns the images of all sources, with their classes one after the other.

    Where some sources have splits, all images of the others are to be trained on: nothing is scored
    on them.

    Args:
        parts: At least one; classes of one name are left for `listing.check` to refuse.
    """
    divided = any(any(part.splits) for part in parts)
    splits = [split if split or not divided else "train" for part in parts for split in part.splits]
    ignored: dict[str, int] = {}
    for part in parts:
        for kind, count in part.ignored.items():
            ignored[kind] = ignored.get(kind, 0) + count
    return listing.Listing(
        names=tuple(f"{n}/{name}" for n, part in enumerate(parts) for name in part.names),
        labels=tuple(itertools.chain.from_iterable(part.labels for part in parts)),
        splits=tuple(splits),
        reader=JoinedReader(
            tuple(part.reader for part in parts),
            tuple(itertools.accumulate(len(part) for part in parts)),
        ),
        classes=tuple(itertools.chain.from_iterable(part.classes for part in parts)),
        ignored=ignored,
    )
