"""Sources that are drawn from formulas: no files, nobody's property, and nobody is on them.

    fractals:200x100   200 classes of 100 images each, drawn anew wherever they are asked for
    textures:300x100   the same of `textures`
    characters:95x200  the same of `characters`, which are 95 classes at most

An image follows from formula, class and number alone.
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from finetune_kit import checks
from finetune_kit.data import characters, fractals, listing, textures

Draw = Callable[[int, int], np.ndarray]

DRAWN: dict[str, Draw] = {
    "fractals": fractals.image,
    "textures": textures.image,
    "characters": characters.image,
}
MAX_IMAGES = 10_000_000  # beyond it a number was meant for something else
MOST_CLASSES = {"characters": len(characters.CHARACTERS)}
_FORM = re.compile(r"(\d+)x(\d+)", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Draws one image by its position: those of a class are next to each other."""

    formula: str
    per_class: int

    def read(self, position: int) -> np.ndarray:
        """Returns uint8 [64, 64, 3], the same whenever it is asked for."""
        return DRAWN[self.formula](*divmod(position, self.per_class))


def is_formula(source: str) -> bool:
    """Returns whether a source is of the form `FORMULA:…`."""
    return _formula(source) in DRAWN and ":" in source


def check(source: str) -> tuple[int, int]:
    """Returns the classes and the images a class of a source.

    Raises:
        DataError: Not of the form `FORMULA:CLASSESxIMAGES`, or fewer than 2 of either.
    """
    formula = _formula(source)
    found = _FORM.fullmatch(source.removeprefix(f"{formula}:"))
    classes, per_class = (int(number) for number in found.groups()) if found else (0, 0)
    if classes < 2 or per_class < 2 or classes * per_class > MAX_IMAGES:
        raise checks.DataError(
            f"{formula}: needs at least 2 classes and 2 images a class, as in {formula}:200x100. "
            f"Received: data={source!r}"
        )
    if classes > MOST_CLASSES.get(formula, classes):
        raise checks.DataError(
            f"{formula}: has at most {MOST_CLASSES[formula]} classes. Received: data={source!r}"
        )
    return classes, per_class


def list_images(source: str) -> listing.Listing:
    """Lists the images of a source; none is drawn yet.

    Raises:
        DataError: See `check`.
    """
    classes, per_class = check(source)
    width, kind = len(str(classes - 1)), _formula(source).removesuffix("s")
    names = tuple(f"{kind}_{number:0{width}}" for number in range(classes))
    labels = tuple(name for name in names for _ in range(per_class))
    return listing.Listing(
        names=tuple(f"{label}[{i % per_class}]" for i, label in enumerate(labels)),
        labels=labels,
        splits=("",) * len(labels),
        reader=Reader(_formula(source), per_class),
        classes=names,
    )


def _formula(source: str) -> str:
    return source.partition(":")[0]
