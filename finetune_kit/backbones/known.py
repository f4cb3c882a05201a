"""Networks of the catalogue with weights of every kind: ImageNet's, random, or from a file."""

import dataclasses
import inspect
import os
import warnings
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import (
    building,
    catalogue,
    foreign,
    keys,
    kinds,
    model_files,
    network,
    scaling,
    specification,
    torch_forms,
    weights,
)

IMAGENET_CLASSES = 1000
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


@dataclasses.dataclass(frozen=True)
class Made:
    """A network with its weights; see `types.Backbone`, where `report` is called `keys`."""

    model: keras.Model
    weights: str
    arguments: dict[str, Any]
    source_classes: int | None = None
    report: keys.KeyReport | None = None
    preprocessing: str = ""
    head: keras.Model | None = None


def make(name: str, size: int, source: str, arguments: dict[str, Any]) -> Made:
    """Returns a network of the catalogue with its weights, random ones drawn from Keras' seed.

    Args:
        name: In the catalogue.
        size: Side of the input in pixels.
        source: "imagenet", "none", a `.weights.h5` or legacy `.h5` file, which must fit whole, a
            `.keras` file, whose layers are matched by name and shape, or a `.safetensors`, a state
            dict of torchvision or timm, for a network in torch's form; "" is the bundled file, or
            "imagenet".
        arguments: Of the constructor, checked by `catalogue.check_arguments`. The width of a
            MobileNet is otherwise read from the shapes in the file.

    Raises:
        ConfigError: An argument that the constructor does not take, or a size.
        WeightsError: The file is missing, damaged or made for another network, or ImageNet's
            weights cannot be downloaded.
        UntrustedFileError: The file holds code.
        EnvironmentFault: The package that reads the file is not installed.
    """
    kinds.refuse_unreadable(source)
    if kinds.kind_of(source) == kinds.SAFETENSORS:
        return _of_torch(name, size, source, arguments)
    if kinds.kind_of(source) == model_files.SUFFIX:
        return _of_keras(name, size, source, arguments)
    if source == "none":
        return Made(_bare(name, size, arguments), source, arguments)
    own = not catalogue.entry(name).constructor
    return (_of_the_kit if own else _application)(name, size, source, arguments)


def _bare(name: str, size: int, arguments: dict[str, Any]) -> keras.Model:
    """Returns a network with random weights."""
    if catalogue.is_specified(name):
        line = name.removeprefix(specification.PREFIX)
        return building.build(line, size, any_filters=bool(arguments.get("any_filters")))
    if name != catalogue.BUNDLED:
        return _construct(catalogue.entry(name), size, arguments, None)
    return network.build(size)


def _of_the_kit(name: str, size: int, source: str, arguments: dict[str, Any]) -> Made:
    """Returns the bundled network, or one of a specification, with the weights of a file."""
    model = _bare(name, size, arguments)
    is_bundled = name == catalogue.BUNDLED
    if source == "imagenet" or not (source or is_bundled):
        what = "The bundled backbone" if is_bundled else "A network of a specification"
        hint = "Leave --weights out" if is_bundled else "Give --weights=none or a file"
        raise checks.WeightsError(
            f"{what} has no ImageNet weights. Received: weights={source!r}. {hint}, or choose "
            "another --backbone."
        )
    path = source or os.fspath(network.FILES / "bundled.weights.h5")
    rest = weights.leftover(weights.kernels(model), weights.read_shapes(path)) or []
    weights.load_weights(model, path)
    report = keys.complete(model, unused=rest)
    return Made(
        model, source or catalogue.BUNDLED, arguments, weights.head_width(rest), report=report
    )


def _application(name: str, size: int, source: str, arguments: dict[str, Any]) -> Made:
    """Returns a network of keras.applications with ImageNet's weights or those of an HDF5 file."""
    entry = catalogue.entry(name)
    source = source or "imagenet"
    if source == "imagenet":
        model = _construct(entry, size, arguments, source)
        return Made(model, source, arguments, IMAGENET_CLASSES, report=keys.complete(model))
    found = weights.read_shapes(source)
    fit = _fitting(name, size, arguments, found)
    if fit is None:
        widths = " of any width" if len(_candidates(name, arguments, found)) > 1 else ""
        raise checks.WeightsError(
            f"The weights must be those of {entry.constructor}{widths}. Received: {source!r}, "
            f"whose {len(found.kernels)} kernels do not fit {arguments or 'its defaults'}."
        )
    model, rest, fitting = fit
    weights.load_weights(model, source)
    report = keys.complete(model, unused=rest)
    return Made(model, source, fitting, weights.head_width(rest), report=report)


def _of_keras(name: str, size: int, source: str, arguments: dict[str, Any]) -> Made:
    """Returns a network with those layers of a saved model that have its names and shapes."""
    saved = foreign.read_keras(source)
    found = weights.FileShapes(tuple(weights.kernels(saved)))
    fit = _fitting(name, size, arguments, found)
    model, given = (fit[0], fit[2]) if fit else (_bare(name, size, arguments), arguments)
    return Made(model, source, given, report=foreign.load_keras(model, saved, source))


def _of_torch(name: str, size: int, source: str, arguments: dict[str, Any]) -> Made:
    """Returns a network in torch's form with the weights of a state dict."""
    form = torch_forms.form_of(name)
    tensors = foreign.read_safetensors(source)
    given = {**torch_forms.width(name, tensors), **arguments}
    entry = dataclasses.replace(catalogue.entry(name), preprocessing=form.preprocessing)
    model = torch_forms.as_torch(_construct(entry, size, given, None), form)
    report = foreign.load_torch(model, form, tensors)
    head = foreign.torch_head(report, tensors, model.output_shape[-1])
    return Made(model, source, given, report=report, preprocessing=form.preprocessing, head=head)


def _candidates(
    name: str, arguments: dict[str, Any], found: weights.FileShapes
) -> list[dict[str, Any]]:
    """Returns the arguments that may fit a file: of a MobileNet, one for each width."""
    constructor = catalogue.entry(name).constructor
    if not constructor or "alpha" in arguments:
        return [arguments]
    if "alpha" not in inspect.signature(getattr(keras.applications, constructor)).parameters:
        return [arguments]
    return [{**arguments, "alpha": alpha} for alpha in weights.alphas_by_stem(found)]


def _fitting(
    name: str, size: int, arguments: dict[str, Any], found: weights.FileShapes
) -> tuple[keras.Model, list[tuple[int, ...]], dict[str, Any]] | None:
    """Returns the network whose kernels are all in the file, the others, and its arguments."""
    for candidate in _candidates(name, arguments, found):
        model = _bare(name, size, candidate)
        rest = weights.leftover(weights.kernels(model), found)
        if rest is not None:
            return model, rest, candidate
    return None


def _construct(
    entry: catalogue.Entry, size: int, arguments: dict[str, Any], source: str | None
) -> keras.Model:
    constructor = getattr(keras.applications, entry.constructor)
    allowed = [p for p in inspect.signature(constructor).parameters if p not in SET_BY_THE_KIT]
    for argument in arguments:
        checks.one_of("backbone_args", argument, allowed)
    images = keras.Input((size, size, 3), name="pixels")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes other than 224 are what we want
            model = constructor(
                **arguments,
                include_top=False,
                weights=source,
                input_tensor=scaling.preprocess(images, entry.preprocessing),
            )
            # The constructors ask for a list of one input, and warn of whoever calls with a tensor.
            return keras.Model(images, model.outputs[0], name=model.name)
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
