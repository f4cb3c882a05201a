"""Scores of held-out images during training, image by image."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import data
from finetune_kit.features import forward

if TYPE_CHECKING:
    import keras

    from finetune_kit.data.types import Split
    from finetune_kit.features.activations import Kept


@dataclasses.dataclass(frozen=True)
class Score:
    """What a classifier says about labelled images.

    Attributes:
        labels: int64 [n].
        probabilities: float32 [n, C].
        losses: float64 [n], log loss in nats.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    losses: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, log_probabilities: np.ndarray) -> "Score":
        """Returns the score of log probabilities, float [n, C], in nats."""
        losses = -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)
        return cls(labels, np.exp(log_probabilities).astype(np.float32), losses)

    @property
    def loss(self) -> float:
        """Mean log loss in nats."""
        return float(self.losses.mean())

    @property
    def errors(self) -> np.ndarray:
        """1 for every image whose likeliest class is not its own, float64 [n]."""
        return (self.probabilities.argmax(axis=1) != self.labels).astype(np.float64)

    @property
    def accuracy(self) -> float:
        """Share of images whose likeliest class is theirs."""
        return float(1 - self.errors.mean())

    def beats(self, other: "Score") -> bool:
        """Returns whether more images are recognised or, of as many, the loss is lower."""
        return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)


class Scorer:
    """Scores a split with a model, again and again; the model's graph is traced once."""

    def __init__(
        self,
        model: "keras.Model",
        split: "Split",
        *,
        batch_size: int,
        activations: "Kept | None" = None,
    ) -> None:
        """Prepares the batches.

        Args:
            model: float32 [b, h, w, 3] in [0, 255] to logits float32 [b, C].
            split: n images.
            batch_size: Images a forward pass; it does not change the result.
            activations: What the model takes in the place of the images.
        """
        self._model, self._labels = model, split.labels
        self._batches = data.evaluation_batches(
            split, batch_size=batch_size, activations=activations
        )

    def score(self) -> Score:
        """Returns the score at the model's present weights."""
        logits = np.asarray(forward.run(self._model, self._batches), np.float64)
        return Score.of(self._labels, log_softmax(logits))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log probabilities in nats, float64 [n, C]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
