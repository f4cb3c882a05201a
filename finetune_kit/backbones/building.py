"""Networks by the conventions of the source text (S4, S5 of docs/source-rules.md), from one line.

Convolutions are 3x3 with stride 1 and same padding, each with BatchNorm and ReLU, and 2x2 max
pooling with stride 2 halves the side between blocks. Such a network is fully convolutional, so it
takes images of any side (S3).
"""

import keras

from finetune_kit import checks
from finetune_kit.backbones import specification


def build(
    line: str, image_size: int, *, any_filters: bool = False, name: str = "spec"
) -> keras.Model:
    """Returns float32 [b, s, s, 3] in [0, 255] to float32 [b, s / 2^(B - 1), …, filters].

    Args:
        line: B blocks, such as `32-32|64-64|128-128|256`; see `specification.parse`.
        image_size: s in pixels.
        any_filters: Takes numbers of filters that are no power of two.
        name: Of the model.

    Raises:
        ConfigError: A malformed line, filters against S4, or a side that the poolings use up.
    """
    blocks = specification.parse(line)
    if not any_filters:
        specification.refuse_odd_filters(blocks)
    least = specification.least_side(blocks)
    if image_size < least:
        raise checks.ConfigError(
            f"{len(blocks)} blocks need images of at least {least} px. "
            + checks.received(specification=line, image_size=image_size)
        )
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescaling")(pixels)
    for b, filters in enumerate(blocks, start=1):
        if b > 1:
            x = keras.layers.MaxPooling2D(2, name=f"pool_{b - 1}")(x)
        for c, width in enumerate(filters, start=1):
            x = _convolution(x, width, f"block_{b}_conv_{c}")
    return keras.Model(pixels, x, name=name)


def _convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    # BatchNorm has an offset of its own, so the convolution needs no bias.
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
