"""Where a distance arises: the moments of each tap once all earlier layers have been put right.

A shift at the input is inherited by every layer behind it. If the BatchNorm layers normalise with
the statistics of the images at hand instead of the remembered ones (AdaBN, Li et al. 2016), what a
layer hands on is centred and scaled as it was for the source, so that the next tap shows only what
is new there.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import data
from finetune_kit.backbones import taps
from finetune_kit.features import forward
from finetune_kit.similarity import moments, observing, types

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split

# Shares of the new distance that call a shift one of the input, or of what is shown. Lee et al.
# 2023, "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", sec. 3, tune the first
# block against shifts of the input and the last one against those of the output; where most of the
# distance arises decides which of them a set is like. 0.6 is a clear majority, 0.4 in the last
# third more than its share.
EARLY, LATE = 0.6, 0.4
MAX_IMAGES = 256
BATCH = 64  # images that share statistics; over their positions, thousands of values a channel


def innovations(
    backbone: "Backbone",
    split: "Split",
    known: Mapping[str, moments.Source],
    *,
    seed: int = 0,
) -> dict[str, float] | None:
    """Returns tap to the debiased D that arises there, or None without BatchNorm.

    The network computes on the values of its variables and never assigns one; dropout is off.

    Args:
        backbone: Its BatchNorm layers normalise with the statistics of up to `BATCH` images.
        split: n >= 2 images, of which up to `MAX_IMAGES` are used.
        known: Tap to what it saw of the source.
        seed: Decides which images, and which of them share statistics: in an order by class,
            those of a batch would be of one class.
    """
    found = taps.find_taps(backbone.model, backbone.stages)
    if any(tap.layer is None for tap in found):
        return None
    used = split.take(np.random.default_rng(seed).permutation(len(split))[:MAX_IMAGES])
    # Batches of nearly one size: statistics of a small remainder would be worth less.
    batches = -(-len(used) // BATCH)
    size = -(-len(used) // batches)
    pixels = data.evaluation_batches(used, batch_size=size)
    values = forward.run(_Renormalised(backbone.model, found), pixels)
    return {
        tap.name: moments.debiased(
            observing.Seen(tap.name, tap.stage, means, variances), known[tap.name]
        )
        for tap, (means, variances) in zip(found, values, strict=True)
    }


def shift(stages: Sequence[str], new: Mapping[str, float]) -> str:
    """Returns where the distance arises: "input", "middle" or "semantic".

    Taps are averaged by stage first, so that the answer does not hang on how many layers a network
    has, and "early" is the share of the first stage, "late" that of the last third.

    Args:
        stages: The stages of the taps, from input to output.
        new: Tap to the D that arises there, in the same order; chance may make it negative.

    Returns:
        One of `types.SHIFTS`; "none" if nothing new arises anywhere.
    """
    by_stage: dict[str, list[float]] = {}
    for stage, value in zip(stages, new.values(), strict=True):
        by_stage.setdefault(stage, []).append(max(0.0, value))
    means = np.array([np.mean(values) for values in by_stage.values()])
    if not means.sum():
        return types.NONE
    shares = means / means.sum()
    if shares[0] >= EARLY:
        return types.INPUT
    late = shares[-(-2 * len(shares) // 3) :].sum()
    return types.SEMANTIC if late >= LATE else types.MIDDLE


class _Renormalised(keras.Model):
    """Images to the pooled inputs of BatchNorm layers that normalise with each batch.

    The graph is walked here, not called with `training=True`: that would leave layers that have
    been frozen on their moving statistics, switch dropout on, and update variables.
    """

    def __init__(self, model: keras.Model, found: tuple[taps.Tap, ...]) -> None:
        super().__init__(name="renormalised")
        self._tapped = keras.Model(model.inputs[0], [tap.tensor for tap in found])

    def call(self, pixels: Any) -> list[tuple[Any, Any]]:
        inputs = self._tapped._run_through_graph([pixels], operation_fn=_with_batch_statistics)
        return [observing.pool(x) for x in inputs]


def _with_batch_statistics(operation: Any) -> Any:
    if not isinstance(operation, keras.layers.BatchNormalization):
        return operation

    def normalise(inputs: Any, **_: Any) -> Any:
        x = keras.ops.cast(inputs, "float32")
        mean, variance = keras.ops.moments(x, tuple(range(len(x.shape) - 1)))
        x = (x - mean) / keras.ops.sqrt(variance + operation.epsilon)
        x = x if operation.gamma is None else x * operation.gamma
        x = x if operation.beta is None else x + operation.beta
        return keras.ops.cast(x, operation.compute_dtype)

    return normalise
