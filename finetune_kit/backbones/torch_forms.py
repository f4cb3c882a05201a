"""Networks of keras.applications in the form in which torchvision and timm train them.

Their weights fit by shape, but the same weights compute something else under Keras' conventions:
torch pads strided windows evenly, its BatchNorm adds 1e-5, its ResNets stride in the 3x3 (v1.5) and
have no bias, and pixels are scaled otherwise. `as_torch` rebuilds a network by torch's conventions;
`names` says what torch calls its layers.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from finetune_kit import checks

EPSILON = 1e-5  # torch.nn.BatchNorm2d's own
# Stage and block of conv_dw_1 to conv_dw_13 in timm; a stage halves the side or keeps it.
MOBILENET_BLOCKS = [(stage, block) for stage, n in enumerate((1, 2, 2, 6, 2)) for block in range(n)]
RESNET_STRIDED = re.compile(r"conv[345]_block1_([12])_conv")

Names = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Form:
    """How torch has a family of networks.

    Attributes:
        names: Network to the name of each layer with weights in torch's state dict.
        preprocessing: One of `catalogue.PREPROCESSING`.
        is_resnet: Strides stand in the 3x3 of a block, and no convolution has a bias.
    """

    names: Callable[[keras.Model], Names]
    preprocessing: str
    is_resnet: bool = False


def form_of(name: str) -> Form:
    """Returns torch's form of a network.

    Args:
        name: In the catalogue.

    Raises:
        WeightsError: It has none that is known to be equal.
    """
    if name not in FORMS:
        raise checks.WeightsError(
            "A .safetensors file of torchvision or timm can be loaded into "
            f"{', '.join(FORMS)}, which can be made to compute the same. "
            + checks.received(backbone=name)
        )
    return FORMS[name]


def width(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the argument that sets the width, as the stem in a state dict has it.

    Args:
        name: In the catalogue.
        tensors: Name to tensor, [out, in, h, w] for a convolution.

    Returns:
        `alpha` of a MobileNet, which begins with 32 alpha filters; nothing for others.
    """
    stem = tensors.get("conv_stem.weight")
    return {"alpha": stem.shape[0] / 32} if name == "mobilenet" and stem is not None else {}


def as_torch(model: keras.Model, form: Form) -> keras.Model:
    """Returns a network of the same layers that computes as torch's does, with fresh weights.

    Args:
        model: As keras.applications builds it, preprocessing included.
        form: Of its family.
    """
    padded: dict[str, tuple[int, int]] = {}

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.layers.BatchNormalization):
            config["epsilon"] = EPSILON
        elif isinstance(layer, keras.layers.ZeroPadding2D):
            config["padding"] = [(max(pair), max(pair)) for pair in layer.padding]
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            if form.is_resnet:
                _as_version_1_5(layer.name, config)
            kernel = tuple(layer.kernel_size)
            if max(config["strides"]) > 1 and max(kernel) > 1 and config["padding"] == "same":
                config["padding"] = "valid"
                padded[layer.name] = (kernel[0] // 2, kernel[1] // 2)
        return type(layer).from_config(config)

    def call(layer: Any, *inputs: Any, **arguments: Any) -> Any:
        if layer.name in padded:
            pad = keras.layers.ZeroPadding2D(padded[layer.name], name=f"{layer.name}_pad")
            return layer(pad(*inputs), **arguments)
        return layer(*inputs, **arguments)

    return keras.models.clone_model(model, clone_function=clone, call_function=call)


def _as_version_1_5(name: str, config: dict[str, Any]) -> None:
    """Moves the stride of a block from its first 1x1 to its 3x3 (torchvision's ResNet v1.5)."""
    config["use_bias"] = False
    found = RESNET_STRIDED.fullmatch(name)
    if found:
        config["strides"] = (1, 1) if found[1] == "1" else (2, 2)


def _vgg(model: keras.Model) -> Names:
    """Convolutions are numbered in a sequence of convolution, ReLU and pooling."""
    names, position = {}, 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            names[layer.name] = f"features.{position}"
            position += 2
        elif isinstance(layer, keras.layers.MaxPooling2D):
            position += 1
    return names


def _mobilenet(model: keras.Model) -> Names:
    names = {"conv1": "conv_stem", "conv1_bn": "bn1"}
    for i, (stage, block) in enumerate(MOBILENET_BLOCKS, start=1):
        for part, norm in (("dw", "bn1"), ("pw", "bn2")):
            names[f"conv_{part}_{i}"] = f"blocks.{stage}.{block}.conv_{part}"
            names[f"conv_{part}_{i}_bn"] = f"blocks.{stage}.{block}.{norm}"
    return names


def _densenet(model: keras.Model) -> Names:
    parts = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
    ends = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
    names = {}
    for layer in model.layers:
        if layer.name in ends:
            names[layer.name] = f"features.{ends[layer.name]}"
        elif found := re.fullmatch(r"conv(\d)_block(\d+)_(\d_\w+)", layer.name):
            if found[3] in parts:
                names[layer.name] = (
                    f"features.denseblock{int(found[1]) - 1}.denselayer{found[2]}.{parts[found[3]]}"
                )
        elif found := re.fullmatch(r"pool(\d)_(bn|conv)", layer.name):
            kind = "norm" if found[2] == "bn" else "conv"
            names[layer.name] = f"features.transition{int(found[1]) - 1}.{kind}"
    return names


def _resnet(model: keras.Model) -> Names:
    names = {"conv1_conv": "conv1", "conv1_bn": "bn1"}
    for layer in model.layers:
        if found := re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(bn|conv)", layer.name):
            prefix = f"layer{int(found[1]) - 1}.{int(found[2]) - 1}"
            if found[3] == "0":
                names[layer.name] = f"{prefix}.downsample.{0 if found[4] == 'conv' else 1}"
            else:
                names[layer.name] = f"{prefix}.{found[4]}{found[3]}"
    return names


# torchvision's normalisation is the mean and deviation of ImageNet; timm's MobileNets of version 1
# were trained on pixels in [-1, 1].
FORMS: dict[str, Form] = {
    "densenet121": Form(_densenet, "torch"),
    "densenet169": Form(_densenet, "torch"),
    "densenet201": Form(_densenet, "torch"),
    "mobilenet": Form(_mobilenet, "tf"),
    "resnet50": Form(_resnet, "torch", is_resnet=True),
    "resnet101": Form(_resnet, "torch", is_resnet=True),
    "resnet152": Form(_resnet, "torch", is_resnet=True),
    "vgg16": Form(_vgg, "torch"),
    "vgg19": Form(_vgg, "torch"),
}
