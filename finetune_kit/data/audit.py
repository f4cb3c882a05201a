"""The first pass over the images: each is decoded once, and what is wrong with them is said."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from finetune_kit import checks, cores
from finetune_kit.data import decode, folder, listing, pixelfile, sizes, types

CHUNK = 32  # images a task: large beside the cost of a task, small beside a progress bar's step
SHOWN = 3  # examples in a message
# Pictures that the decoder does not take, so that a person may not know that they are left out.
OTHER_PICTURES = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".ico")
Progress = Callable[[int], None]
Keep = Callable[[int, np.ndarray], None]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What the pass found.

    Attributes:
        good: bool [n], whether an image could be decoded.
        digests: uint8 [n, 32], SHA-256 of the content; zeros where an image could not be read.
        short_sides: int64 [n], pixels of the originals, 0 where an image could not be decoded.
        bad: Those that could not, and why.
        cache: uint8 [n, h, w, N], zeros where an image could not be decoded; or a file that holds
            it; None if pixels are not kept.
        warnings: What a person should know.
    """

    good: np.ndarray
    digests: np.ndarray
    short_sides: np.ndarray
    bad: tuple[types.BadFile, ...]
    cache: np.ndarray | pixelfile.PixelFile | None
    warnings: tuple[str, ...] = ()

    @property
    def median_side(self) -> int:
        """Median short side of the originals in pixels."""
        return int(np.median(self.short_sides[self.good]))


def decode_all(
    found: listing.Listing,
    size: sizes.Size,
    *,
    cache_mb: int,
    cache_dir: str = "",
    channels: int = sizes.COLOURS,
    progress: Progress | None = None,
) -> Decoded:
    """Decodes every image once, on all cores.

    Images whose pixels an earlier run left in `cache_dir` are read and hashed, but not decoded.

    Args:
        found: n images.
        size: Side in pixels of what is kept, or (h, w).
        cache_mb: Pixels are kept in memory if they need no more than this many MiB.
        cache_dir: Folder for a file with the pixels if they need more; empty keeps none.
        channels: N of what is kept.
        progress: Called with the number of images that were dealt with since the last call.
    """
    advance = progress or (lambda count: None)
    shape = sizes.shape(size, channels)
    if len(found) * math.prod(shape) <= cache_mb * 2**20:
        cache = np.zeros((len(found), *shape), np.uint8)
        return _decoded(found, _decode(found, shape, cache.__setitem__, advance), cache)
    if not cache_dir:
        return _decoded(found, _decode(found, shape, None, advance), None)
    known, count = _known(found, pixelfile.candidates(cache_dir, len(found), shape), advance)
    if known is not None:
        return _decoded(found, known.findings, known)
    return _written(found, shape, cache_dir, _beyond(count, advance))


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
    digests: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    parts: Mapping[str, np.ndarray],
) -> list[str]:
    """Returns warnings about exact copies: across splits, and under two labels.

    Args:
        digests: uint8 [n, 32], SHA-256 of the content.
        labels: int [n].
        names: n names.
        parts: The positions of each split.
    """
    groups: dict[bytes, list[tuple[str, int]]] = collections.defaultdict(list)
    again = _again(digests, np.concatenate([*parts.values()]))
    for split, positions in parts.items():
        for position in positions[again[positions]].tolist():
            groups[digests[position].tobytes()].append((split, position))
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


def _again(digests: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns which images begin with eight bytes that come more than once, bool [n].

    Nearly all images are told apart by them, so that few have to be looked at one by one.

    Args:
        digests: uint8 [n, 32].
        positions: Images that count.
    """
    heads = np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]
    values = np.sort(heads[positions])
    return np.isin(heads, values[1:][values[1:] == values[:-1]])


def fingerprint(found: listing.Listing, digests: np.ndarray, channels: int = sizes.COLOURS) -> str:
    """Returns the SHA-256 of the sorted (name, label, content) of all images, hexadecimal.

    Behind them stands the number of channels in which they are seen, unless they are RGB.

    Args:
        found: n images.
        digests: uint8 [n, 32], SHA-256 of the content; zeros count as no content.
        channels: N.
    """
    total = hashlib.sha256()
    for i in sorted(range(len(found)), key=found.names.__getitem__):
        content = digests[i].tobytes() if digests[i].any() else b""
        for part in (_encoded(found.names[i]), _encoded(found.labels[i]), content):
            # Lengths keep ("ab", "c") and ("a", "bc") apart.
            total.update(len(part).to_bytes(8, "little") + part)
    if channels != sizes.COLOURS:
        total.update(channels.to_bytes(8, "little"))
    return total.hexdigest()


def _decode(
    found: listing.Listing, shape: sizes.Shape, keep: Keep | None, advance: Progress
) -> pixelfile.Findings:
    """Decodes every image, gives its pixels to `keep`, and returns what was found."""
    n = len(found)
    digests, short_sides = np.zeros((n, pixelfile.DIGEST), np.uint8), np.zeros(n, np.int64)
    reasons: dict[int, str] = {}

    def one(position: int) -> None:
        try:
            content = found.reader.read(position)
            digests[position] = _digest(content)
            image = decode.squeeze(content, shape[:2], shape[2])
        except OSError as error:
            reasons[position] = error.strerror or str(error)
            return
        except decode.DecodeError as error:
            reasons[position] = str(error)
            return
        short_sides[position] = image.short_side
        if keep is not None:
            keep(position, image.pixels)

    def work(chunk: range) -> int:
        for position in chunk:
            one(position)
        return len(chunk)

    for done in _in_threads(work, _ranges(n)):
        advance(done)
    return pixelfile.Findings(digests, short_sides, reasons)


def _known(
    found: listing.Listing, files: Sequence[pixelfile.PixelFile], advance: Progress
) -> tuple[pixelfile.PixelFile | None, int]:
    """Returns the file that holds these images, if there is one, and how many were compared.

    Reads and hashes image by image, until all are known or no file can be theirs any more.
    """

    def work(chunk: range) -> tuple[range, np.ndarray]:
        return chunk, np.stack([_digest_at(found.reader, position) for position in chunk])

    count = 0
    for chunk, digests in _in_threads(work, _ranges(len(found)) if files else []):
        files = [f for f in files if np.array_equal(f.findings.digests[chunk], digests)]
        if not files:
            break
        count += len(chunk)
        advance(len(chunk))
    return (files[0] if files else None), count


def _written(found: listing.Listing, shape: sizes.Shape, folder: str, advance: Progress) -> Decoded:
    """Decodes every image into a file; without, where none can be written."""
    findings = None
    try:
        with pixelfile.writing(folder, len(found), shape) as writer:
            findings = _decode(found, shape, writer.put, advance)
            return _decoded(found, findings, writer.finish(findings))
    except OSError as error:
        decoded = _decoded(found, findings or _decode(found, shape, None, advance), None)
        words = (
            f"decoded images are not kept in {folder}, so that each batch is decoded again: "
            f"{error.strerror or error}"
        )
        return dataclasses.replace(decoded, warnings=(words,))


def _decoded(
    found: listing.Listing,
    findings: pixelfile.Findings,
    cache: np.ndarray | pixelfile.PixelFile | None,
) -> Decoded:
    bad = sorted(findings.reasons)
    good = np.ones(len(found), bool)
    good[bad] = False
    return Decoded(
        good=good,
        digests=findings.digests,
        short_sides=findings.short_sides,
        bad=tuple(types.BadFile(found.names[i], findings.reasons[i]) for i in bad),
        cache=cache,
    )


def _digest_at(reader: listing.Reader, position: int) -> np.ndarray:
    try:
        return _digest(reader.read(position))
    except OSError:
        return np.zeros(pixelfile.DIGEST, np.uint8)


def _digest(content: bytes | np.ndarray) -> np.ndarray:
    raw = content.tobytes() if isinstance(content, np.ndarray) else content
    return np.frombuffer(hashlib.sha256(raw).digest(), np.uint8)


def _beyond(count: int, advance: Progress) -> Progress:
    """Returns a progress that passes over the first `count` images, which were told before."""
    left = count

    def advance_beyond(step: int) -> None:
        nonlocal left
        told = min(left, step)
        left -= told
        if step > told:
            advance(step - told)

    return advance_beyond


def _ranges(n: int) -> list[range]:
    return [range(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]


def _in_threads(work: Callable[[range], T], chunks: list[range]) -> Iterator[T]:
    pool = concurrent.futures.ThreadPoolExecutor(cores.available(), "finetune_kit-audit")
    try:
        yield from pool.map(work, chunks)
    finally:
        # After an interrupt, what is queued must not be waited for.
        pool.shutdown(cancel_futures=True)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
