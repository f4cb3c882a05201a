"""The head that a backbone's weights file holds besides: from feature map to source classes."""

import random
import warnings
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import catalogue, classifier, loading, types, weights

NAME = "source_head"
# Where a map [b, h, w, c] becomes a vector: the first layer of every head of keras.applications.
STARTS = (keras.layers.GlobalAveragePooling2D, keras.layers.Flatten)


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
        images of another size or another map than the backbone's, or it cannot be had.
    """
    if backbone.source_classes is None:
        return None, f"The weights ({backbone.weights}) hold no head."
    if backbone.name not in catalogue.ENTRIES:
        return None, f"{backbone.name} is none of the networks that can be built with a head."
    state, policy = random.getstate(), keras.mixed_precision.dtype_policy()
    # A head counts in float32 whatever the backbone does, and its random weights are overwritten.
    keras.mixed_precision.set_dtype_policy("float32")
    try:
        network, reason = _network(backbone)
        return (None, reason) if network is None else _copied(network, backbone.model)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
        random.setstate(state)


def _network(backbone: types.Backbone) -> tuple[keras.Model | None, str]:
    """Returns the network with a head and the backbone's weights, or None and why not."""
    if backbone.weights == "imagenet":
        try:
            return _application(backbone, "imagenet"), ""
        except Exception as error:  # Keras raises a bare one when a download fails
            entry = catalogue.entry(backbone.name)
            return None, weights.download_advice(error, entry.constructor)
    candidates = [] if backbone.name == catalogue.BUNDLED else [_application]
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
        f"The head in {backbone.weights} takes images of another side than {backbone.image_size} "
        f"px, or is neither that of keras.applications nor the kit's on the last stage."
    )


def _application(backbone: types.Backbone, source: str | None) -> keras.Model:
    """Returns a network of keras.applications with its head, from preprocessed images to logits."""
    entry = catalogue.entry(backbone.name)
    # ImageNet's weights come at the constructor's own size alone; averaging takes any other.
    side = backbone.image_size
    shape = {} if source else {"input_shape": (side, side, 3)}
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


def _fine_tuned(backbone: types.Backbone, source: str | None) -> keras.Model:
    """Returns the network under the kit's own head, as a fine-tuned file holds it."""
    bare = loading.load(
        backbone.name,
        image_size=backbone.image_size,
        weights="none",
        arguments=backbone.arguments,
    )
    return classifier.attach_head(bare, backbone.source_classes or 0).model


def _copied(network: keras.Model, bare: keras.Model) -> tuple[keras.Model | None, str]:
    """Returns a copy of the layers after the map at the end of `bare`, and "" or a reason."""
    operations = _after_the_map(network)
    if not operations:
        return None, f"{network.name} has no head that starts with one map."
    before = operations[0].input
    prefix = keras.Model(network.inputs[0], before)
    if [w.shape for w in prefix.weights] != [w.shape for w in bare.weights]:
        # ConvNeXt normalises after the average with its head, and before it without.
        return None, f"The head of {network.name} takes another map than the backbone gives."
    shape = tuple(bare.output_shape[1:])
    if isinstance(operations[0], keras.layers.Flatten) and tuple(before.shape[1:]) != shape:
        return None, (
            f"The head of {network.name} takes maps of {tuple(before.shape[1:])}. "
            + checks.received(shape=shape)
        )
    features = x = keras.Input(shape, name="features", dtype="float32")
    for operation in operations:
        copy = type(operation).from_config(operation.get_config())
        x = copy(x)
        copy.set_weights(operation.get_weights())
    return keras.Model(features, x, name=NAME), ""


def _after_the_map(network: keras.Model) -> list[Any]:
    """Returns the layers from the one that takes the map to the output; none if they branch."""
    operation = network.outputs[0]._keras_history.operation
    passed: list[Any] = []
    found: list[Any] = []
    while isinstance(operation, keras.layers.Layer) and not isinstance(operation.input, list):
        passed.insert(0, operation)
        if isinstance(operation, STARTS) and len(operation.input.shape) == 4:
            found = list(passed)
        history = operation.input._keras_history
        if history.operation is operation or not hasattr(history.operation, "input"):
            break
        operation = history.operation
    return found
