"""What stands behind the feature map of a classifier: found, taken off, or made convolutional.

A dense layer on a flattened map is a convolution whose kernel is as large as the map: at the size
that it was trained for it gives the same numbers, and on larger images one vector for every place
that the window can take (Sermanet et al., 2014, "OverFeat", section 3.3; Long et al., 2015, "Fully
Convolutional Networks for Semantic Segmentation", section 3.1).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import graphs, stages
from finetune_kit.data import sizes

POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
# Where a map [b, h, w, c] becomes a vector.
STARTS = (*POOLINGS, keras.layers.Flatten)
# Where tokens [b, n, c] become one.
TOKEN_STARTS = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalMaxPooling1D)
# What works on every value or channel alike, so that it means the same on a map.
POINTWISE = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.ELU,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Softmax,
)
NORMALISING = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


def find_map(model: keras.Model) -> Any:
    """Returns the feature map of a flat functional model, a symbolic tensor [b, h, w, c].

    It is what the first layer that makes a vector of the whole map takes, or the last map that
    every path passes; of a transformer, its tokens [b, n, c]. Of a head on several stages, such as
    this package exports, it is the deepest of the maps that are pooled side by side.

    Raises:
        ConfigError: There is no such map, or nothing before it could train.
    """
    steps = stages.trace(model)
    found = None
    for step in steps:
        if not step.is_cut:
            continue
        deepest = _deepest(step.output)
        if deepest is not None:
            found = deepest
            break
        if isinstance(step.operation, (*STARTS, *TOKEN_STARTS)) and found is not None:
            break
        if len(step.output.shape) in (3, 4):
            found = step.output
    if found is None or not keras.Model(model.inputs[0], found).trainable_weights:
        raise checks.ConfigError(
            "A backbone needs a feature map [b, h, w, c] that every path from images to output "
            f"passes, behind layers that train. Received: model={model.name!r}, which has none."
        )
    return found


def _deepest(tensor: Any) -> Any:
    """Returns the map behind the others that are pooled side by side in a vector; None if none is.

    Args:
        tensor: What may be that vector, [b, d].
    """
    if not isinstance(tensor._keras_history.operation, keras.layers.Concatenate):
        return None
    pooled = _taken(tensor)
    if not all(isinstance(x._keras_history.operation, POOLINGS) for x in pooled):
        return None
    *others, last = [_taken(x)[0] for x in pooled]
    return last if all(_comes_of(last, other) for other in others) else None


def _taken(tensor: Any) -> list[Any]:
    """Returns the tensors of which a tensor of a graph is made."""
    history = tensor._keras_history
    return list(history.operation._inbound_nodes[history.node_index].input_tensors)


def _comes_of(tensor: Any, source: Any) -> bool:
    """Returns whether a tensor of a graph can be computed from another one alone."""
    try:
        keras.Model(source, tensor)
    except ValueError:
        return False
    return True


def head_of(model: keras.Model, features: Any) -> keras.Model | None:
    """Returns a copy of what stands behind a map: from float32 [b, h, w, c] to logits [b, C].

    Args:
        model: A flat functional model.
        features: Its map, see `find_map`.

    Returns:
        None if nothing stands there, no vector comes of it or not of it alone, or the map is a row
        of tokens.
    """
    output = model.outputs[0]
    if features is output or len(output.shape) != 2 or len(features.shape) != 4:
        return None
    if not _comes_of(output, features):
        return None
    head = keras.Model(features, output)
    maps = keras.Input(features.shape[1:], name="features", dtype="float32")
    last = output._keras_history.operation
    replaced = {last.name: _without_softmax} if isinstance(last, keras.layers.Layer) else {}
    return graphs.rebuilt(head, maps, name="source_head", replaced=replaced)


def chain(head: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers of a head in their order.

    Raises:
        ConfigError: They branch.
    """
    operations = [step.operation for step in stages.trace(head)]
    operations = [x for x in operations if not isinstance(x, keras.layers.InputLayer)]
    for operation in operations:
        if not isinstance(operation, keras.layers.Layer) or isinstance(operation.input, list):
            raise checks.ConfigError(
                "Dense layers become convolutions where they stand in a row. "
                + checks.received(model=head.name, layer=operation.name)
            )
    return operations


def convolved(
    layers: Sequence[keras.layers.Layer], shape: Sequence[int], *, dtype: Any = None
) -> list[keras.layers.Layer]:
    """Returns layers that do to a map what a dense head does, with its weights.

    Args:
        layers: Those of the head, in a row, which begin with flattening or global pooling.
        shape: (h, w, c) of the map that they take.
        dtype: Their policy; None is Keras' own.

    Returns:
        Built layers from [b, h', w', c] to [b, h' - h + 1, w' - w + 1, C] behind flattening, and
        to [b, 1, 1, C] behind global pooling.

    Raises:
        ConfigError: A layer that means something else on a map.
    """
    window = tuple(int(n) for n in shape)
    vector = False
    made: list[keras.layers.Layer] = []
    for layer in layers:
        if isinstance(layer, STARTS) and not vector:
            vector = True
            if isinstance(layer, POOLINGS):
                window = (1, 1, window[2])
                made.append(type(layer)(keepdims=True, name=layer.name, dtype=dtype))
        elif isinstance(layer, keras.layers.Dense) and vector:
            made.append(_convolution(layer, window, dtype))
            window = (1, 1, layer.units)
        elif isinstance(layer, keras.layers.Conv2D) and window[:2] == (1, 1):
            made.append(_copied(layer, window, dtype))  # on a pooled map, as MobileNetV3 has it
            window = (1, 1, layer.filters)
        elif isinstance(layer, POINTWISE) and (
            window[:2] == (1, 1) or not isinstance(layer, NORMALISING)
        ):
            made.append(_copied(layer, window, dtype))
        elif not (isinstance(layer, keras.layers.Reshape | keras.layers.Flatten) and vector):
            raise checks.ConfigError(
                "A head of dense layers can be made of convolutions. "
                + checks.received(layer=layer.name, type=type(layer).__name__)
            )
    return made


def fully_convolutional(model: keras.Model, image_size: sizes.Size) -> keras.Model:
    """Returns a classifier with a dense head as one that takes larger images.

    Args:
        model: Functional, from images of a known size to [b, C].
        image_size: Side of the images, or (height, width), at least the model's own.

    Returns:
        A copy, from [b, h, w, channels] to a vector of scores for every place, [b, h', w', C];
        at the model's own size to [b, 1, 1, C] that equals what the model gives.

    Raises:
        ConfigError: The head is no row of dense layers, or the images are smaller.
    """
    given = graphs.functional(model)
    own = given.inputs[0]
    flat = graphs.rebuilt(given, keras.Input(own.shape[1:]))
    features = find_map(flat)
    head = keras.Model(features, flat.outputs[0])
    layers = convolved(chain(head), features.shape[1:])
    sides = sizes.sides(image_size)
    if any(side < int(least) for side, least in zip(sides, own.shape[1:3], strict=True)):
        raise checks.ConfigError(
            f"{model.name} with its dense layers needs images of at least "
            f"{' x '.join(str(n) for n in own.shape[1:3])} px. "
            + checks.received(image_size=image_size)
        )
    body = graphs.rebuilt(
        keras.Model(flat.inputs[0], features), keras.Input((*sides, own.shape[3]))
    )
    return keras.Model(body.inputs[0], through(layers, body.outputs[0]), name=model.name)


def through(layers: Sequence[keras.layers.Layer], x: Any) -> Any:
    """Returns what a row of layers makes of a tensor."""
    for layer in layers:
        x = layer(x)
    return x


def _convolution(
    dense: keras.layers.Dense, window: tuple[int, ...], dtype: Any
) -> keras.layers.Conv2D:
    """Returns the convolution whose kernel [h, w, c, units] is that of a dense layer."""
    layer = keras.layers.Conv2D(
        dense.units,
        window[:2],
        activation=dense.activation,
        use_bias=dense.use_bias,
        name=dense.name,
        dtype=dtype,
    )
    layer.build((None, *window))
    kernel, *bias = dense.get_weights()
    layer.set_weights([kernel.reshape(*window, dense.units), *bias])
    return layer


def _copied(layer: keras.layers.Layer, window: tuple[int, ...], dtype: Any) -> keras.layers.Layer:
    config = layer.get_config() | ({"dtype": dtype} if dtype else {})
    if "axis" in config:
        config["axis"] = -1  # which was 1 on a vector
    copy = type(layer).from_config(config)
    copy.build((None, *window))
    copy.set_weights(layer.get_weights())
    return copy


def _without_softmax(layer: Any) -> tuple[keras.layers.Layer, list[np.ndarray]]:
    """Returns the last layer of a classifier as one that gives logits, and its weights."""
    if isinstance(layer, keras.layers.Softmax):
        return keras.layers.Identity(name=layer.name), []
    config = layer.get_config()
    if config.get("activation") == "softmax":
        config["activation"] = "linear"
    return type(layer).from_config(config), layer.get_weights()
