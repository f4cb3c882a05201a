"""The solved head of a phase: features computed once an image, scores without a forward pass."""

import time
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import features
from finetune_kit.training import scoring

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.training.prefixes import Prefixes


class Solver:
    """Solves a classifier's head again and again, on the features of its frozen backbone.

    Attributes:
        seconds: Seconds spent on features and on heads.
    """

    def __init__(
        self, classifier: "Classifier", prefixes: "Prefixes", *, num_classes: int, seed: int
    ) -> None:
        """Knows no features yet.

        Args:
            classifier: Its head is overwritten by `solve`.
            prefixes: Where features come from; those of the same weights are computed once.
            num_classes: C.
            seed: Draws the folds of the head's regularisation.
        """
        self._classifier, self._prefixes = classifier, prefixes
        self._num_classes, self._seed = num_classes, seed
        self.seconds = {"features": 0.0, "head": 0.0}

    def solve(
        self, train: "Split", held_out: "Split | None"
    ) -> "tuple[scoring.Score, scoring.Score | None]":
        """Solves the head on `train` and writes it into the classifier.

        Args:
            train: Images to solve on.
            held_out: Images to score.

        Returns:
            The scores of both splits.
        """
        began = time.perf_counter()
        rows = self._rows(train, training=True)
        others = None if held_out is None else self._rows(held_out, training=False)
        self.seconds["features"] += time.perf_counter() - began
        began = time.perf_counter()
        solution = features.solve_head(
            rows, train.labels, num_classes=self._num_classes, seed=self._seed
        )
        features.copy_head(solution, self._classifier)
        self.seconds["head"] += time.perf_counter() - began
        own = _score(solution, rows, train.labels)
        if held_out is None or others is None:
            return own, None
        return own, _score(solution, others, held_out.labels)

    def _rows(self, split: "Split", *, training: bool) -> np.ndarray:
        """Returns the features of a split, float32 [n, d]."""
        return self._prefixes.features(split, training=training).rows(split.indices)[0]


def _score(solution: features.HeadSolution, rows: np.ndarray, labels: np.ndarray) -> scoring.Score:
    logits = rows.astype(np.float64) @ solution.kernel + solution.bias
    return scoring.Score.of(labels, scoring.log_softmax(logits))
