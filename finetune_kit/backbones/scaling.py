"""How raw pixels become what a network was trained on."""

from typing import Any

import keras

# Means and deviations of ImageNet's training images, as keras.applications applies them.
CAFFE_MEANS_BGR = (103.939, 116.779, 123.68)
TORCH_MEANS = (0.485, 0.456, 0.406)
TORCH_DEVIATIONS = (0.229, 0.224, 0.225)


def preprocess(images: Any, mode: str) -> Any:
    """Returns pixels float32 [b, h, w, 3] in [0, 255] as a network wants them, as Keras layers.

    Args:
        images: Symbolic or eager tensor.
        mode: One of `catalogue.PREPROCESSING`; equals `keras.applications.*.preprocess_input`,
            in float32 whatever the precision of the network.
    """
    if mode == "unit":
        return _rescaling(1 / 255, 0.0)(images)
    if mode == "tf":
        return _rescaling(1 / 127.5, -1.0)(images)
    if mode == "caffe":
        bgr = keras.ops.flip(images, axis=-1)
        return _rescaling(1.0, [-mean for mean in CAFFE_MEANS_BGR])(bgr)
    if mode == "torch":
        scale = [1 / (255 * deviation) for deviation in TORCH_DEVIATIONS]
        offset = [-m / d for m, d in zip(TORCH_MEANS, TORCH_DEVIATIONS, strict=True)]
        return _rescaling(scale, offset)(images)
    return images


def _rescaling(scale: float | list[float], offset: float | list[float]) -> keras.layers.Layer:
    # In bfloat16 neighbouring grey levels would become one.
    return keras.layers.Rescaling(scale, offset=offset, dtype="float32")
