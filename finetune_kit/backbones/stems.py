"""Networks for images of one, two or many channels: the first convolution is operated on.

Everything before the first convolution scales every channel by a line, a x + b. With W_R, W_G, W_B
the convolution's kernels for red, green and blue, and those channels' a and b:

- 1 channel (grey): W = (a_R W_R + a_G W_G + a_B W_B) / a with a and b their means, so that a change
  of grey does what the same change of all three channels did; what the differing b add is put in
  the bias. The answers are those to an RGB image of three equal channels, but where the kernel
  reaches over the border of a network whose three b differ.
- N channels: channel j takes kernel and scaling of R, G, B, R, G, … in turn, the kernels times
  3 / N, which keeps the size of the answers where channels are alike. So timm does with kernels
  (Wightman, 2019, `adapt_input_conv` of "PyTorch Image Models"), from two channels on.

Every channel has values in [0, 255].
"""

import collections
import dataclasses
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import graphs
from finetune_kit.data import sizes

COLOURS = sizes.COLOURS
TOLERANCE = 1e-3  # of 255: beyond, what stands before the first convolution is no line


@dataclasses.dataclass(frozen=True)
class _Stem:
    """The first convolution, and what it takes: value[source[c]] * scale[c] + offset[c].

    Attributes:
        layer: The convolution.
        tensor: Symbolic [b, h, w, 3], the first that no later layer but padding changes.
        source: int [3], the channel of the image that each channel of the tensor comes from.
        scale, offset: float64 [3].
    """

    layer: keras.layers.Conv2D
    tensor: Any
    source: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def with_channels(model: keras.Model, channels: int) -> keras.Model:
    """Returns a network for images of another number of channels.

    Args:
        model: A flat functional model, float32 [b, h, w, 3] in [0, 255] to [b, h', w', c]; one
            that takes N channels already is returned.
        channels: N of the images, float32 [b, h, w, N] in [0, 255].

    Returns:
        A copy whose first convolution has kernels for N channels; everything else is equal.

    Raises:
        ConfigError: N is below 1, or the network does not begin with a scaling of each channel
            and a convolution of all three.
    """
    checks.in_range("channels", channels, 1)
    if channels == model.inputs[0].shape[-1]:
        return model
    if any(isinstance(layer, keras.Model) for layer in model.layers):
        model = graphs.rebuilt(model, keras.Input(model.inputs[0].shape[1:], name="pixels"))
    stem = _stem(model)
    kernel, *bias = stem.layer.get_weights()
    scale, offset, kernel, shift = _adapted(stem, kernel.astype(np.float64), channels)
    biased = bool(bias) or bool(np.abs(shift).max() > 0)
    values = [kernel.astype(np.float32)]
    values += [((bias[0] if bias else 0) + shift).astype(np.float32)] if biased else []

    def operate(layer: Any) -> tuple[keras.layers.Layer, list[np.ndarray]]:
        return type(layer).from_config({**layer.get_config(), "use_bias": biased}), values

    images = keras.Input((*model.inputs[0].shape[1:3], channels), name="pixels")
    scaling = keras.layers.Rescaling(scale.tolist(), offset=offset.tolist(), dtype="float32")
    body = keras.Model(stem.tensor, model.outputs[0], name=model.name)
    return graphs.rebuilt(body, scaling(images), inputs=images, replaced={stem.layer.name: operate})


def _adapted(
    stem: _Stem, kernel: np.ndarray, channels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns scale [N], offset [N], kernel [k, k, N, f] and what is added to the bias [f]."""
    # In the order of the image's channels: VGG's kernels, for one, are for BGR.
    order = np.argsort(stem.source)
    scale, offset, kernel = stem.scale[order], stem.offset[order], kernel[:, :, order]
    if channels == 1:
        a, b = scale.mean(), offset.mean()
        grey = (kernel * (scale / a)[:, None]).sum(axis=2, keepdims=True)
        shift = (kernel * offset[:, None]).sum(axis=(0, 1, 2)) - b * grey.sum(axis=(0, 1, 2))
        # Equal offsets add nothing but rounding.
        shift = shift if np.ptp(offset) > 1e-6 * np.abs(offset).max() else np.zeros_like(shift)
        return np.array([a]), np.array([b]), grey, shift
    turn = np.arange(channels) % COLOURS
    return (
        scale[turn],
        offset[turn],
        kernel[:, :, turn] * (COLOURS / channels),
        np.zeros(kernel.shape[-1]),
    )


def _stem(model: keras.Model) -> _Stem:
    """Returns the first convolution of a network and the scaling before it."""
    layer, tensor = _first_convolution(model)
    before = keras.Model(model.inputs[0], tensor)
    probes = np.zeros((COLOURS + 2, *model.inputs[0].shape[1:]), np.float32)
    for channel in range(COLOURS):
        probes[channel + 1, ..., channel] = 255
    probes[-1] = np.random.default_rng(0).uniform(0, 255, probes.shape[1:])
    seen = np.asarray(before(probes, training=False), np.float64)
    offset = seen[0, 0, 0]
    response = (seen[1 : COLOURS + 1, 0, 0] - offset) / 255  # [channel of the image, of the tensor]
    source = np.abs(response).argmax(axis=0)
    scale = response[source, np.arange(COLOURS)]
    expected = probes[-1][..., source] * scale + offset
    error = np.abs(seen[-1] - expected).max()
    if sorted(source) != [0, 1, 2] or error > TOLERANCE * np.ptp(expected):
        raise _unfit(model, "before which the channels are mixed")
    return _Stem(layer, tensor, source, scale, offset)


def _first_convolution(model: keras.Model) -> tuple[keras.layers.Conv2D, Any]:
    """Returns the first layer that mixes channels, and the tensor before its padding."""
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]
    uses = collections.Counter(id(x) for node in nodes for x in node.input_tensors)
    tensor = model.inputs[0]
    for node in nodes:
        operation, x = node.operation, node.outputs[0]
        if isinstance(operation, keras.layers.Conv2D) and operation.groups == 1:
            return operation, tensor
        scales = isinstance(operation, (keras.layers.InputLayer, *graphs.PIXEL_LAYERS))
        if isinstance(operation, keras.layers.Layer) and operation.weights and not scales:
            raise _unfit(model, f"but with {operation.name}")
        if uses[id(x)] > 1:
            raise _unfit(model, "whose pixels several layers take")
        if not isinstance(operation, keras.layers.ZeroPadding2D):
            tensor = x
    raise _unfit(model, "and has none")


def _unfit(model: keras.Model, problem: str) -> checks.ConfigError:
    return checks.ConfigError(
        "Images of another number of channels need a network that begins with a scaling and a "
        f"convolution. Received: {model.name}, {problem}"
    )
