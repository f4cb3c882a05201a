"""One body, two heads: the view on a classifier that trains two tasks, its loss and its metrics.

A row belongs to the target or to the source: its labels, [C_t + C_s], are 0 in the other's block.
Only logits of a row's own block say anything about it.
"""

import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.training.companions import Companion

HEAD = "source_head"
OWN_LOSS = "own_loss"  # of the target's rows alone
# Ge & Yu (2017) give the source half of the loss to the end. Fading it out lets the target have the
# last word, when the rate is small.
FADING = 0.3  # share of a phase, its last, in which the source's weight falls to 0


def share(weight: float, done: float | np.ndarray) -> np.ndarray:
    """Returns the source's share of the loss: the weight, then half a cosine from there to 0.

    Args:
        weight: In [0, 1).
        done: Shares of the phase that are over, in [0, 1], of any shape.
    """
    faded = np.clip((np.asarray(done) - (1 - FADING)) / FADING, 0.0, 1.0)
    return np.asarray(weight * (1 + np.cos(math.pi * faded)) / 2)


class Joint:
    """A classifier with a second head beside its own.

    Attributes:
        head: The dense layer from features to the source's logits, named `source_head`.
    """

    def __init__(self, classifier: "Classifier", companion: "Companion") -> None:
        """Adds the head, as the companion has it; the classifier stays as it is."""
        self._classifier = classifier
        self.head = keras.layers.Dense(companion.num_classes, name=HEAD, dtype="float32")
        # It misses the features that the target's head misses.
        self._logits = self.head(classifier.head.input)
        self.head.set_weights([companion.kernel, companion.bias])

    def view(self) -> keras.Model:
        """Returns a model from images [b, s, s, 3] to both heads' logits [b, C_t + C_s]."""
        join = keras.layers.Concatenate(dtype="float32")
        model = self._classifier.model
        return keras.Model(model.inputs[0], join([model.outputs[0], self._logits]))

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        """Returns the cross entropy of every row within its own block."""
        return JointCrossentropy(self._num_classes, label_smoothing=label_smoothing)

    def metrics(self, label_smoothing: float) -> list[keras.metrics.Metric]:
        """Returns `accuracy` and `own_loss`, which look at the target's rows alone."""
        return [
            OwnAccuracy(self._num_classes, name="accuracy"),
            OwnLoss(self._num_classes, label_smoothing=label_smoothing, name=OWN_LOSS),
        ]

    @property
    def _num_classes(self) -> int:
        return int(self._classifier.model.output_shape[-1])


class JointCrossentropy(keras.losses.Loss):
    """Cross entropy, in nats, with the softmax over the block of each row's labels."""

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        """Prepares.

        Args:
            num_classes: Classes of the first block, C_t.
            label_smoothing: Share of a label in [0, 1) that goes to all classes of its block.
            **kwargs: As for `keras.losses.Loss`.
        """
        super().__init__(**kwargs)
        self._num_classes, self._smoothing = num_classes, label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of every row, float32 [b].

        Args:
            y_true: float32 [b, C_t + C_s].
            y_pred: Logits, float32 [b, C_t + C_s].
        """
        first, second = (
            keras.losses.categorical_crossentropy(
                y_true[:, block],
                y_pred[:, block],
                from_logits=True,
                label_smoothing=self._smoothing,
            )
            for block in (slice(None, self._num_classes), slice(self._num_classes, None))
        )
        # Smoothed, the labels of a row's other block are no longer 0.
        return keras.ops.where(_own(y_true, self._num_classes), first, second)


class OwnAccuracy(keras.metrics.CategoricalAccuracy):
    """Accuracy over the rows of the first block."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._num_classes = num_classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch; weights are those of the loss and play no part."""
        super().update_state(*_first_block(y_true, y_pred, self._num_classes))


class OwnLoss(keras.metrics.CategoricalCrossentropy):
    """Mean cross entropy, in nats, over the rows of the first block."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(from_logits=True, **kwargs)
        self._num_classes = num_classes

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch; weights are those of the loss and play no part."""
        super().update_state(*_first_block(y_true, y_pred, self._num_classes))


def _first_block(y_true: Any, y_pred: Any, num_classes: int) -> tuple[Any, Any, Any]:
    """Returns labels and logits of the first block, and 1 for a row that belongs to it."""
    own = keras.ops.cast(_own(y_true, num_classes), "float32")
    return y_true[:, :num_classes], y_pred[:, :num_classes], own


def _own(y_true: Any, num_classes: int) -> Any:
    """Returns whether a row belongs to the first block, bool [b]."""
    return keras.ops.sum(y_true[:, :num_classes], axis=-1) > 0.5
