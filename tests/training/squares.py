"""A toy that trains in a second: squares of three colours, and a network of two stages."""

import keras
import numpy as np

from finetune_kit import backbones, data, strategy
from finetune_kit.backbones import types

SIDE = 16
CLASSES = 3


def images(
    per_class: int = 12, *, seed: int = 0, noise: float = 90.0, split: tuple[str, ...] = ()
) -> data.Arrays:
    """Returns squares, uint8 [n, 16, 16, 3], each brightest in the channel of its class."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    pixels = generator.uniform(0, 160, (len(labels), SIDE, SIDE, 3))
    pixels[np.arange(len(labels)), 4:12, 4:12, labels] += noise
    order = generator.permutation(len(labels))
    return data.Arrays(
        pixels[order].clip(0, 255).astype(np.uint8),
        labels[order],
        class_names=("red", "green", "blue"),
        split=split,
    )


def load(per_class: int = 0, *, count: int = 20, noise: float = 90.0) -> data.ImageData:
    """Returns the toy's images, split by the kit; `per_class` is the label budget."""
    source = images(count, noise=noise)
    return data.load(source, image_size=SIDE, seed=1, per_class=per_class)


def classifier(*, dropout: float = 0.0, seed: int = 3, stages: int = 1) -> backbones.Classifier:
    """Returns a classifier with the groups stem, stage_1 and head, BatchNorm in both stages.

    Args:
        dropout, stages: Of the head.
        seed: Draws all weights.
    """
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    for name, filters in (("one", 4), ("two", 8)):
        x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
        x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
        x = keras.layers.ReLU(name=f"{name}_relu")(x)
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    model = keras.Model(pixels, x)
    backbone = types.Backbone(
        name="toy",
        model=model,
        stages=backbones.find_stages(model),
        image_size=SIDE,
        weights="none",
    )
    return backbones.attach_head(backbone, CLASSES, stages=stages, dropout=dropout, seed=seed)


def phases(*, epochs: int = 3, rate: float = 0.01, **settings: object) -> tuple:
    """Returns a solved probe and one phase in which everything trains."""
    groups = ("stem", "stage_1", "head")
    tuned = strategy.everything(
        groups, strategy.Tuning(learning_rate=rate, epochs=epochs, **settings)
    )
    return strategy.probe(groups), tuned
