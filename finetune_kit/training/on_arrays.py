"""Training from random weights on arrays, in Keras and NumPy alone: on any of Keras' backends.

A machine whose GPU only JAX can use has no tf.data; there, images are in memory, and are mirrored
and shifted by NumPy.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

SHIFT = 8  # images are shifted by up to a part in this many of their side
CLIP_NORM = 1.0


class Batches(keras.utils.PyDataset):
    """Batches of images that are mirrored and shifted at random, in a new order every epoch.

    An epoch's order and views depend on the seed and the epoch alone.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, *, classes: int, batch_size: int, seed: int
    ) -> None:
        """Prepares the first epoch.

        Args:
            images: uint8 [n, s, s, 3].
            labels: int [n], in [0, classes).
            classes: C.
            batch_size: Images a batch; the last of an epoch may be smaller.
            seed: Any integer.
        """
        super().__init__()
        self._images, self._labels, self._classes = images, labels, classes
        self._batch_size, self._seed, self._epoch = batch_size, seed, 0
        self._draw()

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 [b, s, s, 3] in [0, 255] and float32 [b, C]."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        views = [
            moved(self._images[row], mirror=bool(self._mirrored[row]), by=self._shifts[row])
            for row in rows
        ]
        return np.stack(views).astype(np.float32), np.eye(self._classes, dtype=np.float32)[
            self._labels[rows]
        ]

    def on_epoch_end(self) -> None:
        """Draws the next epoch."""
        self._epoch += 1
        self._draw()

    def _draw(self) -> None:
        generator = np.random.default_rng((self._seed, self._epoch))
        n, reach = len(self._images), self._images.shape[1] // SHIFT
        self._order = generator.permutation(n)
        self._mirrored = generator.integers(0, 2, n)
        self._shifts = generator.integers(-reach, reach + 1, (n, 2))


def moved(image: np.ndarray, *, mirror: bool, by: np.ndarray) -> np.ndarray:
    """Returns an image mirrored and then shifted, its edge repeated where it has left.

    Args:
        image: [h, w, c].
        mirror: Whether left and right change places.
        by: int [2], rows down and columns to the right.
    """
    height, width, _ = image.shape
    flipped = image[:, ::-1] if mirror else image
    rows = np.clip(np.arange(height) - by[0], 0, height - 1)
    columns = np.clip(np.arange(width) - by[1], 0, width - 1)
    return np.asarray(flipped[rows][:, columns])


def train(
    backbone: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    label_smoothing: float,
    batch_size: int,
    seed: int,
    after: Callable[[dict[str, Any]], None] = lambda row: None,
) -> None:
    """Trains a backbone in place, with a head that is thrown away.

    AdamW with a linear warm-up of one epoch and half a cosine (Loshchilov & Hutter, 2017, section
    3), gradients clipped to a norm of 1.

    Args:
        backbone: float32 [b, s, s, 3] in [0, 255] to a map [b, h, w, c].
        images: uint8 [n, s, s, 3].
        labels: int [n], from 0 on.
        epochs: Passes over the images, at least 1.
        learning_rate: Peak rate.
        weight_decay: Decoupled decay.
        label_smoothing: Share of each label that is spread over all classes.
        batch_size: Images a step.
        seed: Decides order, views and the head; the backbone has its weights already.
        after: Called with loss and accuracy after every epoch.
    """
    classes = int(labels.max()) + 1
    keras.utils.set_random_seed(seed)
    batches = Batches(images, labels, classes=classes, batch_size=batch_size, seed=seed)
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.outputs[0])
    model = keras.Model(backbone.inputs[0], keras.layers.Dense(classes)(pooled))
    warm = min(1.0, epochs / 2) * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, epochs * len(batches) - round(warm)),
        warmup_target=learning_rate,
        warmup_steps=max(1, round(warm)),
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=weight_decay, global_clipnorm=CLIP_NORM),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
    )
    told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: after(dict(logs or {})))
    model.fit(batches, epochs=epochs, verbose=0, callbacks=[told])
