"""BatchNorm's running statistics in short phases."""

from collections.abc import Iterable
from typing import Any

import keras

# The statistics forget what they began with e-fold in this share of a phase. With Keras' momentum
# of 0.99 the 200 steps of a small set would leave an eighth of it, which is worse than guessing
# where the weights are random.
MEMORY = 0.1
LEAST = 4.0  # batches in the average of a phase of few steps


def shorten_memory(layers: Iterable[Any], *, steps: int) -> None:
    """Lowers the momentum of BatchNorm layers that train, so that a phase is long beside it.

    Call it before the phase is traced: Keras compiles the momentum in. Long phases keep the
    layer's own momentum.

    Args:
        layers: Layers of any kind.
        steps: Steps of the phase, at least 1.
    """
    longest = 1 - 1 / max(LEAST, MEMORY * steps)
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            layer.momentum = min(layer.momentum, longest)
