"""Who trains, who chooses, who is scored: stratified, and the same for every order of listing."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from finetune_kit import checks
from finetune_kit.data import listing, types

FOLDS = 3
CROSS_VALIDATED_BELOW = 50  # images a class; from here on one held-out fifth is precise enough
HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True)
class Images:
    """What a division depends on.

    Attributes:
        labels: int [n].
        names: n unique names.
        given: n names of splits, or n empty strings where the source has none.
        class_names: C names.
    """

    labels: np.ndarray
    names: Sequence[str]
    given: Sequence[str]
    class_names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Division:
    """Who is where.

    Attributes:
        parts: Sorted positions of every split that there is.
        folds: With a label budget, how it is cross-validated; positions within train.
        warnings: What a person should know.
    """

    parts: Mapping[str, np.ndarray]
    folds: tuple[types.Fold, ...] = ()
    warnings: tuple[str, ...] = ()


def divide(images: Images, shares: Mapping[str, float], *, seed: int) -> Division:
    """Returns the splits: those that are given, and those that are drawn.

    Args:
        images: n images.
        shares: The splits that there must be; one that is not given is drawn from the images to
            train on, at its share in (0, 1) of them.
        seed: Decides, with the names, who is drawn.

    Raises:
        DataError: A class has fewer images than there are splits to draw.
    """
    marks = np.array(images.given)
    parts = {name: np.flatnonzero(marks == name) for name in listing.SPLITS if name in images.given}
    parts = parts or {"train": np.arange(len(marks))}
    missing = {name: share for name, share in shares.items() if name not in parts}
    if missing:
        pool = parts["train"]
        rank = ranks([images.names[i] for i in pool.tolist()], seed=seed, salt="split")
        drawn = stratified(
            images.labels[pool], rank, list(missing.values()), names=images.class_names
        )
        for name, positions in zip([*missing, "train"], drawn, strict=True):
            parts[name] = pool[positions]
    return Division(parts, warnings=tuple(_absent(images, parts)))


def budget(
    images: Images, division: Division, *, seed: int, per_class: int, hold_out: bool = True
) -> Division:
    """Returns the division in which `per_class` images a class are all that training may know.

    They are drawn from the images to train on and those to choose by; the test split stands.

    Args:
        images: n images.
        division: What is given and drawn, see `divide`.
        seed: Decides, with the names, who is drawn.
        per_class: At least 1; a class with fewer images gives all it has.
        hold_out: Whether the budget is cross-validated; without, there are no folds.
    """
    known = [division.parts[name] for name in ("train", "validation") if name in division.parts]
    pool = np.sort(np.concatenate(known))
    rank = ranks([images.names[i] for i in pool.tolist()], seed=seed, salt="budget")
    train = pool[draw(images.labels[pool], rank, per_class)]
    rank = ranks([images.names[i] for i in train.tolist()], seed=seed, salt="folds")
    held = folds(images.labels[train], rank, per_class) if hold_out else ()
    counts = np.bincount(images.labels[train], minlength=len(images.class_names))
    pairs = zip(images.class_names, counts, strict=True)
    short = [f"{name}: {count}" for name, count in pairs if count < per_class]
    warnings = [f"fewer than {per_class} images to train on in {', '.join(short)}"] * bool(short)
    if hold_out and not held:
        warnings.append("a class has one image to train on, so that nothing can be held out")
    parts = {"train": train, "test": division.parts["test"]}
    return Division(parts, held, (*division.warnings, *warnings))


def ranks(names: Sequence[str], *, seed: int, salt: str) -> np.ndarray:
    """Returns a number for every name, uint64 [n], that only (seed, salt, name) decide."""
    digests = (
        hashlib.sha256(f"{seed}:{salt}:{name}".encode("utf-8", "surrogateescape")).digest()
        for name in names
    )
    return np.array([int.from_bytes(d[:8], "little") for d in digests], np.uint64)


def stratified(
    labels: np.ndarray, rank: np.ndarray, shares: Sequence[float], *, names: Sequence[str]
) -> list[np.ndarray]:
    """Divides every class by rank into parts of the given shares; the rest is the last part.

    Every part gets at least one image of every class.

    Args:
        labels: int [n].
        rank: [n], decides who comes first.
        shares: Shares in (0, 1) of the parts but the last.
        names: Class names, for the error.

    Returns:
        Sorted positions, one array a part, len(shares) + 1 in all.

    Raises:
        DataError: A class has fewer images than there are parts.
    """
    count = len(shares) + 1
    parts: list[list[np.ndarray]] = [[] for _ in range(count)]
    for label, members in _by_class(labels, rank):
        if len(members) < count:
            raise checks.DataError(
                f"The split needs at least {count} images of every class. Received: "
                f"{len(members)} of {names[label]!r}. Add images, or remove the class."
            )
        bounds = _bounds(len(members), shares)
        for part, piece in zip(parts, np.split(members, bounds), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate(part)) for part in parts]


def draw(labels: np.ndarray, rank: np.ndarray, per_class: int) -> np.ndarray:
    """Returns sorted positions of the first `per_class` images by rank of every class."""
    return np.sort(np.concatenate([m[:per_class] for _, m in _by_class(labels, rank)]))


def folds(labels: np.ndarray, rank: np.ndarray, per_class: int) -> tuple[types.Fold, ...]:
    """Returns how a label budget is cross-validated.

    Below `CROSS_VALIDATED_BELOW` images a class, `FOLDS` stratified folds (fewer where the
    smallest class has fewer images); from there on, one fold with a fifth held out. A class with
    one image cannot be held out: no folds.

    Args:
        labels: int [n].
        rank: [n], decides who comes first.
        per_class: The budget.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    if smallest < 2:
        return ()
    several = per_class < CROSS_VALIDATED_BELOW
    count = min(FOLDS, smallest) if several else round(1 / HELD_OUT)
    part = np.zeros(len(labels), np.int64)
    for label, members in _by_class(labels, rank):
        # Classes start at different folds, so that the folds are of one size.
        part[members] = (np.arange(len(members)) + label * several) % count
    return tuple(
        types.Fold(np.flatnonzero(part != i), np.flatnonzero(part == i))
        for i in range(count if several else 1)
    )


def cross_validation(split: types.Split, *, seed: int) -> tuple[types.Fold, ...]:
    """Returns how the images of a split are cross-validated; see `folds`.

    Args:
        split: n images.
        seed: Decides, with the names, who is held out when.
    """
    rank = ranks(split.names, seed=seed, salt="folds")
    smallest = int(np.unique(split.labels, return_counts=True)[1].min())
    return folds(split.labels, rank, smallest)


def _by_class(labels: np.ndarray, rank: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Returns (label, positions by rank) of every class that has images."""
    order = np.lexsort((rank, labels))
    present, starts = np.unique(labels[order], return_index=True)
    groups = np.split(order, starts[1:])
    return [(int(label), group) for label, group in zip(present, groups, strict=True)]


def _bounds(count: int, shares: Sequence[float]) -> list[int]:
    """Returns where `count` images are cut: rounded shares, but no part without an image."""
    bounds, start = [], 0
    for i, share in enumerate(shares):
        reserve = len(shares) - i  # one image for every part that follows
        start += min(max(1, round(share * count)), count - start - reserve)
        bounds.append(start)
    return bounds


def _absent(images: Images, parts: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a warning for every split that lacks a class."""
    warnings = []
    for split, positions in parts.items():
        counts = np.bincount(images.labels[positions], minlength=len(images.class_names))
        absent = [name for name, count in zip(images.class_names, counts, strict=True) if not count]
        if absent:
            warnings.append(f"no {split} image of {', '.join(absent)}")
    return warnings
