"""The places of a network at which its activations are compared with the source's."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from finetune_kit.backbones import types


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tensor of the network at which moments are taken.

    Attributes:
        name: The BatchNorm layer whose input it is, or the stage whose end it is.
        stage: Name of the stage that it belongs to.
        tensor: Symbolic, [b, …, c].
        layer: The BatchNorm layer, None at the end of a stage.
    """

    name: str
    stage: str
    tensor: Any
    layer: keras.layers.BatchNormalization | None = None

    @property
    def channels(self) -> int:
        """Number of channels, c."""
        return int(self.tensor.shape[-1])


def find_taps(model: keras.Model, stages: Sequence[types.Stage]) -> tuple[Tap, ...]:
    """Returns the inputs of all BatchNorm layers, or the ends of the stages where there is none.

    Args:
        model: A flat functional model.
        stages: Its stages, which hold every layer.

    Returns:
        The taps from input to output, each layer once.
    """
    stage_of = {layer: stage.name for stage in stages for layer in stage.layers}
    inputs: dict[str, Tap] = {}
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            layer = node.operation
            if isinstance(layer, keras.layers.BatchNormalization) and layer.name not in inputs:
                tap = Tap(layer.name, stage_of[layer.name], node.input_tensors[0], layer)
                inputs[layer.name] = tap
    ends = [Tap(stage.name, stage.name, stage.output) for stage in stages]
    return tuple(inputs.values()) or tuple(ends)


def has_batch_norm(backbone: types.Backbone) -> bool:
    """Returns whether a network normalises by batch, so that its BatchNorm layers can be tuned."""
    return any(tap.layer for tap in find_taps(backbone.model, backbone.stages))
