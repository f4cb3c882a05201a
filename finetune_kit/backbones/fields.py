"""Receptive fields along a graph: which part of the image a value of a map depends on.

The recurrence of Araujo, Norris & Sim, 2019, "Computing Receptive Fields of Convolutional Neural
Networks", Distill, equations 2 to 6, kept as an interval instead of a size: where paths of
different reach meet, the field is their union, which for aligned paths is the largest of them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Reach:
    """What a position u of a map sees along one axis: pixels jump u - before to jump u + after.

    Attributes:
        jump: Pixels between neighbours of the map (the effective stride).
        before, after: Pixels; infinite where every position sees the whole axis.
    """

    jump: int = 1
    before: float = 0.0
    after: float = 0.0

    @property
    def size(self) -> float:
        """Side of the receptive field in pixels, as if the image had no border."""
        return self.before + self.after + 1

    def window(self, kernel: int, stride: int, dilation: int, padding: int) -> "Reach":
        """Returns the reach behind a window of `kernel` taps, with `padding` zeros in front."""
        span = (kernel - 1) * dilation
        return Reach(
            self.jump * stride,
            self.before + self.jump * padding,
            self.after + self.jump * (span - padding),
        )


WHOLE = Reach(1, math.inf, math.inf)
Field = tuple[Reach, Reach]  # along height and width
PIXEL: Field = (Reach(), Reach())

GLOBAL = ("GlobalAveragePooling2D", "GlobalMaxPooling2D", "Flatten")
# Each value depends on values of the same position alone; keras.layers and keras.ops by name, as
# the second have no public classes.
POINTWISE = (
    "Activation", "ActivityRegularization", "AlphaDropout", "Dense", "Dropout", "ELU",
    "GaussianDropout", "GaussianNoise", "Identity", "LeakyReLU", "PReLU", "ReLU", "Softmax",
    "SpatialDropout2D", "BatchNormalization", "Normalization", "Rescaling", "LayerScale",
    "CustomScaleLayer", "StochasticDepth", "Add", "Average", "Concatenate", "Maximum", "Minimum",
    "Multiply", "Subtract", "Cast", "Clip", "Divide", "TrueDivide", "Relu", "Relu6", "Sigmoid",
    "HardSigmoid", "Silu", "Gelu", "Round",
)  # fmt: skip
WINDOWS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling2D,
)


@dataclasses.dataclass(frozen=True)
class Window:
    """The geometry of a convolution or pooling, along height and width.

    Attributes:
        kernel: Taps.
        strides: Positions between two windows.
        dilation: Positions between two taps.
        padding: Zeros in front, which the layer itself adds.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]


def window_of(operation: Any, shape: Sequence[Any]) -> Window | None:
    """Returns the geometry of an operation on maps of a shape [b, h, w, c]; None without one."""
    if not isinstance(operation, WINDOWS):
        return None
    kernel = tuple(getattr(operation, "kernel_size", None) or operation.pool_size)
    strides = tuple(operation.strides)
    dilation = tuple(getattr(operation, "dilation_rate", (1, 1)))
    before, beside = (
        _same(int(n), k, s, d) if operation.padding == "same" else 0
        for n, k, s, d in zip(shape[1:3], kernel, strides, dilation, strict=True)
    )
    return Window(kernel, strides, dilation, (before, beside))


def after(operation: Any, shape: Sequence[Any], inputs: Sequence[Field | None]) -> Field | None:
    """Returns the field of an operation's output.

    Args:
        operation: A layer or one of `keras.ops`, as the graph of a functional model holds it.
        shape: Of its first input, [b, h, w, c].
        inputs: Field of each input.

    Returns:
        None if nothing is known of what the operation does, or of an input.
    """
    fields = [field for field in inputs if field is not None]
    if not fields or len(fields) < len(inputs):
        return None
    name = type(operation).__name__
    if name in GLOBAL or all(sees_all(field) for field in fields):
        return (WHOLE, WHOLE)
    if name in POINTWISE or _is_by_channel(operation, len(shape)):
        return _union(fields)
    window = window_of(operation, shape)
    if window is not None:
        return _along(fields[0], window)
    if isinstance(operation, keras.layers.ZeroPadding2D):
        return _shifted(fields[0], [pair[0] for pair in operation.padding])
    if isinstance(operation, keras.layers.Cropping2D):
        return _shifted(fields[0], [-pair[0] for pair in operation.cropping])
    return None


def sees_all(field: Field) -> bool:
    """Returns whether every position sees the whole image."""
    return all(math.isinf(reach.size) for reach in field)


def _is_by_channel(operation: Any, rank: int) -> bool:
    """Returns whether an operation with axes stays within one position of [b, h, w, c]."""
    if type(operation).__name__ not in ("LayerNormalization", "Flip"):
        return False
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    return all(axis in (-1, rank - 1) for axis in axes)


def _same(side: int, kernel: int, stride: int, dilation: int) -> int:
    """Returns the zeros in front of an axis under `same` padding (TensorFlow's convention)."""
    outputs = math.ceil(side / stride)
    total = max(0, (outputs - 1) * stride + (kernel - 1) * dilation + 1 - side)
    return total // 2


def _along(field: Field, window: Window) -> Field:
    height, width = (
        reach.window(*geometry)
        for reach, *geometry in zip(
            field, window.kernel, window.strides, window.dilation, window.padding, strict=True
        )
    )
    return (height, width)


def _shifted(field: Field, zeros: Sequence[int]) -> Field:
    height, width = (reach.window(1, 1, 1, n) for reach, n in zip(field, zeros, strict=True))
    return (height, width)


def _union(fields: Sequence[Field]) -> Field | None:
    """Returns what any of the fields sees; None if their maps have different resolutions."""
    joined = []
    for reaches in zip(*fields, strict=True):
        jumps = {reach.jump for reach in reaches if math.isfinite(reach.size)}
        if len(jumps) > 1:
            return None
        before, behind = max(r.before for r in reaches), max(r.after for r in reaches)
        joined.append(Reach(next(iter(jumps), 1), before, behind))
    return (joined[0], joined[1])
