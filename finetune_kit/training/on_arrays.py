"""Training from random weights on arrays, in Keras and NumPy alone: on any of Keras' backends.

A machine whose GPU only JAX can use has no tf.data; there, images are in memory, and Keras' own
layers make their views on the device.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from finetune_kit.data.levels import Level
from finetune_kit.training import joint_loss

CLIP_NORM = 1.0
TURNS = 4  # by 0, 90, 180 and 270 degrees: `data.rotation`
BACKUP_SECONDS = 15.0  # between two backups at least
SUFFIX = ".weights.h5"
BACKUPS = f"epoch-*{SUFFIX}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: Passes over the images, at least 1.
        learning_rate: Peak rate.
        weight_decay: Decoupled decay.
        label_smoothing: Share of each label that is spread over all classes.
        batch_size: Images a step.
        rotation: Share in [0, 1) of the loss that asks how far an image is turned (Gidaris et al.,
            2018); it fades out as `joint_loss.share` says. 0 does not ask.
        halved: Share in [0, 1] of the steps whose images are shown at half their side, so that one
            network serves both sizes (Redmon & Farhadi, 2017, "YOLO9000", section 2).
        level: How views are made; without erasing and mixing.
        seed: Decides order, views and heads; the backbone has its weights already.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    batch_size: int
    rotation: float = 0.0
    halved: float = 0.0
    level: Level = Level()
    seed: int = 0


class Batches(keras.utils.PyDataset):
    """Batches of one size, epoch after epoch as one stream, each epoch in an order of its own.

    One stream, since a backend may read ahead of the epoch that is trained. The last batch of an
    epoch is filled with the first images of the epoch, so that the network is compiled for one
    shape. With rotation, a batch also holds each of its images turned at random.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        classes: int,
        settings: Settings,
        first_epoch: int = 0,
    ) -> None:
        """Prepares the stream.

        Args:
            images: uint8 [n, s, s, 3].
            labels: int [n], in [0, classes).
            classes: C.
            settings: How to train.
            first_epoch: Epoch that the stream begins with.
        """
        super().__init__()
        self._images, self._labels, self._settings = images, labels, settings
        self._turns = TURNS if settings.rotation else 0
        self._targets = np.eye(classes + self._turns, dtype=np.float32)
        self._classes, self._first = classes, first_epoch
        self.steps = -(-len(images) // settings.batch_size)  # of an epoch
        self._order = functools.lru_cache(maxsize=2)(self._drawn)

    def __len__(self) -> int:
        return self.steps * (self._settings.epochs - self._first)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns a batch, a function of the seed and of its place in the training alone.

        Returns:
            Images, uint8 [b, s, s, 3], of a halved step [b, s / 2, s / 2, 3]; labels, float32
            [b, C]; weights, float32 [b]. With rotation 2b rows: the turned images last, their
            labels in [2b, C + 4] behind those of the images.
        """
        size = self._settings.batch_size
        place = index + self._first * self.steps
        epoch, step = divmod(place, self.steps)
        order, drawn = self._order(epoch)
        part = slice(step * size, (step + 1) * size)
        rows, turns = order[part], drawn[part]
        images, targets = self._images[rows], self._targets[self._labels[rows]]
        if int((place + 1) * self._settings.halved) > int(place * self._settings.halved):
            images = halve(images)
        if not self._turns:
            return images, targets, np.ones(size, np.float32)
        done = (epoch + (step + 0.5) / self.steps) / self._settings.epochs
        share = float(joint_loss.share(self._settings.rotation, done))
        turned = np.stack([np.rot90(x, k) for x, k in zip(images, turns.tolist(), strict=True)])
        return (
            np.concatenate([images, turned]),
            np.concatenate([targets, self._targets[self._classes + turns]]),
            np.repeat([2 * (1 - share), 2 * share], size).astype(np.float32),
        )

    def _drawn(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns which images an epoch shows, and how far each would be turned."""
        generator = np.random.default_rng((self._settings.seed, epoch))
        order = generator.permutation(len(self._images))
        count = self.steps * self._settings.batch_size
        return np.resize(order, count), generator.integers(0, TURNS, count)


def halve(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [n, h / 2, w / 2, c]: the means of 2x2 pixels, halves rounded up."""
    pairs = images[:, ::2].astype(np.uint16) + images[:, 1::2]
    return ((pairs[:, :, ::2] + pairs[:, :, 1::2] + 2) // 4).astype(np.uint8)


def views(level: Level, seed: int) -> list[keras.layers.Layer]:
    """Returns layers that make random views of images in [0, 255], each image its own.

    Args:
        level: What to do. A crop is a zoom into the middle of an image that has been shifted by as
            much more; erasing and mixing are left out. Keras'
            saturation grows as f / (1 - f), so that a level's 0.2 is a factor of 1 / 1.5 to 1.5.
        seed: Where their random numbers start.
    """
    layer, zoom = keras.layers, 1 - level.min_area**0.5
    made: list[keras.layers.Layer] = []
    if level.flip:
        made.append(layer.RandomFlip("horizontal", seed=seed))
    if level.rotation:
        made.append(layer.RandomRotation(level.rotation / 360, seed=seed + 1))
    reach = level.shift + zoom / 2
    if reach:
        # By whole pixels: nothing is blurred.
        made.append(layer.RandomTranslation(reach, reach, interpolation="nearest", seed=seed + 2))
    if zoom:
        made.append(layer.RandomZoom((-zoom, 0.0), seed=seed + 3))
    if level.recolours:
        made.append(
            layer.RandomColorJitter(
                brightness_factor=level.brightness,
                contrast_factor=level.contrast,
                saturation_factor=(0.5 - level.saturation / 2, 0.5 + level.saturation / 2),
                seed=seed + 4,
            )
        )
    return made


def train(
    backbone: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    *,
    backup: str | pathlib.Path = "",
    after: Callable[[int, dict[str, Any]], None] = lambda epoch, row: None,
) -> None:
    """Trains a backbone in place, with heads that are thrown away.

    AdamW with a linear warm-up of one epoch and half a cosine (Loshchilov & Hutter, 2017, section
    3), gradients clipped to a norm of 1.

    Args:
        backbone: float32 [b, s, s, 3] in [0, 255] to a map [b, h, w, c].
        images: uint8 [n, s, s, 3]; s is even where steps are halved.
        labels: int [n], from 0 on.
        settings: How to train.
        backup: Folder that an interrupted training goes on from, for the caller to delete; "" keeps
            none.
        after: Called after an epoch with the number of epochs that are new, and with loss and
            accuracy. It is 1, or more for the first of a training that goes on.
    """
    classes = int(labels.max()) + 1
    keras.utils.set_random_seed(settings.seed)
    seen = views(settings.level, settings.seed)
    model = _model(backbone, classes, settings, seen)
    _compile(model, classes, settings, steps=-(-len(images) // settings.batch_size))
    folder = pathlib.Path(backup) if backup else None
    first = _restore(model, folder) if folder else 0
    batches = Batches(images, labels, classes=classes, settings=settings, first_epoch=first)
    model.fit(
        batches,
        initial_epoch=first,
        epochs=settings.epochs,
        steps_per_epoch=batches.steps,
        shuffle=False,  # Keras would take the batches of all epochs in a random order
        verbose=0,
        callbacks=[_Epochs(seen, batches.steps, settings.seed, folder, after)],
    )


def _model(
    backbone: keras.Model, classes: int, settings: Settings, seen: list[keras.layers.Layer]
) -> keras.Model:
    """Returns images to logits: of the classes, and with rotation of the turns behind them."""
    pixels = keras.Input(backbone.input_shape[1:])
    if settings.halved:
        pixels = keras.Input((None, None, backbone.input_shape[-1]))
        # The same layers, so the same weights, without a size of their own.
        backbone = keras.models.clone_model(
            backbone, input_tensors=pixels, clone_function=lambda layer: layer
        )
    x = pixels
    for layer in seen:
        if keras.backend.backend() == "jax":
            # Keras says of some that they cannot be compiled, which is true of TensorFlow's, and
            # would run the whole model operation by operation, a hundred times as slowly.
            layer.supports_jit = True
        x = layer(x)
    # Half of the bits are enough for the backbone, but not for the loss.
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(backbone(x))
    logits = keras.layers.Dense(classes)(pooled)
    if settings.rotation:
        # Where a companion's head starts, too: the turns are told apart by nothing yet.
        turns = keras.layers.Dense(TURNS, kernel_initializer="zeros")(pooled)
        logits = keras.layers.Concatenate()([logits, turns])
    return keras.Model(pixels, logits)


def _compile(model: keras.Model, classes: int, settings: Settings, *, steps: int) -> None:
    warm = round(min(1.0, settings.epochs / 2) * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, settings.epochs * steps - warm),
        warmup_target=settings.learning_rate,
        warmup_steps=max(1, warm),
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, global_clipnorm=CLIP_NORM),
        joint_loss.JointCrossentropy(classes, label_smoothing=settings.label_smoothing)
        if settings.rotation
        else keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=settings.label_smoothing
        ),
        metrics=[joint_loss.OwnAccuracy(classes, name="accuracy")],
    )


class _Epochs(keras.callbacks.Callback):
    """What an epoch begins and ends with: the seeds of its views; the caller; a backup."""

    def __init__(
        self,
        seen: list[keras.layers.Layer],
        steps: int,
        seed: int,
        folder: pathlib.Path | None,
        after: Callable[[int, dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self._seen, self._steps, self._seed, self._folder = seen, steps, seed, folder
        self._told, self._after = 0, after
        self._last = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the views where so many steps have led; a backup does not hold that."""
        for number, layer in enumerate(self._seen):
            layer.generator.state.assign([self._seed + number, epoch * self._steps])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps what an interrupted training goes on from, if the last is old, and tells."""
        if self._folder and time.monotonic() - self._last >= BACKUP_SECONDS:
            _back_up(self.model, self._folder, epoch + 1)
            self._last = time.monotonic()
        self._after(epoch + 1 - self._told, dict(logs or {}))
        self._told = epoch + 1


def _back_up(model: keras.Model, folder: pathlib.Path, epochs: int) -> None:
    """Writes weights and optimizer, then deletes what is older."""
    folder.mkdir(exist_ok=True)
    older = list(folder.glob(BACKUPS))
    whole = folder / BACKUPS.replace("*", f"{epochs:05}")
    # Under this name when it is whole: a run may be killed while it writes.
    part = folder / f"part{SUFFIX}"
    model.save_weights(part)
    part.replace(whole)
    for path in older:
        path.unlink()


def _restore(model: keras.Model, folder: pathlib.Path) -> int:
    """Returns after how many epochs the newest backup was written, once it is loaded; 0 if none."""
    kept = sorted(folder.glob(BACKUPS))
    if not kept:
        return 0
    model.optimizer.build(model.trainable_variables)
    model.load_weights(kept[-1])
    return int(kept[-1].name.removesuffix(SUFFIX).rpartition("-")[2])
