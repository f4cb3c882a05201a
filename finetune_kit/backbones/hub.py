"""Presets of KerasHub as backbones: convolutional networks, ViT, DeiT and Swin, on raw pixels."""

import dataclasses
import os
import pathlib
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import catalogue, graphs, hub_names, scaling, swin, tokens
from finetune_kit.data import sizes

CONVERTERS = ("preprocessor.json", "image_converter.json")


@dataclasses.dataclass(frozen=True)
class Preset:
    """What becomes of a preset.

    Attributes:
        model: float32 [b, h, w, 3] in [0, 255] to its feature map [b, h, w, c].
        preprocessing: One of `catalogue.PREPROCESSING`; "" where the preset itself scales.
    """

    model: keras.Model
    preprocessing: str


def load(
    name: str, *, image_size: sizes.Size, weights: str = "", preprocessing: str = ""
) -> Preset:
    """Returns the backbone of a preset, made of Keras' own layers.

    The map of a transformer is that of its patches; class tokens are left out behind the last
    layer. Positions are interpolated where the images have another size than the preset's.

    Args:
        name: `hub:PRESET` or `hub:FOLDER`, whatever `keras_hub.models.Backbone.from_preset` takes.
        image_size: Side of the images, or (height, width).
        weights: "" for the preset's own, "none" for random ones.
        preprocessing: One of `catalogue.PREPROCESSING`; "" is the preset's image converter, or raw
            pixels where it has none.

    Raises:
        ConfigError: A network of layers that are not Keras' own, or a size it cannot take.
        EnvironmentFault: KerasHub is not installed.
        WeightsError: The preset cannot be had.
    """
    preset = hub_names.preset(name)
    backbone = _backbone(preset, load_weights=not weights)
    images = keras.Input(sizes.shape(image_size), name="pixels")
    x, mode = _scaled(images, preset, preprocessing)
    for part in (tokens, swin):
        if part.is_known(backbone):
            x = part.rebuilt(backbone, x, keep_weights=not weights)
            return Preset(keras.Model(images, x, name=backbone.name), mode)
    graph = graphs.functional(backbone)
    _refuse_foreign(graph, name)
    policy = keras.mixed_precision.dtype_policy().name
    try:
        model = graphs.rebuilt(
            graph,
            x,
            inputs=images,
            keep_weights=not weights,
            precision="" if policy == "float32" else policy,
        )
    except (ValueError, TypeError) as error:
        raise checks.ConfigError(
            f"{name} cannot be built so. Received: image_size={image_size}, "
            f"{' '.join(str(error).split())[:200]}"
        ) from error
    return Preset(model, mode)


def _backbone(preset: str, *, load_weights: bool) -> keras.Model:
    import keras_hub

    try:
        return keras_hub.models.Backbone.from_preset(
            preset, load_weights=load_weights, dtype="float32"
        )
    except Exception as error:  # downloads, configurations and files fail in many ways
        raise checks.WeightsError(
            f"--backbone=hub: needs a preset that KerasHub can load. Received: {preset!r}, "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _scaled(images: Any, preset: str, preprocessing: str) -> tuple[Any, str]:
    """Returns pixels as the preset wants them, and the name of that scaling."""
    checks.one_of("preprocessing", preprocessing or "none", catalogue.PREPROCESSING)
    if preprocessing:
        return scaling.preprocess(images, preprocessing), preprocessing
    converter = _converter(preset)
    scale, offset = getattr(converter, "scale", None), getattr(converter, "offset", None)
    if scale is None and offset is None:
        return images, "none"
    layer = keras.layers.Rescaling(
        1.0 if scale is None else scale, offset=0.0 if offset is None else offset, dtype="float32"
    )
    return layer(images), ""


def _converter(preset: str) -> Any:
    import keras_hub

    if os.path.isdir(preset) and not any((pathlib.Path(preset) / n).is_file() for n in CONVERTERS):
        return None
    try:
        return keras_hub.layers.ImageConverter.from_preset(preset)
    except Exception:  # a preset without a converter; there is no way to ask
        return None


def _refuse_foreign(model: keras.Model, name: str) -> None:
    foreign = {
        type(layer).__name__
        for layer in model.layers
        if not type(layer).__module__.startswith("keras.src")
    }
    if foreign:
        raise checks.ConfigError(
            "Of KerasHub's networks, those of Keras' own layers, ViT, DeiT and Swin can be a "
            f"backbone. Received: backbone={name!r}, with {', '.join(sorted(foreign)[:3])}"
        )
