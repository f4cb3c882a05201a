"""Backbones by name: preprocessing bound to them, weights checked, stages found."""

import contextlib
import inspect
import os
import pathlib
import random
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import card, catalogue, network, stages, taps, types, weights

BUNDLED_FILES = pathlib.Path(__file__).parent / "bundled"
IMAGENET_CLASSES = 1000
# Means and deviations of ImageNet's training images, as keras.applications applies them.
CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
TORCH_MEANS = (0.485, 0.456, 0.406)
TORCH_DEVIATIONS = (0.229, 0.224, 0.225)
# Arguments of the constructors that would break what a backbone is: raw pixels to a feature map.
SET_BY_THE_KIT = (
    "include_top",
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "classes",
    "classifier_activation",
    "include_preprocessing",
)


def load(
    name: str,
    *,
    image_size: int = 0,
    weights: str = "",
    arguments: Mapping[str, Any] | None = None,
    precision: str = "float32",
    seed: int = 0,
    source_card: str = "",
) -> types.Backbone:
    """Returns a network from raw pixels to features, with its weights and its stages.

    Args:
        name: "bundled" or a constructor of `keras.applications`, in either spelling.
        image_size: Side of the input in pixels; 0 is the network's default.
        weights: "imagenet", "none" (random), a `.weights.h5` or legacy `.h5` file; "" is the
            bundled file for the bundled network and "imagenet" for the others.
        arguments: Arguments of the constructor, such as `{"alpha": 0.25}`. The width of a
            MobileNet is otherwise read from the shapes in the weights file.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        seed: Draws random weights; the caller's random state is left as it was.
        source_card: A file that `finetune-kit source-card` wrote for this network; "" is the
            bundled card for the bundled weights and none for others.

    Raises:
        ConfigError: An unknown name, precision or argument, an argument that the kit sets itself,
            or an image below the minimum size.
        WeightsError: The file or the card is missing, damaged or made for another network, or the
            ImageNet weights cannot be downloaded.
    """
    checks.one_of("precision", precision, catalogue.PRECISIONS)
    name = catalogue.canonical(name)
    size = catalogue.image_size(name, image_size)
    build = _bundled if name == catalogue.BUNDLED else _application
    with _policy(precision), _seeded(seed):
        model, source, source_classes, given = build(name, size, weights, dict(arguments or {}))
    found = stages.find_stages(model)
    return types.Backbone(
        name=name,
        model=model,
        stages=found,
        image_size=size,
        weights=source,
        source_classes=source_classes,
        card=_card(source_card, source, model, found),
        arguments=given,
    )


def _card(
    path: str, source: str, model: keras.Model, found: tuple[types.Stage, ...]
) -> card.SourceCard | None:
    """Returns the card that is asked for, or the one that comes with the weights."""
    if not path:
        return card.read(BUNDLED_FILES) if source == catalogue.BUNDLED else None
    given = card.read_file(path)
    card.refuse_unfit(
        given,
        taps.find_taps(model, found),
        features=int(model.outputs[0].shape[-1]),
        path=path,
        network=model.name,
    )
    return given


def preprocess(pixels: Any, mode: str) -> Any:
    """Returns pixels float32 [b, s, s, 3] in [0, 255] as a network wants them, as Keras layers.

    Args:
        pixels: Symbolic or eager tensor.
        mode: One of `catalogue.PREPROCESSING`; equals `keras.applications.*.preprocess_input`,
            in float32 whatever the precision of the network.
    """
    if mode == "tf":
        return _rescaling(1 / 127.5, -1.0)(pixels)
    if mode == "caffe":
        bgr = keras.ops.flip(pixels, axis=-1)
        return _rescaling(1.0, [-mean for mean in CAFFE_MEANS_BGR])(bgr)
    if mode == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_DEVIATIONS]
        offset = [-m / d for m, d in zip(TORCH_MEANS, TORCH_DEVIATIONS, strict=True)]
        return _rescaling(scale, offset)(pixels)
    return pixels


def _rescaling(scale: float | list[float], offset: float | list[float]) -> keras.layers.Layer:
    # In bfloat16 neighbouring grey levels would become one.
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32")


def _bundled(
    name: str, size: int, source: str, arguments: dict[str, Any]
) -> tuple[keras.Model, str, int | None, dict[str, Any]]:
    """Returns (model, weights, classes of the head in the weights file, arguments)."""
    if arguments:
        raise checks.ConfigError(
            f"The {name} backbone takes no arguments. " + checks.received(backbone_args=arguments)
        )
    if size > network.MAX_SIZE:
        raise checks.ConfigError(
            f"The bundled backbone takes images of {network.MIN_SIZE} to {network.MAX_SIZE} px. "
            + checks.received(image_size=size)
        )
    model = network.build(size)
    if source == "imagenet":
        raise checks.WeightsError(
            "The bundled backbone has no ImageNet weights. Received: weights='imagenet'. Leave "
            "--weights out, or choose another --backbone."
        )
    if source == "none":
        return model, source, None, arguments
    path = source or os.fspath(BUNDLED_FILES / "bundled.weights.h5")
    rest = weights.leftover(weights.kernels(model), weights.read_shapes(path))
    weights.load_weights(model, path)
    return model, source or catalogue.BUNDLED, weights.head_width(rest or []), arguments


def _application(
    name: str, size: int, source: str, arguments: dict[str, Any]
) -> tuple[keras.Model, str, int | None, dict[str, Any]]:
    """Returns (model, weights, classes of the head in the weights file, arguments)."""
    entry = catalogue.entry(name)
    source = source or "imagenet"
    if source == "none":
        return _construct(entry, size, arguments, None), source, None, arguments
    if source == "imagenet":
        return _construct(entry, size, arguments, source), source, IMAGENET_CLASSES, arguments
    found = weights.read_shapes(source)
    model, rest, fitting = _fitting(entry, size, arguments, found, source)
    weights.load_weights(model, source)
    return model, source, weights.head_width(rest), fitting


def _fitting(
    entry: catalogue.Entry,
    size: int,
    arguments: dict[str, Any],
    found: weights.FileShapes,
    source: str,
) -> tuple[keras.Model, list[tuple[int, ...]], dict[str, Any]]:
    """Returns the network whose kernels are all in the file, the others, and its arguments."""
    constructor = getattr(keras.applications, entry.constructor)
    takes_alpha = "alpha" in inspect.signature(constructor).parameters
    candidates = [arguments]
    if takes_alpha and "alpha" not in arguments:
        candidates = [{**arguments, "alpha": alpha} for alpha in weights.alphas_by_stem(found)]
    for candidate in candidates:
        model = _construct(entry, size, candidate, None)
        rest = weights.leftover(weights.kernels(model), found)
        if rest is not None:
            return model, rest, candidate
    widths = " of any width" if len(candidates) > 1 else ""
    raise checks.WeightsError(
        f"The weights must be those of {entry.constructor}{widths}. Received: {source!r}, whose "
        f"{len(found.kernels)} kernels do not fit {arguments or 'its defaults'}."
    )


def _construct(
    entry: catalogue.Entry, size: int, arguments: dict[str, Any], source: str | None
) -> keras.Model:
    constructor = getattr(keras.applications, entry.constructor)
    allowed = [p for p in inspect.signature(constructor).parameters if p not in SET_BY_THE_KIT]
    for argument in arguments:
        checks.one_of("backbone_args", argument, allowed)
    pixels = keras.Input((size, size, 3), name="pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes other than 224 are what we want
            model = constructor(
                **arguments,
                include_top=False,
                weights=source,
                input_tensor=preprocess(pixels, entry.preprocessing),
            )
            # The constructors ask for a list of one input, and warn of whoever calls with a tensor.
            return keras.Model(pixels, model.outputs[0], name=model.name)
    # Keras raises a bare Exception when a download fails, and a ValueError for an argument that
    # will not do as for a download that came damaged.
    except Exception as error:
        of_argument = isinstance(error, ValueError | TypeError) and "corrupted" not in str(error)
        if source and not of_argument:
            raise checks.WeightsError(weights.download_advice(error, entry.constructor)) from error
        raise checks.ConfigError(
            f"{entry.constructor} cannot be built so. Received: image_size={size}, "
            f"{arguments or 'no arguments'}: {' '.join(str(error).split())[:200]}"
        ) from error


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
def _policy(precision: str) -> Iterator[None]:
    """Sets Keras' global dtype policy for the layers that are made inside."""
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(before)
