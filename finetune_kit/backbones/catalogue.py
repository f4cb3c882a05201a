"""The networks that can be a backbone, by name; no Keras is imported to look one up."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, overload

from finetune_kit import checks
from finetune_kit.backbones import hub_names, model_files, specification
from finetune_kit.data import sizes

BUNDLED = "bundled"
OWN = "own"  # what the weights of a model of one's own are called
# How raw [0, 255] pixels become what the network was trained on.
#   none    inside the network        tf     x / 127.5 - 1
#   caffe   BGR minus ImageNet means  torch  ImageNet mean and standard deviation
#   unit    x / 255
PREPROCESSING = ("none", "unit", "tf", "caffe", "torch")
# What becomes of hidden dense layers behind the features: left out, or kept as convolutions.
KEPT = "convolve"
DENSE_TOPS = ("drop", KEPT)
# Networks whose head flattens the map: side in pixels that it is made for.
FLATTENING = {"vgg16": 224, "vgg19": 224}
ANY_SIDE = 128  # default of a user's own model that takes images of any side
# Least share of a network's parameters that a weights file must give, of which a head is no part:
# with less, fine-tuning would rest on random layers in the midst of trained ones.
MIN_LOADED = 0.9
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a network before it is built.

    Attributes:
        constructor: Name in `keras.applications`; "" for the bundled network, those of a
            specification and a user's own.
        preprocessing: One of `PREPROCESSING`; of a user's own model, what holds unless told.
        min_size: Smallest input side in pixels that the constructor accepts.
        default_size: Input side that is used unless another is asked for; a power of two (S1), or
            the side of a user's own model.
        max_size: Largest input side in pixels, None where there is none.
    """

    constructor: str
    preprocessing: str
    min_size: int = 32
    default_size: int = 128
    max_size: int | None = None


ENTRIES: dict[str, Entry] = {
    BUNDLED: Entry("", "tf", 32, 32, 128),
    "convnext_tiny": Entry("ConvNeXtTiny", "none"),
    "convnext_small": Entry("ConvNeXtSmall", "none"),
    "convnext_base": Entry("ConvNeXtBase", "none"),
    "convnext_large": Entry("ConvNeXtLarge", "none"),
    "convnext_xlarge": Entry("ConvNeXtXLarge", "none"),
    "densenet121": Entry("DenseNet121", "torch"),
    "densenet169": Entry("DenseNet169", "torch"),
    "densenet201": Entry("DenseNet201", "torch"),
    "efficientnet_b0": Entry("EfficientNetB0", "none"),
    "efficientnet_b1": Entry("EfficientNetB1", "none"),
    "efficientnet_b2": Entry("EfficientNetB2", "none"),
    "efficientnet_b3": Entry("EfficientNetB3", "none"),
    "efficientnet_b4": Entry("EfficientNetB4", "none"),
    "efficientnet_b5": Entry("EfficientNetB5", "none"),
    "efficientnet_b6": Entry("EfficientNetB6", "none"),
    "efficientnet_b7": Entry("EfficientNetB7", "none"),
    "efficientnet_v2_b0": Entry("EfficientNetV2B0", "none"),
    "efficientnet_v2_b1": Entry("EfficientNetV2B1", "none"),
    "efficientnet_v2_b2": Entry("EfficientNetV2B2", "none"),
    "efficientnet_v2_b3": Entry("EfficientNetV2B3", "none"),
    "efficientnet_v2_s": Entry("EfficientNetV2S", "none"),
    "efficientnet_v2_m": Entry("EfficientNetV2M", "none"),
    "efficientnet_v2_l": Entry("EfficientNetV2L", "none"),
    "inception_resnet_v2": Entry("InceptionResNetV2", "tf", 75),
    "inception_v3": Entry("InceptionV3", "tf", 75),
    "mobilenet": Entry("MobileNet", "tf"),
    "mobilenet_v2": Entry("MobileNetV2", "tf"),
    "mobilenet_v3_small": Entry("MobileNetV3Small", "none"),
    "mobilenet_v3_large": Entry("MobileNetV3Large", "none"),
    "nasnet_mobile": Entry("NASNetMobile", "tf"),
    "nasnet_large": Entry("NASNetLarge", "tf"),
    "resnet50": Entry("ResNet50", "caffe"),
    "resnet101": Entry("ResNet101", "caffe"),
    "resnet152": Entry("ResNet152", "caffe"),
    "resnet50_v2": Entry("ResNet50V2", "tf"),
    "resnet101_v2": Entry("ResNet101V2", "tf"),
    "resnet152_v2": Entry("ResNet152V2", "tf"),
    "vgg16": Entry("VGG16", "caffe"),
    "vgg19": Entry("VGG19", "caffe"),
    "xception": Entry("Xception", "tf", 71),
}


def is_own(name: str) -> bool:
    """Returns whether a name is that of a `.keras` file, or of a preset of KerasHub."""
    return model_files.is_file_name(name) or hub_names.is_preset(name)


def canonical(name: str) -> str:
    """Returns the catalogue's name of a network: `MobileNetV2` is `mobilenet_v2`.

    The name of a `.keras` file, or of a preset of KerasHub, is its own; a specification, such as
    `spec:32-32|64`, too, without spaces.

    Raises:
        ConfigError: No such network; names the nearest. The file's model is none of images. A
            malformed specification.
        WeightsError: The file or the preset is missing or damaged.
        EnvironmentFault: KerasHub is not installed.
    """
    if hub_names.is_preset(name):
        hub_names.preset(name)
        return name
    if is_own(name):
        model_files.read(name)
        return name
    if is_specified(name):
        return specification.PREFIX + specification.line_of(_blocks(name))
    spellings = {key.replace("_", ""): key for key in ENTRIES}
    key = spellings.get(name.casefold().replace("_", "").replace("-", ""))
    if key is None:
        near = difflib.get_close_matches(name.casefold(), ENTRIES, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise checks.ConfigError(
            f"--backbone must name a network. Received: backbone={name!r}. {hint}"
            "`finetune-kit backbones` lists all; others come as a .keras file, or from KerasHub as "
            "hub:PRESET."
        )
    return key


def entry(name: str) -> Entry:
    """Returns what is known of a network, under either spelling of its name or in its file."""
    if hub_names.is_preset(name):
        return Entry("", "none", min_size=1, default_size=hub_names.default_side(name))
    if is_own(name):
        side = model_files.side(model_files.read(name).shape)
        return Entry("", "none", min_size=1, default_size=side or ANY_SIDE)
    if is_specified(name):
        least = specification.least_side(_blocks(name))
        return Entry("", "tf", least, max(least, ENTRIES[BUNDLED].default_size))
    return ENTRIES[canonical(name)]


def is_specified(name: str) -> bool:
    """Returns whether a name is that of a specification, such as `spec:32-32|64`."""
    return name.startswith(specification.PREFIX)


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for what can be known of a network's arguments without Keras.

    A network of `keras.applications` says itself what it takes; the bundled one takes nothing; one
    of a specification takes `any_filters`, without which filters must be powers of two (S4).
    """
    name = canonical(name)
    if name == BUNDLED and arguments:
        raise checks.ConfigError(
            f"The {name} backbone takes no arguments. "
            + checks.received(backbone_args=dict(arguments))
        )
    if is_specified(name):
        for argument, value in arguments.items():
            checks.one_of("backbone_args", argument, ("any_filters",))
            checks.one_of(argument, str(value), ("True", "False"))
        if not arguments.get("any_filters"):
            specification.refuse_odd_filters(_blocks(name))


def _blocks(name: str) -> specification.Blocks:
    return specification.parse(name.removeprefix(specification.PREFIX))


@overload
def image_size(name: str, size: int = 0) -> int: ...


@overload
def image_size(name: str, size: sizes.Size) -> sizes.Size: ...


def image_size(name: str, size: sizes.Size = 0) -> sizes.Size:
    """Returns the canonical size to use: `size`, or the network's default where it is 0.

    Args:
        name: As in `canonical`.
        size: Side in pixels, or (height, width).

    Raises:
        ConfigError: A side is below the network's minimum, or above its maximum.
    """
    known = entry(name)
    if size == 0:
        return known.default_size
    least, most = known.min_size, known.max_size
    if min(sizes.sides(size)) < least:
        raise checks.ConfigError(
            f"{canonical(name)} needs images of at least {least} px. "
            + checks.received(image_size=size)
        )
    if most is not None and max(sizes.sides(size)) > most:
        raise checks.ConfigError(
            f"{canonical(name)} takes images of {least} to {most} px. "
            + checks.received(image_size=size)
        )
    return sizes.canonical(size)


def larger_size(name: str, original: int) -> int:
    """Returns twice a network's default side, where network and images allow it; else 0.

    Args:
        name: As in `canonical`.
        original: Short side of the images in pixels; with fewer, pixels would be invented. Only a
            network whose range of sizes is known is proposed another.
    """
    known = entry(name)
    larger = 2 * known.default_size
    return larger if known.max_size and larger <= min(known.max_size, original) else 0


def refuse_channels(name: str, own: int, channels: int) -> None:
    """Refuses a model of one's own whose images have another number of channels.

    Args:
        name: As an error calls it.
        own: Channels that the model takes; one of RGB can be given others, and grey images can be
            made of RGB.
        channels: N of the images.

    Raises:
        ConfigError: The model cannot take them.
    """
    if own in (channels, sizes.COLOURS) or (own == 1 and channels == sizes.COLOURS):
        return
    raise checks.ConfigError(
        f"{name} takes images of {own} channel{'s' if own > 1 else ''}. "
        f"{checks.received(channels=channels)}. Give --channels={own}, where a command has it."
    )


def refuse_unfit(
    name: str, *, weights: str = "", preprocessing: str = "", channels: int = sizes.COLOURS
) -> None:
    """Refuses what a network cannot be told.

    Args:
        name: As in `canonical`.
        channels: N of the images.
        weights: As in `loading.load`; a model of one's own brings its own.
        preprocessing: One of `PREPROCESSING`, or ""; for a model of one's own alone.

    Raises:
        ConfigError: A network of the catalogue is told how to scale pixels, or a model of one's own
            takes images of another number of channels.
        WeightsError: A model of one's own is to have weights from elsewhere.
    """
    if is_own(name):
        checks.one_of("preprocessing", preprocessing or "none", PREPROCESSING)
        refuse_foreign_weights(weights)
        if not hub_names.is_preset(name):
            own = model_files.read(name).shape[-1] or sizes.COLOURS
            refuse_channels(repr(name), own, channels)
    elif preprocessing:
        raise checks.ConfigError(
            f"{canonical(name)} scales pixels itself; --preprocessing is for .keras and hub:. "
            + checks.received(preprocessing=preprocessing)
        )


def refuse_foreign_weights(weights: str) -> None:
    """Raises `WeightsError` unless a model of one's own keeps its weights, or draws new ones."""
    if weights not in ("", "none"):
        raise checks.WeightsError(
            "A model of one's own brings its own weights. "
            f"{checks.received(weights=weights)}. Leave --weights out, or give none."
        )


def refuse_small(name: str, size: sizes.Size) -> None:
    """Raises `ConfigError` if dense layers are to be kept on images smaller than their own.

    Args:
        name: As in `canonical`.
        size: Side in pixels, or (height, width); 0 is the network's default.
    """
    least, used = FLATTENING.get(canonical(name), 0), image_size(name, size)
    if min(sizes.sides(used)) < least:
        raise checks.ConfigError(
            f"{canonical(name)} with its dense layers needs images of at least {least} px. "
            + checks.received(image_size=used)
        )
