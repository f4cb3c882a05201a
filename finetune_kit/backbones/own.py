"""A Keras model of the user's as a backbone: its body up to the feature map, on raw pixels."""

import dataclasses
import os
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import catalogue, graphs, model_files, scaling, tokens, tops
from finetune_kit.data import sizes

# Scalings that are the same for every channel, so that any number of them can have them.
GREY = ("none", "unit", "tf")


@dataclasses.dataclass(frozen=True)
class Own:
    """What becomes of a user's model.

    Attributes:
        model: float32 [b, height, width, N] in [0, 255] to its feature map [b, h, w, c].
        head: From that map at the model's own size to logits [b, C]; None without one.
        weights: "own", or "none" for random ones.
    """

    model: keras.Model
    head: keras.Model | None
    weights: str


def load(
    network: str | os.PathLike[str] | keras.Model,
    *,
    image_size: sizes.Size,
    weights: str = "",
    preprocessing: str = "none",
    precision: str = "float32",
    channels: int = sizes.COLOURS,
) -> Own:
    """Returns a copy of a user's model as a backbone; the model itself is left as it is.

    Augmentations are left out, and the resizing with which a model of images of any size begins;
    models inside it are unfolded, and what stands behind the feature map is taken off. A model of
    grey images gets the grey value (ITU-R BT.601) of RGB images that it is shown.

    Args:
        network: A functional or sequential model from images [b, h, w, 3], [b, h, w, 1] or
            [b, h, w, N] to a map or to scores, or the `.keras` file of one.
        image_size: Side in pixels of the images that the backbone takes, or (height, width).
        weights: "" for the model's own, "none" for random ones.
        preprocessing: What the model expects, one of `catalogue.PREPROCESSING`.
        precision: Policy of the layers that compute in float32.
        channels: N of the images; for others than its own, a model of RGB images is still one of
            these, see `stems`.

    Raises:
        ConfigError: The model is no such model, or cannot be built at that size.
        WeightsError: The file is missing or damaged, or weights from elsewhere are asked for.
        UntrustedFileError: The file holds Python code.
    """
    checks.one_of("preprocessing", preprocessing, catalogue.PREPROCESSING)
    catalogue.refuse_foreign_weights(weights)
    given = graphs.functional(
        network if isinstance(network, keras.Model) else _read(os.fspath(network))
    )
    own = given.inputs[0].shape[-1] or sizes.COLOURS
    _check_channels(given.name, own, channels, preprocessing)
    flat = graphs.rebuilt(given, keras.Input((*given.inputs[0].shape[1:3], own)))
    features = tops.find_map(flat)
    head = None if None in features.shape[1:] or weights else tops.head_of(flat, features)
    before = graphs.resized(flat)
    images, colours = _inputs(image_size, own, channels)
    model = _at_size(
        keras.Model(before[1] if before else flat.inputs[0], features, name=given.name),
        scaling.preprocess(colours, preprocessing),
        images,
        keep_weights=not weights,
        precision="" if precision == "float32" else precision,
    )
    return Own(model, head, weights or catalogue.OWN)


def default_size(model: keras.Model) -> int:
    """Returns the side in pixels of a model's own input, or `catalogue.ANY_SIDE` if any will do.

    It is the longer one, and that of its resizing where the model begins with one.
    """
    given = graphs.functional(model)
    before = graphs.resized(given)
    shape = before[0] if before else tuple(given.inputs[0].shape[1:])
    return model_files.side(shape) or catalogue.ANY_SIDE


def _at_size(body: keras.Model, x: Any, images: Any, **options: Any) -> keras.Model:
    size = sizes.canonical(images.shape[1:3])
    try:
        model = graphs.rebuilt(body, x, inputs=images, **options)
        if len(model.outputs[0].shape) == 3:
            if not isinstance(size, int):
                raise ValueError("its tokens are taken for the patches of a square")
            model = keras.Model(images, tokens.as_map(model.outputs[0]), name=body.name)
    # Keras raises a ValueError or TypeError where a layer does not take what the one before gives.
    except (ValueError, TypeError) as error:
        raise checks.ConfigError(
            f"{body.name} takes {tuple(body.inputs[0].shape)} and cannot be built for others. "
            f"Received: image_size={size}, {' '.join(str(error).split())[:200]}"
        ) from error
    if any(side < 1 for side in model.outputs[0].shape[1:3]):
        raise checks.ConfigError(
            f"{body.name} needs larger images. Received: image_size={size}, of which "
            f"nothing is left at its map {tuple(model.outputs[0].shape)}"
        )
    return model


def _inputs(image_size: sizes.Size, own: int, channels: int) -> tuple[Any, Any]:
    """Returns the images of a backbone, and of them what its model takes, [b, h, w, own].

    Of other channels than its own, `stems` makes a backbone of one that takes RGB.
    """
    if own == channels:
        images = keras.Input(sizes.shape(image_size, channels), name="pixels")
        return images, images
    images = keras.Input(sizes.shape(image_size), name="pixels")
    return images, keras.ops.image.rgb_to_grayscale(images) if own == 1 else images


def _check_channels(name: str, own: int, channels: int, preprocessing: str) -> None:
    catalogue.refuse_channels(name, own, channels)
    if own != sizes.COLOURS and preprocessing not in GREY:
        kind = "grey images" if own == 1 else f"images of {own} channels"
        raise checks.ConfigError(
            f"{name} takes {kind}, for which preprocessing is one of {', '.join(GREY)}. "
            + checks.received(preprocessing=preprocessing)
        )


def _read(path: str) -> keras.Model:
    """Returns the model in a `.keras` file; runs no code that the file may hold."""
    facts = model_files.read(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # by the kind of damage, Keras raises nearly anything
        if "safe_mode" in str(error):
            raise checks.UntrustedFileError(
                f"A model must be made of Keras layers alone. Received: {path!r}, which holds "
                "Python code. Load it only where its author is trusted, with "
                "keras.saving.load_model(path, safe_mode=False), and give backbones.load the model."
            ) from error
        if facts.custom:
            raise checks.ConfigError(
                f"A model must be made of layers that Keras knows. Received: {path!r} with "
                f"{', '.join(facts.custom[:3])}{' …' if len(facts.custom) > 3 else ''}. Import "
                "what defines them, with keras.saving.register_keras_serializable, or give "
                "backbones.load the model."
            ) from error
        raise checks.WeightsError(
            f"--backbone needs a whole .keras file. Received: {path!r}, "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
