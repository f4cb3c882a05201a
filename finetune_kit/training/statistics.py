"""BatchNorm's running statistics: in short phases, and measured on the target's images."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import console, data
from finetune_kit.data import order, sizes
from finetune_kit.features import forward
from finetune_kit.training import views

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.options import Options

# The statistics forget what they began with e-fold in this share of a phase. With Keras' momentum
# of 0.99 the 200 steps of a small set would leave an eighth of it, which is worse than guessing
# where the weights are random.
MEMORY = 0.1
LEAST = 4.0  # batches in the average of a phase of few steps
PIXELS = 2**21  # of a batch when measuring: 128 images of 128 px, 2048 of 32 px


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


def prepare(
    classifier: "Classifier", phases: "Iterable[Phase]", split: "Split", options: "Options"
) -> None:
    """Measures the moving statistics anew where the options of a run ask for it.

    Args:
        classifier: Its moving statistics may be overwritten.
        phases: Of the run.
        split: Images to measure on.
        options: "auto" asks for it where BatchNorm of all pretrained stages trains: they will
            normalise by batches of these images, which should be no shock to a head that was
            solved before. What a phase leaves frozen keeps its statistics.
    """
    how = options.batch_norm_statistics
    if how == "auto":
        trains = any(
            phase.batch_norm == "trainable" and all(phase.multipliers.values()) for phase in phases
        )
        within = views.hidden_batch_norms(classifier.backbone.model)
        how = "target" if trains and classifier.backbone.weights != "none" and not within else ""
    if how == "target":
        re_estimate(classifier, split, seed=options.seed)


def re_estimate(classifier: "Classifier", split: "Split", *, seed: int) -> None:
    """Replaces the moving statistics of all BatchNorm layers by those of the split's images.

    Li et al. (2016), "Revisiting Batch Normalization For Practical Domain Adaptation", algorithm 1:
    no label is looked at, no image is augmented, and a layer's input is measured with the layers
    before it normalised by the new statistics. All in one pass: the layers before it normalise by
    the batch, and means and mean squares are averaged over the batches. That is exact where one
    batch holds all images, and near where batches are as large as `PIXELS` makes them.

    The result depends on weights, images and seed alone, so doing it twice changes nothing.

    Args:
        classifier: Its moving statistics are overwritten; without BatchNorm nothing happens.
        split: Images to measure on, at least one.
        seed: Draws who is in a batch with whom.

    Raises:
        ConfigError: A BatchNorm layer is inside another layer.
    """
    model = classifier.backbone.model
    found: dict[int, list[Any]] = {}
    norms = {id(norm): norm for norm in views.batch_norms(model)}
    if not norms:
        return

    def measured(norm: Any, x: Any) -> Any:
        y, mean, variance = _Measured(norm)(x)
        found.setdefault(id(norm), []).append((mean, variance))
        return y

    pixels = views.rewired(model, measured).inputs[0]
    batch_size = max(1, PIXELS // math.prod(sizes.sides(split.store.size)))
    # Neighbours in a folder are of one class; a batch should be like the whole.
    shuffled = split.take(order.epoch_order(len(split), seed=seed, epoch=0))
    batches = data.evaluation_batches(shuffled, batch_size=batch_size)
    with console.progress("Measuring statistics", len(split)) as bar:
        watch = [forward.Reporter(len(split), batch_size, bar.advance)]
        values = forward.run(keras.Model(pixels, found), batches, callbacks=watch)
    counts = [min(batch_size, len(split) - start) for start in range(0, len(split), batch_size)]
    for key, uses in values.items():
        pooled = [_pooled(mean, variance, counts) for mean, variance in uses]
        mean, square = (np.mean(part, axis=0) for part in zip(*pooled, strict=True))
        norms[key].moving_mean.assign(mean)
        norms[key].moving_variance.assign(np.maximum(square - mean**2, 0.0))


class _Measured(keras.layers.Layer):
    """A BatchNorm layer that normalises with the batch and gives its moments away."""

    def __init__(self, norm: keras.layers.BatchNormalization) -> None:
        super().__init__(dtype=norm.dtype_policy)
        self.norm = norm

    def call(self, x: Any) -> tuple[Any, Any, Any]:
        """Returns x normalised, its mean and its variance, float32 [1, c] both."""
        norm, x = self.norm, keras.ops.cast(x, "float32")
        axis = norm.axis % len(x.shape)
        others = [i for i in range(len(x.shape)) if i != axis]
        mean, variance = keras.ops.moments(x, axes=others)
        offset, scale = (
            keras.ops.cast(part, "float32") if used else None
            for part, used in ((norm.beta, norm.center), (norm.gamma, norm.scale))
        )
        y = keras.ops.batch_normalization(
            x, mean, variance, axis, offset=offset, scale=scale, epsilon=norm.epsilon
        )
        return keras.ops.cast(y, self.compute_dtype), mean[None], variance[None]


def _pooled(
    means: np.ndarray, variances: np.ndarray, sizes: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and mean square over all images, float64 [c], of moments by batch [k, c]."""
    means, variances = means.astype(np.float64), variances.astype(np.float64)
    squares = variances + means**2
    return np.average(means, axis=0, weights=sizes), np.average(squares, axis=0, weights=sizes)
