"""The bundled network, by the conventions of the source text (S4, S5 of docs/source-rules.md).

Convolutions are 3x3 with stride 1 and same padding, the number of filters is a power of two, and
2x2 max pooling with stride 2 halves the side between blocks. It is fully convolutional, so it
takes any side from 32 to 128 px.
"""

from collections.abc import Sequence

import keras

BLOCKS = ((32, 32), (64, 64), (128, 128), (256,))  # filters of the convolutions, block by block
MIN_SIZE, MAX_SIZE = 32, 128


def build(image_size: int, *, blocks: Sequence[Sequence[int]] = BLOCKS) -> keras.Model:
    """Returns the network: float32 [b, s, s, 3] in [0, 255] to float32 [b, s / 8, s / 8, 256].

    Args:
        image_size: s in pixels.
        blocks: Filters of the convolutions, block by block; a pooling stands between two blocks.
    """
    pixels = keras.Input((image_size, image_size, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="rescaling")(pixels)
    for b, filters in enumerate(blocks, start=1):
        if b > 1:
            x = keras.layers.MaxPooling2D(2, name=f"pool_{b - 1}")(x)
        for c, width in enumerate(filters, start=1):
            x = _convolution(x, width, f"block_{b}_conv_{c}")
    return keras.Model(pixels, x, name="bundled")


def _convolution(x: keras.KerasTensor, filters: int, name: str) -> keras.KerasTensor:
    # BatchNorm has an offset of its own, so the convolution needs no bias.
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
