"""What a classifier said about each image of a split, and where it was wrong."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks, metrics

if TYPE_CHECKING:
    from finetune_kit.data import Split

Picture = Callable[[int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image whose likeliest class is the wrong one.

    Attributes:
        position: Index of the image in the split.
        name: Name of the image.
        true, predicted: Class names.
        probability: Of the predicted class.
        true_probability: Of the true class.
    """

    position: int
    name: str
    true: str
    predicted: str
    probability: float
    true_probability: float


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Scores of one class.

    Attributes:
        name: Name of the class.
        n: Images of the class.
        predicted: Images that were taken for it.
        recall: Share of its images that were recognised, Wilson's interval; None if n = 0.
        precision: Share of `predicted` that is right; None if nothing was.
    """

    name: str
    n: int
    predicted: int
    recall: metrics.Estimate | None
    precision: metrics.Estimate | None


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Labels and probabilities of a split, with what is needed to show them.

    Attributes:
        split: Name of the split: "test" or "validation".
        labels: int64 [n].
        probabilities: float [n, C].
        class_names: C names.
        names: n names of images.
        picture: Position in the split to its picture, uint8 [h, w, 3]; None shows no pictures.
    """

    split: str
    labels: np.ndarray
    probabilities: np.ndarray
    class_names: Sequence[str]
    names: Sequence[str]
    picture: Picture | None = None

    def __post_init__(self) -> None:
        sizes = {len(self.labels), len(self.probabilities), len(self.names)}
        if len(sizes) > 1 or self.probabilities.shape[1] != len(self.class_names):
            raise checks.ConfigError(
                "Predictions need a label, a name and C probabilities per image. "
                + checks.received(
                    labels=len(self.labels),
                    names=len(self.names),
                    probabilities=self.probabilities.shape,
                    class_names=len(self.class_names),
                )
            )

    @classmethod
    def of(
        cls,
        split: "Split",
        probabilities: np.ndarray,
        class_names: Sequence[str],
        *,
        name: str = "test",
    ) -> "Predictions":
        """Joins the images of a split with their probabilities, float [n, C], in its order."""
        return cls(
            split=name,
            labels=split.labels,
            probabilities=probabilities,
            class_names=class_names,
            names=split.names,
            picture=lambda position: split.store.picture(int(split.indices[position])),
        )

    @property
    def predicted(self) -> np.ndarray:
        """Likeliest class of each image, int64 [n]."""
        return self.probabilities.argmax(axis=1)

    def confusion(self) -> np.ndarray:
        """Counts by true class (row) and predicted class (column), int64 [C, C]."""
        return metrics.confusion(self.labels, self.predicted, len(self.class_names))

    def mistakes(self, count: int) -> tuple[Mistake, ...]:
        """Returns up to `count` mistakes, the most confident first."""
        predicted = self.predicted
        wrong = np.flatnonzero(predicted != self.labels)
        confidence = self.probabilities[wrong, predicted[wrong]]
        chosen = wrong[np.argsort(-confidence, kind="stable")][:count]
        return tuple(self._mistake(int(i), int(predicted[i])) for i in chosen)

    def by_class(self) -> tuple[ClassResult, ...]:
        """Returns the scores of each class, in the order of the classes."""
        matrix = self.confusion()
        return tuple(
            ClassResult(
                name=name,
                n=int(matrix[index].sum()),
                predicted=int(matrix[:, index].sum()),
                recall=_share(int(matrix[index, index]), int(matrix[index].sum())),
                precision=_share(int(matrix[index, index]), int(matrix[:, index].sum())),
            )
            for index, name in enumerate(self.class_names)
        )

    def confused_pairs(self, count: int) -> tuple[tuple[str, str, int], ...]:
        """Returns up to `count` pairs (true, predicted, images), the most frequent first."""
        matrix = self.confusion()
        np.fill_diagonal(matrix, 0)
        order = np.argsort(-matrix, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(order, matrix.shape)
        return tuple(
            (self.class_names[row], self.class_names[column], int(matrix[row, column]))
            for row, column in zip(rows, columns, strict=True)
            if matrix[row, column]
        )

    def _mistake(self, position: int, predicted: int) -> Mistake:
        true = int(self.labels[position])
        return Mistake(
            position=position,
            name=self.names[position],
            true=self.class_names[true],
            predicted=self.class_names[predicted],
            probability=float(self.probabilities[position, predicted]),
            true_probability=float(self.probabilities[position, true]),
        )


def _share(successes: int, n: int) -> metrics.Estimate | None:
    return metrics.wilson(successes, n) if n else None
