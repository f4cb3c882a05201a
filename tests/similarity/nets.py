"""Small networks with statistics of their own, and photographs, for the tests of distances."""

import keras
import numpy as np
from sklearn import datasets

from finetune_kit import backbones
from finetune_kit.backbones import types
from finetune_kit.data import arrays, store
from finetune_kit.data import types as data_types

SIDE = 16


def split(pixels, labels=None):
    """Returns a split of images uint8 [n, h, w, 3], which stand in the store in reverse order."""
    pixels = np.asarray(pixels, np.uint8)
    labels = np.zeros(len(pixels), np.int64) if labels is None else np.asarray(labels)
    size, reader = pixels.shape[1:3], arrays.ArrayReader(pixels[::-1])
    kept = store.PixelStore(reader, size, cache=pixels[::-1])
    order = np.arange(len(pixels))[::-1]
    return data_types.Split(kept, order, labels, tuple(map(str, range(len(pixels)))))


def images(n, *, side=SIDE, seed=0, low=0, high=256):
    """Returns images uint8 [n, side, side, 3] that differ in brightness and contrast."""
    generator = np.random.default_rng(seed)
    contrast = generator.uniform(0.2, 1, (n, 1, 1, 1))
    offset = generator.uniform(0, 1, (n, 1, 1, 3)) * (1 - contrast)
    unit = offset + contrast * generator.uniform(0, 1, (n, side, side, 3))
    return (low + (high - low) * unit).astype(np.uint8)


def photographs(n, *, side=32, seed=0):
    """Returns crops of scikit-learn's two sample photographs, uint8 [n, side, side, 3]."""
    generator = np.random.default_rng(seed)
    photos = datasets.load_sample_images().images
    crops = []
    for i in range(n):
        step = int(generator.integers(2, 6))
        photo = photos[i % 2][::step, ::step]
        top, left = (int(generator.integers(0, size - side)) for size in photo.shape[:2])
        crops.append(photo[top : top + side, left : left + side])
    return np.stack(crops)


def backbone(*, batch_norm=True, weights="file", card=None, dropout=0.0, seed=3):
    """Returns a backbone of two stages, whose BatchNorm layers remember statistics of their own."""
    keras.utils.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for name, filters in (("one", 4), ("two", 8)):
        x = keras.layers.Conv2D(filters, 3, padding="same", name=name)(x)
        if batch_norm:
            norm = keras.layers.BatchNormalization(name=f"{name}_bn")
            x = norm(x)
            ranges = ((0.5, 2), (-1, 1), (-0.5, 0.5), (0.2, 2))  # gamma, beta, mean, variance
            norm.set_weights([generator.uniform(*limits, filters) for limits in ranges])
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    model = keras.Model(pixels, x)
    return types.Backbone("toy", model, backbones.find_stages(model), SIDE, weights, card=card)


def layer_by_layer(model, pixels):
    """Returns layer name to its output on images, eagerly, as float64; no graph is built."""
    x, outputs = keras.ops.convert_to_tensor(np.asarray(pixels, np.float32)), {}
    for layer in model.layers[1:]:
        x = layer(x, training=False) if "bn" in layer.name or "drop" in layer.name else layer(x)
        outputs[layer.name] = np.asarray(x, np.float64)
    return outputs
