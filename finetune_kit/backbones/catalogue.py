"""The networks that can be a backbone, by name; no Keras is imported to look one up."""

import dataclasses
import difflib

from finetune_kit import checks

BUNDLED = "bundled"
# How raw [0, 255] pixels become what the network was trained on.
#   none    inside the network        tf     x / 127.5 - 1
#   caffe   BGR minus ImageNet means  torch  ImageNet mean and standard deviation
PREPROCESSING = ("none", "tf", "caffe", "torch")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a network before it is built.

    Attributes:
        constructor: Name in `keras.applications`; "" for the bundled network.
        preprocessing: One of `PREPROCESSING`.
        min_size: Smallest input side in pixels that the constructor accepts.
        default_size: Input side that is used unless another is asked for; a power of two (S1).
    """

    constructor: str
    preprocessing: str
    min_size: int = 32
    default_size: int = 128


ENTRIES: dict[str, Entry] = {
    BUNDLED: Entry("", "tf", 32, 32),
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


def canonical(name: str) -> str:
    """Returns the catalogue's name of a network: `MobileNetV2` is `mobilenet_v2`.

    Raises:
        ConfigError: No such network; names the nearest.
    """
    spellings = {key.replace("_", ""): key for key in ENTRIES}
    key = spellings.get(name.casefold().replace("_", "").replace("-", ""))
    if key is None:
        near = difflib.get_close_matches(name.casefold(), ENTRIES, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise checks.ConfigError(
            f"--backbone must name a network. Received: backbone={name!r}. {hint}"
            "`finetune-kit backbones` lists all."
        )
    return key


def entry(name: str) -> Entry:
    """Returns what is known of a network, under either spelling of its name."""
    return ENTRIES[canonical(name)]


def image_size(name: str, size: int = 0) -> int:
    """Returns the side in pixels to use: `size`, or the network's default where it is 0.

    Raises:
        ConfigError: `size` is below the network's minimum.
    """
    known = entry(name)
    if size == 0:
        return known.default_size
    if size < known.min_size:
        raise checks.ConfigError(
            f"{canonical(name)} needs images of at least {known.min_size} px. "
            + checks.received(image_size=size)
        )
    return size
