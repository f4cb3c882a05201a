"""Functional models built once more: flat, on other pixels, with some layers replaced."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import model_files

# Layers that work on pixels: in bfloat16 neighbouring grey levels would become one.
PIXEL_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Resizing)
# Where Keras has its augmentations, beside layers that do the same to every image.
IMAGE_LAYERS = "keras.src.layers.preprocessing.image_preprocessing."

# A layer to the one that takes its place, and that one's weights.
Replacement = Callable[[keras.layers.Layer], tuple[keras.layers.Layer, Sequence[np.ndarray]]]


def rebuilt(
    model: keras.Model,
    pixels: Any,
    *,
    name: str = "",
    inputs: Any = None,
    replaced: Mapping[str, Replacement] | None = None,
    keep_weights: bool = True,
    precision: str = "",
) -> keras.Model:
    """Returns a copy of a functional model on another tensor; nothing is shared with the original.

    Models inside it are unfolded, so that the copy is one flat graph; augmentations are left out;
    and the `training` that calls were made with is forgotten, since `trainable` decides it.

    Args:
        model: One input, one output.
        pixels: Symbolic tensor [b, h, w, c] that takes the place of the model's input.
        name: Name of the copy; "" is the model's.
        inputs: The input layer's tensor that `pixels` comes from; None is `pixels` itself.
        replaced: Layer name to what gives the layer that takes its place, and its weights.
        keep_weights: False draws new weights, except for those that scale pixels.
        precision: Policy of the layers that compute in float32; "" leaves them.

    Raises:
        ValueError, TypeError: Whatever Keras says where the graph does not fit the tensor.
    """
    copier = _Copier(dict(replaced or {}), keep_weights, precision)
    output = copier.run(model, pixels, prefix="")
    return keras.Model(pixels if inputs is None else inputs, output, name=name or model.name)


def functional(model: keras.Model) -> keras.Model:
    """Returns the functional model of a model that has a graph with one input and one output.

    Raises:
        ConfigError: It has none.
    """
    try:
        inputs, outputs = list(model.inputs), list(model.outputs)
    except (AttributeError, TypeError, ValueError):
        inputs, outputs = [], []
    graph = getattr(model, "_functional", model)
    if not getattr(graph, "_nodes_by_depth", None) or len(inputs) != 1 or len(outputs) != 1:
        raise checks.ConfigError(
            "A backbone of one's own must be a functional or sequential model with one input and "
            "one output, whose layers can be followed from images to features. "
            + checks.received(
                model=model.name, type=type(model).__name__, inputs=len(inputs),
                outputs=len(outputs),
            )
        )  # fmt: skip
    if len(inputs[0].shape) != 4:
        raise checks.ConfigError(
            "A backbone of one's own must take images [b, h, w, channels]. "
            + checks.received(model=model.name, input=tuple(inputs[0].shape))
        )
    return keras.Model(inputs[0], outputs[0], name=model.name)


def resized(model: keras.Model) -> tuple[tuple[int, int], Any] | None:
    """Returns what a model that brings images of any size to its own begins with.

    A model of images of one size may enlarge them, which is a part of what it computes; one of
    images of any size, such as an export of this package, says by it what size it was trained at.

    Args:
        model: Functional, with one input.

    Returns:
        (height, width), and the tensor behind the resizing, and behind the rounding where that
        comes next. None unless the model takes images of any size and resizes them first.
    """
    if None not in model.inputs[0].shape[1:3]:
        return None
    found = None
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            operation, output = node.operation, node.outputs[0]
            if node.is_input or (found is None and is_augmentation(operation)):
                continue
            if found is not None:
                return (found[0], output) if type(operation).__name__ == "Round" else found
            inner = getattr(operation, "_functional", operation)
            if isinstance(inner, keras.Model) and getattr(inner, "_nodes_by_depth", None):
                return resized(inner)
            if not isinstance(operation, keras.layers.Resizing):
                return None
            found = (operation.height, operation.width), output
    return found


def is_augmentation(layer: Any) -> bool:
    """Returns whether a layer changes images at random, as only training wants it."""
    return _is_image_layer(layer) and type(layer).__name__.startswith(model_files.AUGMENTATIONS)


def _is_image_layer(layer: Any) -> bool:
    return type(layer).__module__.startswith(IMAGE_LAYERS)


class _Copier:
    """Runs a graph on new tensors with copies of its layers, each copied once."""

    def __init__(
        self, replaced: dict[str, Replacement], keep_weights: bool, precision: str
    ) -> None:
        self._replaced, self._keep_weights = replaced, keep_weights
        self._precision = precision
        self._copies: dict[int, Any] = {}
        self._names: set[str] = set()

    def run(self, model: keras.Model, x: Any, *, prefix: str) -> Any:
        """Returns the output of a model inside which everything is a copy."""
        values = {id(model.inputs[0]): x}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input and all(id(t) in values for t in node.input_tensors):
                    made = keras.tree.flatten(self._call(node, values, prefix))
                    values.update((id(t), y) for t, y in zip(node.outputs, made, strict=True))
        return values[id(model.outputs[0])]

    def _call(self, node: Any, values: dict[int, Any], prefix: str) -> Any:
        operation = node.operation
        args, kwargs = node.arguments.fill_in(values)
        # Layers such as Softmax hold that they were given no mask, of which another knows nothing.
        said = {"training"} | ({"mask"} if kwargs.get("mask") is None else set())
        kwargs = {key: value for key, value in kwargs.items() if key not in said}
        if is_augmentation(operation):
            return args[0] if args else next(iter(kwargs.values()))
        if _is_image_layer(operation):
            kwargs["training"] = False  # or it, and all layers behind it, would always train
        if isinstance(operation, keras.Model) and hasattr(operation, "inputs"):
            inner = getattr(operation, "_functional", operation)
            if getattr(inner, "_nodes_by_depth", None) and len(inner.inputs) == 1:
                return self.run(inner, args[0], prefix=f"{prefix}{operation.name}_")
        if id(operation) in self._copies:
            return self._copies[id(operation)](*args, **kwargs)
        return self._first_call(operation, args, kwargs, prefix)

    def _first_call(self, operation: Any, args: Any, kwargs: Any, prefix: str) -> Any:
        """Copies an operation and calls the copy; its weights exist only then."""
        replace = self._replaced.get(operation.name)
        if replace:
            copy, values = replace(operation)
        else:
            copy = self._copied(operation, prefix)
            values = operation.get_weights() if isinstance(operation, keras.layers.Layer) else []
        self._copies[id(operation)] = copy
        output = copy(*args, **kwargs)
        if values and (self._keep_weights or isinstance(operation, PIXEL_LAYERS)):
            copy.set_weights(values)
            if isinstance(copy, keras.layers.Normalization):
                copy.finalize_state()  # it computes with constants that it makes of its weights
        return output

    def _copied(self, operation: Any, prefix: str) -> Any:
        config = operation.get_config()
        if not isinstance(operation, keras.layers.Layer):
            return type(operation).from_config(config)
        taken = operation.name in self._names
        config["name"] = f"{prefix}{operation.name}" if taken else operation.name
        self._names.add(config["name"])
        policy = getattr(operation, "dtype_policy", None)
        plain = getattr(policy, "name", "") == "float32" and not isinstance(operation, PIXEL_LAYERS)
        if self._precision and plain:
            config["dtype"] = self._precision
        config["trainable"] = True
        return type(operation).from_config(config)
