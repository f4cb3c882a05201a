"""The head that a backbone's weights file holds besides: from feature map to source classes."""

import contextlib
import dataclasses
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import catalogue, classifier, loading, stages, tops, types, weights
from finetune_kit.data import sizes

NAME = "source_head"


@dataclasses.dataclass(frozen=True)
class _Head:
    """The layers of a head in a row, the first of which takes a map of `shape`, (h, w, c)."""

    layers: list[Any]
    shape: tuple[int, ...]


def source_head(backbone: types.Backbone) -> keras.Model | None:
    """Returns the head of the source classes; see `find`, which says why where there is none."""
    return find(backbone)[0]


def find(backbone: types.Backbone) -> tuple[keras.Model | None, str]:
    """Returns the head that was trained with the backbone's weights, and a reason.

    The network is built once more with its head, the same weights are loaded, and the layers
    after the feature map are copied, so that nothing of it stays behind. The backbone itself, which
    may have been tuned since, is not touched.

    Args:
        backbone: As `loading.load` returned it.

    Returns:
        A model from the backbone's feature map [b, h, w, c] to logits float32 [b, source classes],
        and ""; or None, and a sentence that says why: the file holds no head, or one that takes
        larger images or another map than the backbone's, or it cannot be had. Where the head
        flattens and the map is larger than its own, it is moved over the map and its logits are
        averaged (Sermanet et al., 2014, "OverFeat", section 3.3).
    """
    with _undisturbed():
        found, reason = _found(backbone)
        shape = tuple(int(n) for n in backbone.model.output_shape[1:])
        return (None, reason) if found is None else _moved(found, shape, backbone.name)


def keep_dense(backbone: types.Backbone) -> types.Backbone:
    """Returns a backbone whose map has passed the hidden dense layers of the source's head too.

    They become convolutions (see `tops`), so that the backbone takes any image from the size that
    they were trained at on. The last layer, which gives the scores of the source classes, is left.

    Args:
        backbone: As `loading.load` returned it, such as VGG16 or a `.keras` file.

    Raises:
        ConfigError: There is no such head, it has one layer alone, or the images are smaller than
            its own.
    """
    with _undisturbed():
        found, reason = _found(backbone)
    layers = [] if found is None else _hidden(found.layers)
    if found is None or not layers:
        raise checks.ConfigError(
            "Dense layers can be kept where the weights have some besides the last one. "
            f"Received: backbone={backbone.name!r}. {reason or 'Its head has no hidden layer.'}"
        )
    model, size = backbone.model, backbone.image_size
    least = max(sizes.sides(size)) * found.shape[0] // max(model.output_shape[1:3])
    if isinstance(layers[0], keras.layers.Flatten) and _is_smaller(model.output_shape[1:], found):
        raise checks.ConfigError(
            f"{backbone.name} with its dense layers needs images of at least {least} px. "
            + checks.received(image_size=size)
        )
    with _undisturbed():
        kept = tops.convolved(layers, found.shape, dtype=model.layers[-1].dtype_policy)
    longer = keras.Model(model.inputs[0], tops.through(kept, model.outputs[0]), name=model.name)
    return dataclasses.replace(
        backbone,
        model=longer,
        stages=stages.find_stages(longer),
        source_classes=None,
        card=None,
        head=None,
    )


def _found(backbone: types.Backbone) -> tuple[_Head | None, str]:
    """Returns the head that came with a backbone's weights, or None and why not."""
    if backbone.head is not None:
        try:
            return _Head(tops.chain(backbone.head), _shape(backbone.head.inputs[0])), ""
        except checks.ConfigError as error:
            return None, str(error)
    if backbone.source_classes is None:
        return None, f"The weights ({backbone.weights}) hold no head."
    if backbone.name not in catalogue.ENTRIES:
        return None, f"{backbone.name} is none of the networks that can be built with a head."
    network, reason = _network(backbone)
    return (None, reason) if network is None else _behind_the_map(network, backbone.model)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Counts in float32, as a head does whatever the backbone does, and leaves random states."""
    state, policy = random.getstate(), keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
        random.setstate(state)


def _moved(head: _Head, shape: tuple[int, ...], name: str) -> tuple[keras.Model | None, str]:
    """Returns a head for maps of a shape, [b, *shape] to logits, and "" or why there is none."""
    if not isinstance(head.layers[0], keras.layers.Flatten) or head.shape == shape:
        return _copied(head.layers, shape), ""
    if _is_smaller(shape, head):
        return None, f"The head of {name} takes maps of {head.shape}. " + checks.received(
            shape=shape
        )
    maps = keras.Input(shape, name="features", dtype="float32")
    try:
        layers = tops.convolved(head.layers, head.shape, dtype="float32")
    except checks.ConfigError as error:
        return None, str(error)
    average = keras.layers.GlobalAveragePooling2D(name="average", dtype="float32")
    return keras.Model(maps, average(tops.through(layers, maps)), name=NAME), ""


def _is_smaller(shape: tuple[int, ...], head: _Head) -> bool:
    """Returns whether a map [h, w, c] has a side below that of the map that a head takes."""
    return any(side < own for side, own in zip(shape[:2], head.shape[:2], strict=True))


def _network(backbone: types.Backbone) -> tuple[keras.Model | None, str]:
    """Returns the network with a head and the backbone's weights, or None and why not."""
    if backbone.weights == "imagenet":
        try:
            return _application(backbone, "imagenet"), ""
        except Exception as error:  # Keras raises a bare one when a download fails
            entry = catalogue.entry(backbone.name)
            return None, weights.download_advice(error, entry.constructor)
    candidates = [] if backbone.name == catalogue.BUNDLED else [_application]
    candidates += [_native] if backbone.name in catalogue.FLATTENING else []
    try:
        found = weights.read_shapes(backbone.weights)
        for build in (*candidates, _fine_tuned):
            network = build(backbone, None)
            if weights.leftover(weights.kernels(network), found) is not None:
                weights.load_weights(network, backbone.weights)
                return network, ""
    except checks.WeightsError as error:
        return None, str(error)
    return None, (
        f"The head in {backbone.weights} takes images of another side than "
        f"{sizes.shown(backbone.image_size)} px, or is neither that of keras.applications nor the "
        "kit's on the last stage."
    )


def _application(backbone: types.Backbone, source: str | None) -> keras.Model:
    """Returns a network of keras.applications with its head, from preprocessed images to logits."""
    entry = catalogue.entry(backbone.name)
    # ImageNet's weights come at the constructor's own size alone; averaging takes any other.
    shape = {} if source else {"input_shape": sizes.shape(backbone.image_size)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes other than 224 are what we want
        return getattr(keras.applications, entry.constructor)(
            **backbone.arguments,
            **shape,
            include_top=True,
            weights=source,
            classes=backbone.source_classes,
            classifier_activation=None,
        )


def _native(backbone: types.Backbone, source: str | None) -> keras.Model:
    """Returns a network whose head flattens, for the side that it is made for."""
    side = catalogue.FLATTENING[backbone.name]
    return _application(dataclasses.replace(backbone, image_size=side), source)


def _fine_tuned(backbone: types.Backbone, source: str | None) -> keras.Model:
    """Returns the network under the kit's own head, as a fine-tuned file holds it."""
    bare = loading.load(
        backbone.name,
        image_size=backbone.image_size,
        weights="none",
        arguments=backbone.arguments,
    )
    return classifier.attach_head(bare, backbone.source_classes or 0).model


def _behind_the_map(network: keras.Model, bare: keras.Model) -> tuple[_Head | None, str]:
    """Returns the layers of a network behind the map at the end of `bare`, or None and why not."""
    operations = _after_the_map(network)
    if not operations:
        return None, f"{network.name} has no head that starts with one map."
    before = operations[0].input
    prefix = keras.Model(network.inputs[0], before)
    if [w.shape for w in prefix.weights] != [w.shape for w in bare.weights]:
        # ConvNeXt normalises after the average with its head, and before it without.
        return None, f"The head of {network.name} takes another map than the backbone gives."
    return _Head(operations, _shape(before)), ""


def _copied(layers: Sequence[Any], shape: tuple[int, ...]) -> keras.Model:
    """Returns copies of a row of layers as a model from a map to logits."""
    features = x = keras.Input(shape, name="features", dtype="float32")
    for layer in layers:
        copy = type(layer).from_config(layer.get_config())
        x = copy(x)
        copy.set_weights(layer.get_weights())
    return keras.Model(features, x, name=NAME)


def _hidden(layers: list[Any]) -> list[Any]:
    """Returns the layers before the last one with weights; none if no weights are among them."""
    weighted = [i for i, layer in enumerate(layers) if layer.weights]
    return layers[: weighted[-1]] if len(weighted) > 1 else []


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(n) if n else 0 for n in tensor.shape[1:])


def _after_the_map(network: keras.Model) -> list[Any]:
    """Returns the layers from the one that takes the map to the output; none if they branch."""
    operation = network.outputs[0]._keras_history.operation
    passed: list[Any] = []
    found: list[Any] = []
    while isinstance(operation, keras.layers.Layer) and not isinstance(operation.input, list):
        passed.insert(0, operation)
        if isinstance(operation, tops.STARTS) and len(operation.input.shape) == 4:
            found = list(passed)
        history = operation.input._keras_history
        if history.operation is operation or not hasattr(history.operation, "input"):
            break
        operation = history.operation
    return found
