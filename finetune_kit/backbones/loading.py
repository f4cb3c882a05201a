"""Backbones by name: preprocessing bound to them, weights checked, stages found."""

import contextlib
import dataclasses
import functools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import (
    card,
    catalogue,
    graphs,
    hub,
    hub_names,
    keys,
    known,
    network,
    own,
    stages,
    stems,
    taps,
    types,
)
from finetune_kit.data import sizes


def load(
    name: str | keras.Model,
    *,
    image_size: sizes.Size = 0,
    weights: str = "",
    arguments: Mapping[str, Any] | None = None,
    precision: str = "float32",
    seed: int = 0,
    source_card: str = "",
    preprocessing: str = "",
    channels: int = stems.COLOURS,
    min_loaded: float = catalogue.MIN_LOADED,
) -> types.Backbone:
    """Returns a network from raw pixels to features, with its weights and its stages.

    Args:
        name: As in `catalogue.canonical`, or a functional model; see `own.load` and `hub.load`.
        image_size: Side of the input in pixels, or (height, width); 0 is the network's default.
        weights: "imagenet", "none" (random), or a file, see `known.make`; "" is the bundled
            file, "imagenet", or a model's own.
        arguments: Arguments of the constructor, such as `{"alpha": 0.25}`.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        seed: Draws random weights; the caller's random state is left as it was.
        source_card: What `finetune-kit source-card` wrote for it; "" is the bundled one, if any.
        preprocessing: What a model of one's own expects, see `own.load`; "" is raw pixels.
        channels: Of the images, N; see `stems.with_channels`, and `own.load` for a model of N.
        min_loaded: Smallest share of the network's parameters that a file must give.

    Raises:
        ConfigError: An unknown name, precision or argument, an argument that the kit sets itself,
            an image below the minimum size, or a network that cannot be adapted.
        WeightsError: The file or the card is missing, damaged or made for another network, or the
            ImageNet weights cannot be downloaded.
        UntrustedFileError: A file holds code.
    """
    is_own = isinstance(name, keras.Model) or catalogue.is_own(name)
    build = functools.partial(_own, channels=channels) if is_own else _known
    with dtype_policy(precision), _seeded(seed):
        made = build(name, image_size, weights, dict(arguments or {}), preprocessing)
        keys.refuse_poor(made.keys, min_loaded, source=made.weights, network=made.model.name)
        made = _oblong(made, image_size)
        model = stems.with_channels(made.model, channels)
    found = stages.find_stages(model)
    return dataclasses.replace(
        made,
        model=model,
        stages=found,
        card=_card(source_card, made.weights, model, found, made.image_size),
        preprocessing=made.preprocessing if channels == stems.COLOURS else "",
    )


def _oblong(backbone: types.Backbone, size: sizes.Size) -> types.Backbone:
    """Returns a backbone built once more for (height, width), if it was built for a square.

    Raises:
        ConfigError: The network needs a square.
    """
    height, width = sizes.sides(size)
    if height == width or backbone.model.inputs[0].shape[1:3] == (height, width):
        return backbone
    pixels = keras.Input((height, width, stems.COLOURS), name="pixels")
    try:
        model = graphs.rebuilt(backbone.model, pixels)
    except (ValueError, TypeError) as error:
        raise checks.ConfigError(
            f"{backbone.name} cannot be built for images that are not square. Received: "
            f"image_size={size}, {' '.join(str(error).split())[:200]}"
        ) from error
    return dataclasses.replace(backbone, model=model, image_size=(height, width))


def _known(
    name: Any, image_size: sizes.Size, source: str, arguments: dict[str, Any], preprocessing: str
) -> types.Backbone:
    """Returns a network of the catalogue, its stages not yet found.

    It takes squares of the longer side, for which Keras' constructors find their weights silently.
    """
    name = catalogue.canonical(name)
    size = max(sizes.sides(catalogue.image_size(name, image_size)))
    catalogue.refuse_unfit(name, preprocessing=preprocessing)
    catalogue.check_arguments(name, arguments)
    made = known.make(name, size, source, arguments)
    return types.Backbone(
        name=name,
        model=made.model,
        stages=(),
        image_size=size,
        weights=made.weights,
        source_classes=int(made.head.output_shape[-1]) if made.head else made.source_classes,
        head=made.head,
        arguments=made.arguments,
        preprocessing=made.preprocessing or catalogue.entry(name).preprocessing,
        keys=made.report,
    )


def _preset(name: str, image_size: sizes.Size, source: str, preprocessing: str) -> types.Backbone:
    """Returns the backbone of a preset of KerasHub, its stages not yet found."""
    catalogue.refuse_foreign_weights(source)
    made = hub.load(name, image_size=image_size, weights=source, preprocessing=preprocessing)
    return types.Backbone(
        name=name,
        model=made.model,
        stages=(),
        image_size=image_size,
        weights=source or catalogue.OWN,
        preprocessing=made.preprocessing,
    )


def _own(
    given: Any,
    image_size: sizes.Size,
    source: str,
    arguments: dict[str, Any],
    preprocessing: str,
    channels: int,
) -> types.Backbone:
    """Returns a user's own model as a backbone, its stages not yet found."""
    if arguments:
        raise checks.ConfigError(
            "A model of one's own takes no arguments. " + checks.received(backbone_args=arguments)
        )
    if isinstance(given, str):
        name, size = catalogue.canonical(given), catalogue.image_size(given, image_size)
    else:
        name, size = given.name, sizes.canonical(image_size or own.default_size(given))
    if hub_names.is_preset(name):
        return _preset(name, size, source, preprocessing)
    scaled = preprocessing or "none"
    policy = keras.mixed_precision.dtype_policy().name
    made = own.load(
        given, image_size=size, weights=source, preprocessing=scaled, precision=policy,
        channels=channels,
    )  # fmt: skip
    return types.Backbone(
        name=name,
        model=made.model,
        stages=(),
        image_size=size,
        weights=made.weights,
        source_classes=int(made.head.output_shape[-1]) if made.head else None,
        preprocessing=scaled,
        head=made.head,
    )


def _card(
    path: str, source: str, model: keras.Model, found: tuple[types.Stage, ...], size: sizes.Size
) -> card.SourceCard | None:
    """Returns the card that is asked for, or the one that comes with the weights."""
    if not path:
        return card.read(network.FILES, size) if source == catalogue.BUNDLED else None
    given = card.read_file(path)
    card.refuse_unfit(
        given,
        taps.find_taps(model, found),
        features=int(model.outputs[0].shape[-1]),
        path=path,
        network=model.name,
    )
    return given


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds Python's generator, which Keras asks for the seed of every layer made inside."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Sets Keras' global dtype policy for the layers that are made inside.

    Raises:
        ConfigError: None of `catalogue.PRECISIONS`.
    """
    checks.one_of("precision", precision, catalogue.PRECISIONS)
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)
