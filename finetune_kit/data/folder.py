"""A folder of images: `<class>/` at its root, or `train/`, `val/` and `test/` above the classes."""

import collections
import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator

from finetune_kit import checks
from finetune_kit.data import listing, npy

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", npy.SUFFIX)
NOISE = ("Thumbs.db", "desktop.ini", "__MACOSX")  # left behind by Windows and macOS
HIDDEN, SPECIAL, LINK, STRAY = "hidden", "no regular file", "link back", "outside a class"


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads files by position.

    Attributes:
        paths: n paths, relative to `root`.
        root: A folder.
    """

    paths: tuple[str, ...]
    root: str = ""

    def read(self, position: int) -> bytes:
        """Returns the bytes of one file.

        Raises:
            OSError: Missing, unreadable, no regular file, or no path at all.
        """
        path = os.path.join(self.root, self.paths[position])
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise OSError(SPECIAL)  # reading a FIFO would wait for ever
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        except ValueError as error:  # a NUL in the path
            raise OSError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class ClassFolder:
    """A folder whose images are of one class; `split` is empty where there are no splits."""

    path: str
    label: str
    split: str


def check_folder(root: str) -> None:
    """Looks at the folders alone, which takes milliseconds.

    Raises:
        DataError: See `class_folders`.
    """
    class_folders(root)


def class_folders(root: str) -> list[ClassFolder]:
    """Returns the class folders of an image folder.

    Raises:
        DataError: `root` is no folder, mixes classes with splits, or has fewer than two classes.
    """
    if not os.path.isdir(root):
        what = "a file" if os.path.exists(root) else "which does not exist"
        raise checks.DataError(
            f"--data needs a folder, a .csv file or tfds:NAME. Received: data={root!r}, {what}."
        )
    root = os.path.normpath(root)
    found = [
        ClassFolder(entry.path, entry.name, split)
        for top, split in _tops(root)
        for entry in (_folders(top.path) if split else [top])
    ]
    classes = {folder.label for folder in found}
    if len(classes) < 2:
        raise checks.DataError(
            "An image folder needs one folder for each of at least 2 classes, at its root or in "
            f"train/, val/ and test/. Received: data={root!r} with {_seen(classes)}."
            f"{_hint(root, classes)}"
        )
    return found


def list_folder(root: str) -> listing.Listing:
    """Lists the images below `root`; folders below a class folder belong to the class.

    Raises:
        DataError: See `class_folders`; also a class folder without an image.
    """
    ignored: collections.Counter[str] = collections.Counter()
    rows: list[tuple[str, ClassFolder]] = []
    folders = class_folders(root)
    root = os.path.normpath(root)
    _count_strays(root, folders, ignored)
    for folder in folders:
        paths = _images(folder.path, os.path.realpath(root), ignored)
        rows += [(os.path.relpath(path, root).replace(os.sep, "/"), folder) for path in paths]
    rows = _without_features(rows, ignored)
    filled = {folder.path for _, folder in rows}
    empty = [os.path.relpath(x.path, root) for x in folders if x.path not in filled]
    if empty:
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        raise checks.DataError(
            f"Every class needs an image ({', '.join(SUFFIXES)}). Received: data={root!r} with "
            f"none in {', '.join(empty[:5])}{', …' if len(empty) > 5 else ''}"
            f"{f' (ignored: {there})' if there else ''}. Fill or remove the folder."
        )
    rows.sort(key=lambda row: row[0])
    # The reader shares the names: of a hundred thousand images, text takes the most memory.
    shared = tuple(name for name, _ in rows)
    return listing.Listing(
        names=shared,
        labels=tuple(folder.label for _, folder in rows),
        splits=tuple(folder.split for _, folder in rows),
        reader=FileReader(shared, root),
        classes=tuple(listing.natural({folder.label for folder in folders})),
        ignored=dict(ignored),
    )


def _without_features(
    rows: list[tuple[str, ClassFolder]], ignored: collections.Counter[str]
) -> list[tuple[str, ClassFolder]]:
    """Returns the images: arrays only where they outnumber pictures. Features do not, nor masks."""
    pictures = [row for row in rows if not row[0].casefold().endswith(npy.SUFFIX)]
    arrays = len(rows) - len(pictures)
    if not 0 < arrays <= len(pictures):
        return rows
    ignored[npy.SUFFIX] += arrays
    return pictures


def _tops(root: str) -> list[tuple["os.DirEntry[str]", str]]:
    """Returns the folders at the root, each with its split or an empty string."""
    tops = [(entry, listing.ALIASES.get(entry.name.casefold(), "")) for entry in _folders(root)]
    splits = [entry for entry, split in tops if split]
    others = [entry.name for entry, split in tops if not split]
    if not splits or not others:
        return tops
    # `train` beside `plane` is a class like any other, unless it holds folders.
    doubtful = [entry.name for entry in splits if _folders(entry.path)]
    if doubtful:
        raise checks.DataError(
            f"A folder holds either splits or classes. Received: data={root!r} with "
            f"{', '.join(doubtful)} beside {', '.join(others[:5])}. Move one or the other."
        )
    return [(entry, "") for entry, _ in tops]


def _folders(root: str) -> list["os.DirEntry[str]"]:
    """Returns the folders in `root` by name, without hidden ones and links back to it."""
    real = os.path.realpath(root)
    return [
        entry
        for entry in sorted(os.scandir(root), key=lambda entry: entry.name)
        if not _hidden(entry.name) and _is_folder(entry) and not _holds(entry, real)
    ]


def _images(root: str, data_root: str, ignored: collections.Counter[str]) -> Iterator[str]:
    """Yields the image files below `root`; visits every folder once, whatever links there are."""
    seen: set[str] = set()
    pending = [root]
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            ignored[LINK] += 1
            continue
        seen.add(real)
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            kind = _kind(entry)
            if _is_folder(entry) and not kind:
                # A link into the data set would give the images of one class to another.
                back = entry.is_symlink() and _related(os.path.realpath(entry.path), data_root)
                kind = LINK if back else ""
                pending += [] if back else [entry.path]
            elif not kind:
                yield entry.path
            if kind:
                ignored[kind] += 1


def _kind(entry: "os.DirEntry[str]") -> str:
    """Returns why an entry is ignored; an empty string for a folder or an image file."""
    if _hidden(entry.name):
        return HIDDEN
    if _is_folder(entry):
        return ""
    # A FIFO or socket would block the reader; a link may lead nowhere, or to itself.
    if not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
        return SPECIAL
    if not entry.name.casefold().endswith(SUFFIXES):
        return pathlib.PurePath(entry.name).suffix.casefold() or "no suffix"
    return ""


def _count_strays(root: str, folders: list[ClassFolder], ignored: collections.Counter[str]) -> None:
    """Counts what stands beside the class folders, in splits without a class too."""
    splits = [entry.path for entry, split in _tops(root) if split]
    known = {folder.path for folder in folders} | set(splits)
    for parent in (root, *splits):
        for entry in os.scandir(parent):
            if entry.path not in known:
                ignored[_kind(entry) or (LINK if _is_folder(entry) else STRAY)] += 1


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    # `DirEntry.is_dir` raises for a link to itself; `os.path.isdir` says no.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in NOISE


def _holds(entry: "os.DirEntry[str]", real_root: str) -> bool:
    """Returns whether an entry is a link to `real_root` or to a folder above it."""
    return entry.is_symlink() and _below(real_root, os.path.realpath(entry.path))


def _related(one: str, other: str) -> bool:
    return _below(one, other) or _below(other, one)


def _below(path: str, top: str) -> bool:
    return os.path.commonpath([path, top]) == top


def _seen(classes: set[str]) -> str:
    return f"the class {next(iter(classes))!r} alone" if classes else "no class folder"


def _hint(root: str, classes: set[str]) -> str:
    """Returns what a person probably meant, for a folder with fewer than two classes."""
    files = sum(1 for entry in os.scandir(root) if not _is_folder(entry) and not _kind(entry))
    if files:
        return f" It holds {files} images itself: give each class a folder."
    for entry in _folders(root):
        if entry.name in classes and len(_folders(entry.path)) > 1:
            return f" Perhaps --data={entry.path}?"
        if entry.name.casefold() in listing.ALIASES and not classes:
            return f" Give each class a folder in {entry.path}."
    return ""
