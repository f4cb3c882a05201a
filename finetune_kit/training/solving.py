"""The solved head of a phase: features computed once an image, scores without a forward pass."""

import time
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import features
from finetune_kit.training import scoring

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split


class Solver:
    """Solves a classifier's head again and again, on the features of its frozen backbone.

    Attributes:
        seconds: Seconds spent on features and on heads.
    """

    def __init__(self, classifier: "Classifier", *, num_classes: int, seed: int) -> None:
        """Knows no features yet.

        Args:
            classifier: Its head is overwritten by `solve`.
            num_classes: C.
            seed: Draws the folds of the head's regularisation.
        """
        self._classifier, self._num_classes, self._seed = classifier, num_classes, seed
        self._known: dict[int, np.ndarray] = {}
        self.seconds = {"features": 0.0, "head": 0.0}

    def solve(
        self, train: "Split", held_out: "Split | None", *, reuse: bool
    ) -> "tuple[scoring.Score, scoring.Score | None]":
        """Solves the head on `train` and writes it into the classifier.

        Args:
            train: Images to solve on.
            held_out: Images to score.
            reuse: Whether features computed before still hold, that is, whether the backbone has
                the weights it had then.

        Returns:
            The scores of both splits.
        """
        if not reuse:
            self._known.clear()
        began = time.perf_counter()
        rows = self._rows(train)
        others = None if held_out is None else self._rows(held_out)
        self.seconds["features"] += time.perf_counter() - began
        began = time.perf_counter()
        solution = features.solve_head(
            rows, train.labels, num_classes=self._num_classes, seed=self._seed
        )
        features.copy_head(solution, self._classifier)
        self.seconds["head"] += time.perf_counter() - began
        if not reuse:
            self._known.clear()
        own = _score(solution, rows, train.labels)
        if held_out is None or others is None:
            return own, None
        return own, _score(solution, others, held_out.labels)

    def _rows(self, split: "Split") -> np.ndarray:
        """Returns the features of a split, float32 [n, d]; only images not met before are run."""
        known = self._known.get(id(split.store))
        size = int(split.indices.max()) + 1
        width = self._classifier.features.output_shape[-1]
        if known is None or len(known) < size:
            grown = np.full((size, width), np.nan, np.float32)
            if known is not None:
                grown[: len(known)] = known
            known = self._known[id(split.store)] = grown
        new = np.isnan(known[split.indices, 0])
        if new.any():
            known[split.indices[new]] = features.extract(self._classifier, split.take(new))
        return known[split.indices]


def _score(solution: features.HeadSolution, rows: np.ndarray, labels: np.ndarray) -> scoring.Score:
    logits = rows.astype(np.float64) @ solution.kernel + solution.bias
    return scoring.Score.of(labels, scoring.log_softmax(logits))
