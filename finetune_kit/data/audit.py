"""The first pass over the images: each is decoded once, and what is wrong with them is said."""

import collections
import concurrent.futures
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from finetune_kit import checks, cores
from finetune_kit.data import decode, folder, listing, types

CHUNK = 32  # images a task: large beside the cost of a task, small beside a progress bar's step
SHOWN = 3  # examples in a message
# Pictures that the decoder does not take, so that a person may not know that they are left out.
OTHER_PICTURES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico")
Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What the pass found.

    Attributes:
        good: bool [n], whether an image could be decoded.
        digests: n SHA-256 of the content; empty bytes where an image could not be read.
        short_sides: int64 [n], pixels of the originals, 0 where an image could not be decoded.
        bad: Those that could not, and why.
        cache: uint8 [n, s, s, 3], zeros where an image could not be decoded; None if not kept.
    """

    good: np.ndarray
    digests: tuple[bytes, ...]
    short_sides: np.ndarray
    bad: tuple[types.BadFile, ...]
    cache: np.ndarray | None

    @property
    def median_side(self) -> int:
        """Median short side of the originals in pixels."""
        return int(np.median(self.short_sides[self.good]))


@dataclasses.dataclass(frozen=True)
class _Image:
    digest: bytes = b""
    short_side: int = 0
    reason: str = ""


def decode_all(
    found: listing.Listing, size: int, *, cache_mb: int, progress: Progress | None = None
) -> Decoded:
    """Decodes every image once, on all cores.

    Args:
        found: n images.
        size: Side s in pixels of what is kept.
        cache_mb: Pixels are kept if they need no more than this many MiB.
        progress: Called with the number of images that were decoded since the last call.
    """
    n = len(found)
    fits = n * size * size * 3 <= cache_mb * 2**20
    cache = np.zeros((n, size, size, 3), np.uint8) if fits else None

    def work(chunk: range) -> list[_Image]:
        return [_one(found.reader, position, size, cache) for position in chunk]

    images: list[_Image] = []
    for done in _in_threads(work, [range(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]):
        images += done
        if progress is not None:
            progress(len(done))
    return Decoded(
        good=np.array([not image.reason for image in images], bool),
        digests=tuple(image.digest for image in images),
        short_sides=np.array([image.short_side for image in images], np.int64),
        bad=tuple(
            types.BadFile(name, image.reason)
            for name, image in zip(found.names, images, strict=True)
            if image.reason
        ),
        cache=cache,
    )


def refuse_bad(bad: Sequence[types.BadFile], listed: int, max_bad_fraction: float) -> None:
    """Raises `DataError` if more than `max_bad_fraction` of the images cannot be decoded."""
    if len(bad) <= max_bad_fraction * listed:
        return
    shown = "; ".join(f"{file.name}: {file.reason}" for file in bad[:SHOWN])
    raise checks.DataError(
        f"At most {max_bad_fraction:.1%} of the images may be unreadable. Received: {len(bad)} of "
        f"{listed}: {shown}{'; …' if len(bad) > SHOWN else ''}. Mend or remove them, or raise "
        "--max_bad_fraction."
    )


def refuse_unseen(found: listing.Listing, good: np.ndarray) -> None:
    """Raises `DataError` for a class that has no readable image to train on.

    Args:
        found: n images.
        good: bool [n], those that can be decoded.
    """
    rows = [(s, y) for s, y, ok in zip(found.splits, found.labels, good, strict=True) if ok]
    seen = {label for split, label in rows if split in ("", "train")}
    elsewhere = sorted({f"{label} ({split})" for split, label in rows if label not in seen})
    if elsewhere:
        raise checks.DataError(
            "Every class of a split needs images to train on. Received: none for "
            f"{', '.join(elsewhere)}. Add them to train, or remove the class."
        )
    lost = [name for name in found.classes if name not in seen]
    if lost:
        raise checks.DataError(
            f"Every class needs a readable image. Received: none of {', '.join(lost)}. Add one, or "
            "remove the class."
        )


def left_out(ignored: Mapping[str, int]) -> list[str]:
    """Returns warnings about pictures that the decoder does not take, or that have no class."""
    kinds = [f"{ignored[suffix]} {suffix}" for suffix in OTHER_PICTURES if suffix in ignored]
    strays = ignored.get(folder.STRAY, 0)
    return [
        *([f"left out, as no {', '.join(decode.FORMATS)}: {', '.join(kinds)}"] if kinds else []),
        *([f"left out, as they stand in no class folder: {strays} images"] if strays else []),
    ]


def copies(
    digests: Sequence[bytes],
    labels: np.ndarray,
    names: Sequence[str],
    parts: Mapping[str, np.ndarray],
) -> list[str]:
    """Returns warnings about exact copies: across splits, and under two labels.

    Args:
        digests: n SHA-256 of the content.
        labels: int [n].
        names: n names.
        parts: The positions of each split.
    """
    groups: dict[bytes, list[tuple[str, int]]] = collections.defaultdict(list)
    for split, positions in parts.items():
        for position in positions:
            groups[digests[position]].append((split, int(position)))
    repeated = [group for group in groups.values() if len(group) > 1]
    leaks = [group for group in repeated if len({split for split, _ in group}) > 1]
    doubtful = [group for group in repeated if len({labels[place] for _, place in group}) > 1]
    return [
        f"{len(found)} {'image stands' if len(found) == 1 else 'images stand'} {where}, such as "
        + " and ".join(names[place] for _, place in found[0][:2])
        for where, found in (
            ("in more than one split", leaks),
            ("under more than one label", doubtful),
        )
        if found
    ]


def fingerprint(found: listing.Listing, digests: Sequence[bytes]) -> str:
    """Returns the SHA-256 of the sorted (name, label, content) of all images, hexadecimal."""
    total = hashlib.sha256()
    for name, label, digest in sorted(zip(found.names, found.labels, digests, strict=True)):
        for part in (_encoded(name), _encoded(label), digest):
            # Lengths keep ("ab", "c") and ("a", "bc") apart.
            total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def _one(reader: listing.Reader, position: int, size: int, cache: np.ndarray | None) -> _Image:
    try:
        content = reader.read(position)
    except OSError as error:
        return _Image(reason=error.strerror or str(error))
    raw = content.tobytes() if isinstance(content, np.ndarray) else content
    digest = hashlib.sha256(raw).digest()
    try:
        image = content if isinstance(content, np.ndarray) else decode.decode(content)
        small = decode.resize(image, size)
    except decode.DecodeError as error:
        return _Image(digest, reason=str(error))
    if cache is not None:
        cache[position] = small
    return _Image(digest, min(image.shape[:2]))


def _in_threads(
    work: Callable[[range], list[_Image]], chunks: list[range]
) -> Iterator[list[_Image]]:
    pool = concurrent.futures.ThreadPoolExecutor(cores.available(), "finetune_kit-audit")
    try:
        yield from pool.map(work, chunks)
    finally:
        # After an interrupt, what is queued must not be waited for.
        pool.shutdown(cancel_futures=True)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
