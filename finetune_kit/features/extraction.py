"""The pooled features of a backbone, one row an image."""

from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import data
from finetune_kit.features import forward

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split


def extract(classifier: "Classifier", split: "Split", *, batch_size: int = 64) -> np.ndarray:
    """Returns the pooled features of every image, float32 [n, d], in the order of `split`.

    The backbone runs in inference mode (BatchNorm uses its moving statistics) on the images as
    they are, without augmentation, so the rows are what the head sees at evaluation.

    Args:
        classifier: Its `features` model maps float32 [b, h, w, 3] in [0, 255] to [b, d].
        split: n images.
        batch_size: Images a forward pass; it does not change the result.
    """
    if len(split) == 0:
        return np.zeros((0, classifier.features.output_shape[-1]), np.float32)
    batches = data.evaluation_batches(split, batch_size=batch_size)
    return np.asarray(forward.run(classifier.features, batches), np.float32)
