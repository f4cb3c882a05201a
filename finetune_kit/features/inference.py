"""Probabilities of a classifier's images."""

from typing import TYPE_CHECKING

import keras
import numpy as np
import scipy.special

from finetune_kit import data

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split


def predict(
    classifier: "Classifier",
    split: "Split",
    *,
    batch_size: int = 64,
    model: keras.Model | None = None,
) -> np.ndarray:
    """Returns probabilities, float64 [n, C], of every image of a split in its order.

    Args:
        classifier: Its `model` gives logits.
        split: n images.
        batch_size: Images a forward pass; it does not change the result.
        model: A model to run instead, with the same input and output: one that was traced before.
    """
    if len(split) == 0:
        return np.zeros((0, classifier.model.output_shape[-1]))
    batches = data.evaluation_batches(split, batch_size=batch_size)
    logits = (model or classifier.model).predict(batches, verbose=0)
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=1)
