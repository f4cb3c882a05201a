"""Floating-point operations of a forward pass, from the shapes of the graph."""

import math
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from finetune_kit.backbones import types

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def flops(layer: Any, output: Any = None) -> int:
    """Returns the operations of a layer or model for one image; a multiply-add counts as two.

    Convolutions, depthwise and separable convolutions, dense layers and attention are counted, as
    is usual (He et al., 2016, table 1, counts their multiply-adds once); everything else is small
    beside them and counts as zero.

    Args:
        layer: Has been called on images of a known size.
        output: What it gave, for a layer that was called more than once.
    """
    if isinstance(layer, keras.Model):
        return sum(map(flops, layer.layers))
    if isinstance(layer, SEPARABLE):
        positions = _positions(layer, output)
        depthwise, pointwise = layer.depthwise_kernel.shape, layer.pointwise_kernel.shape
        return 2 * positions * (math.prod(depthwise) + math.prod(pointwise))
    if isinstance(layer, (*DEPTHWISE, *CONVOLUTIONS)):
        # A kernel [k, k, in / groups, out] (depthwise: [k, k, in, multiplier]) is used once at
        # every output position.
        return 2 * _positions(layer, output) * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.MultiHeadAttention):
        # Four projections of every token, and every token with every other, twice (Vaswani et al.,
        # 2017, section 3.2).
        n = _positions(layer, output)
        projections = sum(math.prod(x.kernel.shape) for x in layer._layers if hasattr(x, "kernel"))
        widths = layer.get_config()["num_heads"] * (layer.key_dim + layer.value_dim)
        return 2 * n * projections + 2 * n * n * widths
    if isinstance(layer, keras.layers.Dense):
        return 2 * _positions(layer, output) * math.prod(layer.kernel.shape)
    return 0


def by_stage(backbone: "types.Backbone") -> tuple[int, ...]:
    """Returns the operations of every stage of a network for one image, from input to output."""
    return tuple(
        sum(flops(backbone.model.get_layer(name)) for name in stage.layers)
        for stage in backbone.stages
    )


def _positions(layer: Any, output: Any) -> int:
    """Returns the number of positions of a layer's output [b, ..., c], or of the one given."""
    tensor = layer.output if output is None else output
    return math.prod(int(n) for n in tensor.shape[1:-1])
