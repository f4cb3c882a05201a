"""From a split to batches: order, pixels, augmentation, one tf.data stream over all epochs.

    indices of an epoch -> batches of indices -> uint8 pixels -> augmented float32 -> prefetch

Batches of indices come first, so that an augmentation is one call a batch; decoded pixels are
cached before anything random, so that no epoch repeats another.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from finetune_kit import checks, cores
from finetune_kit.data import augment, levels, order, types

SAMPLINGS = ("natural", "balanced")
AHEAD = 2  # batches that wait for the device: one in use, one in reserve
MOST_CALLS = 16  # batches made at a time; more would only fill the memory


class Activations(Protocol):
    """What stands in the place of images: rows by position in the store and by view."""

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """[images, views, …], one a tensor."""

    def rows(self, images: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns [b, …] for each tensor, for images int [b] and the numbers of their views."""


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Returns the batches of an epoch of n images; the last one may be smaller."""
    return math.ceil(n / batch_size)


def batches(
    split: types.Split, *, seed: int, sampling: str = "natural", **others: Any
) -> tf.data.Dataset:
    """Returns the training batches of epochs `first_epoch` to `epochs` - 1 as one stream.

    The order depends on (seed, epoch), a view on (seed, epoch, the image's place in the split): the
    stream from (epoch, step) is the tail of the stream from the start.

    Args:
        split: n images.
        seed: Any integer.
        sampling: "natural": each image once an epoch; "balanced": each class equally often.
        **others: Of `ordered_batches`. num_classes: C. batch_size: images a batch; a batch never
            crosses an epoch. epochs: end of the last epoch, counted from 0. first_epoch: epoch to
            start with. first_step: batches of it to leave out. augmentation: a level of
            `levels.LEVELS`. views: views an image in all, taken in turn from epoch to epoch; 0
            draws new ones. activations: what a frozen network has made of those views, which takes
            the place of the images in the batch. class_weights: float32 [C], adds a weight for
            each image to the batch.

    Returns:
        Images float32 [b, h, w, N] in [0, 255], labels float32 [b, C] that sum to 1, and with
        `class_weights` weights float32 [b].

    Raises:
        ConfigError: An unknown level or sampling, or a batch size below 1.
    """
    checks.one_of("sampling", sampling, SAMPLINGS)
    order_of = functools.partial(places_of, split, sampling, seed=seed)
    return ordered_batches(split, order_of, seed=seed, **others)


def ordered_batches(
    split: types.Split,
    order_of: Callable[[int], np.ndarray],
    *,
    num_classes: int,
    batch_size: int,
    seed: int,
    epochs: int,
    first_epoch: int = 0,
    first_step: int = 0,
    augmentation: str = "none",
    views: int = 0,
    activations: Activations | None = None,
    class_weights: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Returns batches as `batches` does, of images in an order of one's own.

    Args:
        split: n images.
        order_of: From an epoch to the (position, occurrence) of its images, int64 [m, 2]; an image
            that occurs again in the epoch gets another view.
        num_classes, batch_size, seed, epochs, first_epoch, first_step, augmentation, views,
            activations, class_weights: As for `batches`.
    """
    checks.one_of("augment", augmentation, levels.LEVELS)
    checks.in_range("batch_size", batch_size, 1)
    checks.in_range("views", views, 0)
    level = levels.LEVELS[augmentation]
    read = _reader(split, seed=seed, views=views)
    recall = None if activations is None else _recaller(split, activations, views=views)

    def batch(epoch: tf.Tensor, places: tf.Tensor) -> tuple[Any, ...]:
        if recall is not None:
            rows, labels = recall(epoch, places)
            seen: tuple[Any, tf.Tensor] = rows, tf.one_hot(labels, num_classes)
        else:
            pixels, labels, draws = read(epoch, places)
            seen = augment.apply(pixels, tf.one_hot(labels, num_classes), draws, level)
        # A mixed image weighs what its parts weigh.
        return seen if class_weights is None else (*seen, tf.linalg.matvec(seen[1], class_weights))

    chunks = _chunks(order_of, batch_size=batch_size)
    stream = tf.data.Dataset.range(first_epoch, epochs).flat_map(chunks)
    return _mapped(stream.skip(first_step), batch)


def evaluation_batches(
    split: types.Split, *, batch_size: int = 64, activations: Activations | None = None
) -> tf.data.Dataset:
    """Returns images alone, float32 [b, h, w, N] in [0, 255], in order, each exactly once.

    Args:
        split: n images.
        batch_size: Images a batch; the last one may be smaller.
        activations: What a frozen network has made of them; it takes their place, its first view.

    Raises:
        ConfigError: A batch size below 1.
    """
    checks.in_range("batch_size", batch_size, 1)
    chunks = tf.data.Dataset.range(len(split)).batch(batch_size)
    if activations is not None:
        recall = _recaller(split, activations, views=1)
        return _mapped(chunks, lambda p: (recall(0, tf.stack([p, 0 * p], axis=1))[0],))
    shape = split.store.shape

    def batch(positions: tf.Tensor) -> tf.Tensor:
        pixels = _numpy(lambda c: split.store.batch(split.indices[c]), [positions], tf.uint8)
        pixels.set_shape([None, *shape])
        return tf.cast(pixels, tf.float32)

    return _mapped(chunks, batch)


def view_batches(
    split: types.Split, *, batch_size: int, augmentation: str, seed: int, view: int
) -> tf.data.Dataset:
    """Returns one view of every image, float32 [b, h, w, N] in [0, 255], in order.

    It is what `batches` shows with `views` above `view`, in the epochs in which that one's turn is.

    Args:
        split: n images.
        batch_size: Images a batch; the last one may be smaller.
        augmentation: A level of `levels.LEVELS` that mixes no images.
        seed: Any integer.
        view: Number of the view, from 0.

    Raises:
        ConfigError: The level mixes images, so that a view depends on the batch.
    """
    level = levels.LEVELS[augmentation]
    if level.mix:
        raise checks.ConfigError(
            "Kept views need an augmentation that looks at one image at a time. "
            + checks.received(augment=augmentation)
        )
    if level == levels.LEVELS["none"]:
        return evaluation_batches(split, batch_size=batch_size)
    read = _reader(split, seed=seed, views=view + 1)

    def batch(positions: tf.Tensor) -> tf.Tensor:
        places = tf.stack([positions, tf.zeros_like(positions)], axis=1)
        pixels, labels, draws = read(tf.constant(view, tf.int64), places)
        return augment.apply(pixels, tf.one_hot(labels, 1), draws, level)[0]

    return _mapped(tf.data.Dataset.range(len(split)).batch(batch_size), batch)


def places_of(split: types.Split, sampling: str, epoch: int, *, seed: int) -> np.ndarray:
    """Returns (position, occurrence) of an epoch's images in their order, int64 [n, 2].

    Args:
        split: n images.
        sampling: A name of `SAMPLINGS`.
        epoch: Counted from 0.
        seed: Any integer.
    """
    if sampling == "balanced":
        positions = order.balanced_order(split.labels, seed=seed, epoch=epoch)
    else:
        positions = order.epoch_order(len(split), seed=seed, epoch=epoch)
    return np.stack([positions, order.occurrences(positions)], axis=1)


def _chunks(
    order_of: Callable[[int], np.ndarray], *, batch_size: int
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """Returns a function from an epoch to its (epoch, places) batch by batch."""

    def chunks(epoch: tf.Tensor) -> tf.data.Dataset:
        order_in = _numpy(lambda e: order_of(int(e)), [epoch], tf.int64)
        order_in.set_shape([None, 2])
        return (
            tf.data.Dataset.from_tensor_slices(order_in)
            .batch(batch_size)
            .map(lambda chunk: (epoch, chunk))
        )

    return plain(chunks)


def _reader(
    split: types.Split, *, seed: int, views: int
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, ...]]:
    """Returns a function from (epoch, places) to pixels, labels and draws, as tensors."""

    def numbers(epoch: np.int64, places: np.ndarray) -> tuple[np.ndarray, ...]:
        positions, occurrence = places.T
        if views:
            # By its place in the store: views outlive the folds, which number images anew.
            turn = _turn(int(epoch), occurrence, views)
            draws = order.uniforms(seed, turn, split.indices[positions], augment.DRAWS)
        else:
            # An image that comes again in the epoch gets another view.
            keys = positions + len(split) * occurrence
            draws = order.uniforms(seed, int(epoch), keys, augment.DRAWS)
        return split.store.batch(split.indices[positions]), split.labels[positions], draws

    def read(epoch: tf.Tensor, places: tf.Tensor) -> tuple[tf.Tensor, ...]:
        kinds = (tf.uint8, tf.int64, tf.float32)
        pixels, labels, draws = _numpy(numbers, [epoch, places], kinds)
        pixels.set_shape([None, *split.store.shape])
        labels.set_shape([None])
        draws.set_shape([None, augment.DRAWS])
        return pixels, labels, draws

    return read


def _turn(epoch: int, occurrence: np.ndarray, views: int) -> np.ndarray:
    """Returns which view's turn it is, int64 [b]; an image that comes again shows the next one."""
    return np.asarray((epoch + occurrence) % views, np.int64)


def _recaller(
    split: types.Split, activations: Activations, *, views: int
) -> Callable[[tf.Tensor, tf.Tensor], tuple[Any, tf.Tensor]]:
    """Returns a function from (epoch, places) to activations and labels, as tensors."""
    arrays = activations.arrays

    def numbers(epoch: np.int64, places: np.ndarray) -> tuple[np.ndarray, ...]:
        positions, occurrence = places.T
        turn = _turn(int(epoch), occurrence, max(views, 1))
        rows = activations.rows(split.indices[positions], turn)
        return (*rows, split.labels[positions])

    def recall(epoch: tf.Tensor, places: tf.Tensor) -> tuple[Any, tf.Tensor]:
        kinds = [*(tf.as_dtype(array.dtype) for array in arrays), tf.int64]
        *rows, labels = _numpy(numbers, [epoch, places], kinds)
        for row, array in zip(rows, arrays, strict=True):
            row.set_shape([None, *array.shape[2:]])
        labels.set_shape([None])
        return (tuple(rows) if len(rows) > 1 else rows[0]), labels

    return recall


def _mapped(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    calls = min(cores.available(), MOST_CALLS)
    parallel = dataset.map(plain(function), num_parallel_calls=calls, deterministic=True)
    # One stage, on all cores: there is nothing to tune, and the tuner's thread now and then keeps
    # whoever is done with a stream waiting for seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    return parallel.prefetch(AHEAD).with_options(options)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that TensorFlow traces as it stands.

    AutoGraph would rewrite its source first, in search of branches on tensors; there are none, and
    it takes several times as long as tracing, for every stream that is made.
    """
    rewritten: Callable[..., Any] = tf.autograph.experimental.do_not_convert(function)
    return rewritten


def _numpy(function: Callable[..., Any], inputs: list[tf.Tensor], kinds: Any) -> Any:
    # Pure functions: declared stateful, they would run one at a time under op determinism.
    return tf.numpy_function(function, inputs, kinds, stateful=False)
