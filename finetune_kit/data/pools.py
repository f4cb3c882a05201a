"""Images of another task that train beside the target's: a sample, decoded once, never split."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks
from finetune_kit.data import arrays, audit, listing, loading, sizes, splits, store, types

if TYPE_CHECKING:
    import os


@dataclasses.dataclass(frozen=True)
class Pool:
    """Labelled images of a source that nothing is scored on.

    Attributes:
        name: The source as the user gave it.
        class_names: C names in natural order.
        images: The sample that can be decoded, in the order of the source.
        fingerprint: SHA-256 of the sorted (name, label, content) of the sample, hexadecimal.
        listed: Images that the source offers to train on, of which the sample was drawn.
        bad: Files of the sample that could not be decoded.
        warnings: What a person should know.
    """

    name: str
    class_names: tuple[str, ...]
    images: types.Split
    fingerprint: str
    listed: int
    bad: tuple[types.BadFile, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Some:
    """The images of another reader at some of its positions."""

    reader: listing.Reader
    positions: np.ndarray

    def read(self, position: int) -> bytes | np.ndarray:
        return self.reader.read(int(self.positions[position]))


def load_pool(
    source: "str | os.PathLike[str] | arrays.Arrays",
    *,
    image_size: sizes.Size,
    limit: int = 0,
    data_dir: str | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
    cache_mb: int = 2048,
    cache_dir: str = "",
    channels: int = sizes.COLOURS,
    progress: audit.Progress | None = None,
) -> Pool:
    """Lists a source and decodes a stratified sample of it once; the rest is never read.

    Of a source with splits, the images to train on are taken alone.

    Args:
        source: A folder, a `.csv` manifest, `tfds:NAME`, or `Arrays`.
        image_size: Side in pixels to which images are brought, or (height, width).
        limit: Most images of the sample; 0 takes all.
        data_dir: Where TFDS keeps its data sets.
        seed: Decides, with the names alone, who is in the sample.
        max_bad_fraction: Largest share in [0, 1] of images that may be left out.
        cache_mb: Largest size in MiB of the decoded images that are kept in memory.
        cache_dir, channels: As for `loading.load`.
        progress: Called with the number of images that were dealt with since the last call.

    Raises:
        ConfigError, DataError: As for `loading.load`.
    """
    checks.in_range("image_size", min(sizes.sides(image_size)), 1)
    checks.in_range("limit", limit, 0)
    checks.in_range("max_bad_fraction", max_bad_fraction, 0, 1)
    name, found = loading.list_source(source, data_dir, channels)
    index = {label: position for position, label in enumerate(found.classes)}
    part = _part(found, np.flatnonzero([split in ("", "train") for split in found.splits]))
    labels, listed = np.array([index[label] for label in part.labels], np.int64), len(part)
    if limit:
        kept = sample(labels, splits.ranks(part.names, seed=seed, salt="pool"), limit)
        part, labels = _part(part, kept), labels[kept]
    decoded = audit.decode_all(
        part, image_size, cache_mb=cache_mb, cache_dir=cache_dir, channels=channels,
        progress=progress,
    )  # fmt: skip
    audit.refuse_bad(decoded.bad, len(part), max_bad_fraction)
    pixels = store.PixelStore(part.reader, image_size, cache=decoded.cache, channels=channels)
    images = types.Split(pixels, np.arange(len(part)), labels, part.names).take(decoded.good)
    fingerprint = audit.fingerprint(part, decoded.digests, channels)
    return Pool(name, found.classes, images, fingerprint, listed, decoded.bad, decoded.warnings)


def sample(labels: np.ndarray, rank: np.ndarray, limit: int) -> np.ndarray:
    """Returns sorted positions of a sample in which classes keep their shares.

    A class too rare to have half an image in the sample has none.

    Args:
        labels: int [n].
        rank: [n], decides who of a class comes first.
        limit: Images of the sample; all, if there are no more.
    """
    order = np.lexsort((rank, labels))
    counts = np.bincount(labels)
    starts = np.cumsum(counts) - counts
    own = labels[order]
    # How far through its class an image comes, in (0, 1): the sample is all that come early.
    progress = (np.arange(len(labels)) - starts[own] + 0.5) / counts[own]
    return np.sort(order[np.lexsort((rank[order], progress))[:limit]])


def _part(found: listing.Listing, positions: np.ndarray) -> listing.Listing:
    """Returns the listing of the images at some positions."""
    chosen = positions.tolist()
    return dataclasses.replace(
        found,
        names=tuple(found.names[i] for i in chosen),
        labels=tuple(found.labels[i] for i in chosen),
        splits=tuple(found.splits[i] for i in chosen),
        reader=_Some(found.reader, positions),
    )
