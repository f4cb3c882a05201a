"""Probabilities of a classifier's images."""

from typing import TYPE_CHECKING

import keras
import numpy as np
import scipy.special

from finetune_kit import data
from finetune_kit.features import extraction, forward

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.features.activations import ActivationStore


def predict(
    classifier: "Classifier",
    split: "Split",
    *,
    batch_size: int = 64,
    model: keras.Model | None = None,
    store: "ActivationStore | None" = None,
) -> np.ndarray:
    """Returns probabilities, float64 [n, C], of every image of a split in its order.

    The head is a matrix product, done here: the graph of the features is the one that a solved head
    has traced already, and tracing another one takes seconds.

    Args:
        classifier: Its `features` and `head` are asked.
        split: n images.
        batch_size: Images a forward pass; it does not change the result.
        model: A model from images to logits to run instead: one that was traced before.
        store: Computes the features, with a graph that it has traced before.
    """
    if len(split) == 0:
        return np.zeros((0, classifier.model.output_shape[-1]))
    if model is None:
        rows = _rows(classifier, split, store, batch_size)
        kernel, bias = (np.asarray(value, np.float64) for value in classifier.head.get_weights())
        logits = rows.astype(np.float64) @ kernel + bias
    else:
        batches = data.evaluation_batches(split, batch_size=batch_size)
        logits = np.asarray(forward.run(model, batches), np.float64)
    return scipy.special.softmax(logits, axis=1)


def _rows(
    classifier: "Classifier", split: "Split", store: "ActivationStore | None", batch_size: int
) -> np.ndarray:
    if store is None:
        return extraction.extract(classifier, split, batch_size=batch_size)
    pixels, tensors = classifier.model.inputs[0], classifier.features.outputs
    return store.get(pixels, tensors, split, whatever=True).rows(split.indices)[0]
