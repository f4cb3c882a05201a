"""Batches of two tasks side by side: every image beside one of its partners.

    rows 0 to b - 1: images of the target, exactly as `pipeline.batches` gives them
    rows b to 2b - 1: for each of them, one of its partners of the source, augmented likewise

Which partner comes is a function of (seed, epoch, the image's place in the split), as all else is.
"""

import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from finetune_kit import checks
from finetune_kit.data import order, pipeline, types


@dataclasses.dataclass(frozen=True)
class Partners:
    """What stands beside the images of a split.

    Attributes:
        images: m images of the source.
        num_classes: Classes of the source, C_s.
        neighbours: int64 [n, k], positions in `images` of the k partners of each of n images.
    """

    images: types.Split
    num_classes: int
    neighbours: np.ndarray


def paired_batches(
    split: types.Split,
    partners: Partners,
    *,
    shares: np.ndarray,
    num_classes: int,
    seed: int,
    sampling: str = "natural",
    class_weights: np.ndarray | None = None,
    **others: Any,
) -> tf.data.Dataset:
    """Returns the training batches of some epochs as one stream.

    The weighted mean loss is (1 - share) x that of the target's rows + share x the source's.

    Args:
        split: n images of the target.
        partners: What stands beside them.
        shares: float [steps], the source's share in [0, 1] of the loss at each step of the stream.
        num_classes: Classes of the target, C_t.
        seed, sampling: As for `pipeline.batches`.
        class_weights: float32 [C_t], weigh the target's images besides.
        **others: Of `pipeline.batches`: batch_size (images of the target a batch, b), epochs,
            first_epoch, augmentation.

    Returns:
        Images float32 [2b, h, w, N] in [0, 255]; labels float32 [2b, C_t + C_s], 0 in the block of
        the other task; weights float32 [2b].

    Raises:
        ConfigError: As for `pipeline.batches`, or not one row of neighbours an image.
    """
    if len(partners.neighbours) != len(split):
        raise checks.ConfigError(
            "Every image needs a row of neighbours. "
            + checks.received(images=len(split), rows=len(partners.neighbours))
        )
    own = pipeline.batches(
        split, num_classes=num_classes, seed=seed, sampling=sampling,
        class_weights=class_weights, **others,
    )  # fmt: skip
    beside = pipeline.ordered_batches(
        partners.images,
        functools.partial(_beside, split, partners, sampling, seed=seed),
        num_classes=partners.num_classes,
        seed=salted(seed, "views"),  # or partners would be mirrored when their images are
        **others,
    )
    at_each_step = tf.data.Dataset.from_tensor_slices(np.asarray(shares, np.float32))
    return tf.data.Dataset.zip(own, beside, at_each_step).map(_joined).prefetch(pipeline.AHEAD)


def partners_at(neighbours: np.ndarray, places: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Returns one partner for each place, int64 [b].

    Args:
        neighbours: int [n, k].
        places: int [b, 2], (position, occurrence) as `pipeline.places_of` gives them; an image that
            occurs again draws again.
        seed, epoch: Decide, with the place, which partner.
    """
    positions, occurrence = places.T
    keys = positions + len(neighbours) * occurrence
    draws = order.uniforms(salted(seed, "partners"), epoch, keys, 1)[:, 0]
    return neighbours[positions, (draws * neighbours.shape[1]).astype(np.int64)]


def salted(seed: int, salt: str) -> int:
    """Returns another seed, so that draws for different purposes have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{salt}".encode()).digest()[:8], "little")


def _beside(
    split: types.Split, partners: Partners, sampling: str, epoch: int, *, seed: int
) -> np.ndarray:
    """Returns (position, occurrence) of the partners of an epoch's images, int64 [n, 2]."""
    places = pipeline.places_of(split, sampling, epoch, seed=seed)
    positions = partners_at(partners.neighbours, places, seed=seed, epoch=epoch)
    return np.stack([positions, order.occurrences(positions)], axis=1)


@pipeline.plain
def _joined(own: Any, others: Any, share: tf.Tensor) -> tuple[tf.Tensor, ...]:
    (images, labels, *weights), (other_images, other_labels) = own, others
    ones = tf.ones(tf.shape(labels)[:1])
    return (
        tf.concat([images, other_images], axis=0),
        tf.concat(
            [
                tf.pad(labels, [[0, 0], [0, other_labels.shape[1]]]),
                tf.pad(other_labels, [[0, 0], [labels.shape[1], 0]]),
            ],
            axis=0,
        ),
        tf.concat([2 * (1 - share) * (weights[0] if weights else ones), 2 * share * ones], axis=0),
    )
