"""Which images a benchmark trains and tests on: a rule that any program can follow.

A set is a folder `<class>/<image>`, or `train/<class>/<image>` beside `test/<class>/<image>`. The
images follow from the set, the number a class and the seed alone, so programs in other frameworks
can draw the same ones, and figures of theirs stand beside ours.
"""

import dataclasses
import hashlib
import os
import pathlib
import random
import shutil
from collections.abc import Sequence

from finetune_kit import checks

TEST_CAP = 1500  # more would cost minutes a run and change an accuracy by less than 2 points
DEVELOP_CAP = 1000
TEST_SHARE = 5  # one file in five is a test image where the set has no test split
TEST_ORDER = 0  # seed of the test images' order, so that the cap takes some of every class
TRAIN, TEST = "train", "test"

Example = tuple[pathlib.Path, int]


@dataclasses.dataclass(frozen=True)
class Case:
    """The images of one run.

    Attributes:
        name: The set.
        classes: Names, sorted as strings.
        train: (file, class index), by class.
        test: The same, shuffled; equal for all seeds.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that stand for the files, their sizes and their labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for image, label in split:
                digest.update(f"{image.resolve()}\0{image.stat().st_size}\0{label}\n".encode())
            digest.update(b"\n")
        return digest.hexdigest()[:8]


def sets_in(data_root: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the names of the sets in a folder: of its folders that hold folders.

    Raises:
        DataError: No such folder, or no set in it.
    """
    root = pathlib.Path(data_root)
    found = tuple(folder.name for folder in _folders(root) if _folders(folder))
    if not found:
        raise checks.DataError(
            "--data_root needs a folder with one set of images a folder. Received: "
            f"data_root={os.fspath(data_root)!r}"
        )
    return found


def draw(
    folder: str | os.PathLike[str], *, per_class: int, seed: int, test_cap: int = TEST_CAP
) -> Case:
    """Draws the images of a case.

    Without a `test` folder, those images are the test split whose file name's MD5 hash is
    divisible by five.

    Args:
        folder: The set.
        per_class: Training images of each class; a class with fewer gives all, and so does 0.
        seed: Draws the training images; the test images do not depend on it.
        test_cap: Largest number of test images.

    Raises:
        DataError: There are fewer than two classes, or no test image.
    """
    root = pathlib.Path(folder)
    pool = root / TRAIN if (root / TRAIN).is_dir() else root
    held_out = root / TEST if (root / TEST).is_dir() else None
    classes = tuple(child.name for child in _folders(pool))
    generator = random.Random(seed)
    train: list[Example] = []
    test: list[Example] = []
    for label, name in enumerate(classes):
        images = _files(pool / name)
        if held_out is None:
            test += [(image, label) for image in images if _is_test(image)]
            images = [image for image in images if not _is_test(image)]
        else:
            test += [(image, label) for image in _files(held_out / name)]
        if per_class and len(images) > per_class:
            images = generator.sample(images, per_class)
        train += [(image, label) for image in images]
    if len(classes) < 2 or not test:
        raise checks.DataError(
            f"A set needs two classes and an image to test on. Received: {os.fspath(folder)!r} "
            f"with {len(classes)} classes and {len(test)} test images"
        )
    random.Random(TEST_ORDER).shuffle(test)
    return Case(root.name, classes, tuple(train), tuple(test[:test_cap]))


def develop(
    folder: str | os.PathLike[str], *, per_class: int, seed: int, test_cap: int = DEVELOP_CAP
) -> Case:
    """Draws a case to develop with: its test images are some to train on that it does not draw.

    Args:
        folder: The set.
        per_class: Training images of each class; one image of every class is kept to test on.
        seed: Draws the training images, and with them those to test on.
        test_cap: Largest number of images to test on.

    Raises:
        DataError: As `draw`.
    """
    pool = draw(folder, per_class=0, seed=seed)
    generator = random.Random(seed)
    train: list[Example] = []
    rest: list[Example] = []
    for label in range(len(pool.classes)):
        images = [example for example in pool.train if example[1] == label]
        generator.shuffle(images)
        count = min(per_class, len(images) - 1)
        train += images[:count]
        rest += images[count:]
    generator.shuffle(rest)
    return Case(pool.name, pool.classes, tuple(train), tuple(rest[:test_cap]))


def write(case: Case, folder: str | os.PathLike[str]) -> pathlib.Path:
    """Copies the images of a case to `train/<class>/` and `test/<class>/` below a folder.

    A file is named after its place in the case, so equal cases make equal folders. A folder that
    exists is complete, since it is renamed to its name at the end, and is left as it is.

    Returns:
        The folder.

    Raises:
        EnvironmentFault: The place is not writable or full.
    """
    target = pathlib.Path(folder)
    if target.is_dir():
        return target
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for split, examples in ((TRAIN, case.train), (TEST, case.test)):
            _copy(examples, case.classes, partial / split)
        partial.rename(target)
    except OSError as error:
        raise checks.EnvironmentFault(
            f"A case needs a folder that can be written. Received: {os.fspath(target)!r}, "
            f"{error.strerror or error}"
        ) from error
    return target


def _copy(examples: Sequence[Example], classes: Sequence[str], folder: pathlib.Path) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
    for place, (image, label) in enumerate(examples):
        shutil.copyfile(image, folder / classes[label] / f"{place:05d}{image.suffix}")


def _is_test(image: pathlib.Path) -> bool:
    digest = hashlib.md5(image.name.encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest, "big") % TEST_SHARE == 0


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir())


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
