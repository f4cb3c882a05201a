"""Which image comes when, how much it counts, and every random draw.

All are functions of (seed, epoch, image). Nothing is remembered between epochs, so that a run can
go on in mid-epoch, and a batch can be made again, on any machine.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of SplitMix64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def epoch_order(n: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns a permutation of range(n), int64 [n], that depends on (seed, epoch) alone.

    The pair is hashed, so that seed 0 in epoch 1 has nothing in common with seed 1 in epoch 0.
    """
    return _generator(seed, epoch).permutation(n)


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Returns n positions, int64 [n], in which every class appears equally often (within one).

    An image of a class is drawn again only when all images of its class have been drawn.

    Args:
        labels: int [n].
    """
    generator = _generator(seed, epoch)
    classes = generator.permutation(np.unique(labels))
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[: len(labels) % len(classes)] += 1
    drawn = []
    for label, share in zip(classes, shares, strict=True):
        members = np.flatnonzero(labels == label)
        rounds = -(-share // len(members))
        drawn += [np.concatenate([generator.permutation(members) for _ in range(rounds)])[:share]]
    return generator.permutation(np.concatenate(drawn))


def occurrences(order: np.ndarray) -> np.ndarray:
    """Returns how often each entry has come before, int64 [n]: [7, 3, 7] gives [0, 0, 1]."""
    ranked = np.argsort(order, kind="stable")
    values = order[ranked]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    earlier = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    counts = np.empty(len(order), np.int64)
    counts[ranked] = earlier
    return counts


def uniforms(seed: int, epoch: int | np.ndarray, indices: np.ndarray, count: int) -> np.ndarray:
    """Returns draws in [0, 1), float32 [b, count], one row an image.

    Row i depends on (seed, epoch, indices[i]) alone, whatever else is in the batch. SplitMix64
    (Steele, Lea & Flood, 2014, section 4) is used as a counter-based generator.

    Args:
        seed: Any integer.
        epoch: Any integer, or one for each row, int [b].
        indices: int [b], at least 0.
        count: Draws an image.
    """
    epochs, which = np.unique(epoch, return_inverse=True)
    keys = [int.from_bytes(_digest(seed, int(one))[:8], "little") for one in epochs]
    key = np.array(keys, np.uint64)[which].reshape(-1, 1)
    columns = np.arange(count, dtype=np.uint64)
    counter = np.asarray(indices, np.uint64)[:, None] * np.uint64(count) + columns
    state = _mix(key + (counter + np.uint64(1)) * _GOLDEN)
    # 24 bits are what a float32 holds, so that the largest draw stays below 1.
    return ((state >> np.uint64(40)).astype(np.float64) / 2.0**24).astype(np.float32)


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Returns weights inverse to class frequency with mean 1 over the images, float32 [C].

    Args:
        counts: int [C]; a class without an image gets weight 0.
    """
    present = counts > 0
    weights = np.zeros(len(counts), np.float64)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def _digest(seed: int, epoch: int) -> bytes:
    return hashlib.sha256(f"{seed}:{epoch}".encode()).digest()


def _generator(seed: int, epoch: int) -> np.random.Generator:
    key = int.from_bytes(_digest(seed, epoch)[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))
