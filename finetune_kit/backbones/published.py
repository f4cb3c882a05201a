"""Published ImageNet accuracies: what is known of a network before it sees an image.

A list that never looks at the images ranks networks for a new task better than scores of their
features do (Singh et al., 2025, arXiv 2510.06448), so it belongs beside them.
"""

from collections.abc import Mapping
from typing import Any

from finetune_kit.backbones import catalogue

# Top-1 accuracy on ImageNet's validation images, per cent, at the size the constructor was trained
# for: the table of https://keras.io/api/applications/, and for MobileNetV3 that of its docstring.
TOP1 = {
    "convnext_tiny": 81.3,
    "convnext_small": 82.3,
    "convnext_base": 85.3,
    "convnext_large": 86.3,
    "convnext_xlarge": 86.7,
    "densenet121": 75.0,
    "densenet169": 76.2,
    "densenet201": 77.3,
    "efficientnet_b0": 77.1,
    "efficientnet_b1": 79.1,
    "efficientnet_b2": 80.1,
    "efficientnet_b3": 81.6,
    "efficientnet_b4": 82.9,
    "efficientnet_b5": 83.6,
    "efficientnet_b6": 84.0,
    "efficientnet_b7": 84.3,
    "efficientnet_v2_b0": 78.7,
    "efficientnet_v2_b1": 79.8,
    "efficientnet_v2_b2": 80.5,
    "efficientnet_v2_b3": 82.0,
    "efficientnet_v2_s": 83.9,
    "efficientnet_v2_m": 85.3,
    "efficientnet_v2_l": 85.7,
    "inception_resnet_v2": 80.3,
    "inception_v3": 77.9,
    "mobilenet": 70.4,
    "mobilenet_v2": 71.3,
    "mobilenet_v3_small": 68.1,
    "mobilenet_v3_large": 75.6,
    "nasnet_mobile": 74.4,
    "nasnet_large": 82.5,
    "resnet50": 74.9,
    "resnet101": 76.4,
    "resnet152": 76.6,
    "resnet50_v2": 76.0,
    "resnet101_v2": 77.2,
    "resnet152_v2": 78.0,
    "vgg16": 71.3,
    "vgg19": 71.3,
    "xception": 79.0,
}
# Of the checkpoints of other widths: (width, side in pixels) to per cent. MobileNet from
# research/slim/nets/mobilenet_v1.md of tensorflow/models, MobileNetV2 from the docstring of
# tf.keras.applications.mobilenet_v2, MobileNetV3 from that of keras.applications.
BY_WIDTH: dict[str, dict[tuple[float, int], float]] = {
    "mobilenet": {
        (1.0, 192): 70.0, (1.0, 160): 68.0, (1.0, 128): 65.2,
        (0.75, 224): 68.4, (0.75, 192): 67.2, (0.75, 160): 65.3, (0.75, 128): 62.1,
        (0.5, 224): 63.3, (0.5, 192): 61.7, (0.5, 160): 59.1, (0.5, 128): 56.3,
        (0.25, 224): 49.8, (0.25, 192): 47.7, (0.25, 160): 45.5, (0.25, 128): 41.5,
    },
    "mobilenet_v2": {
        (1.4, 224): 75.0, (1.3, 224): 74.4,
        (1.0, 192): 70.7, (1.0, 160): 68.8, (1.0, 128): 65.3, (1.0, 96): 60.3,
        (0.75, 224): 69.8, (0.75, 192): 68.7, (0.75, 160): 66.4, (0.75, 128): 63.2,
        (0.75, 96): 58.8,
        (0.5, 224): 65.4, (0.5, 192): 63.9, (0.5, 160): 61.0, (0.5, 128): 57.7, (0.5, 96): 51.2,
        (0.35, 224): 60.3, (0.35, 192): 58.2, (0.35, 160): 55.7, (0.35, 128): 50.8,
        (0.35, 96): 45.5,
    },
    "mobilenet_v3_small": {(0.75, 224): 65.4},
    "mobilenet_v3_large": {(0.75, 224): 73.3},
}  # fmt: skip
FULL_SIZE = 224  # the side of the weights that keras.applications downloads for its MobileNets


def top1(
    name: str, *, arguments: Mapping[str, Any] | None = None, trained_at: int = FULL_SIZE
) -> float | None:
    """Returns the published ImageNet top-1 accuracy of a network's weights, in [0, 1].

    It is that of the published weights: weights from elsewhere have an accuracy of their own.

    Args:
        name: As in the catalogue, in either spelling.
        arguments: Those of the constructor; only `alpha`, a MobileNet's width, is known of.
        trained_at: Side in pixels that a MobileNet's weights were trained at. At others it loses.

    Returns:
        None where nothing is published: the bundled network, another width, or another argument.

    Raises:
        ConfigError: No such network.
    """
    name = catalogue.canonical(name)
    given = dict(arguments or {})
    alpha = float(given.pop("alpha", 1.0))
    if given:
        return None
    widths = BY_WIDTH.get(name, {})
    full = widths and (alpha, trained_at) == (1.0, FULL_SIZE)
    share = TOP1.get(name) if full or not widths else widths.get((alpha, trained_at))
    return None if share is None else share / 100
