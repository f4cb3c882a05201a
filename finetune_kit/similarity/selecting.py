"""Source images that look like the target's to the first filters of a backbone.

An image is described by what each filter answers over its area: a histogram a channel, in bins
that hold equally much of the target's answers. Images with like histograms are near each other,
whatever they show (Ge & Yu, 2017, "Borrowing Treasures from the Wealthy: Deep Transfer Learning
through Selective Joint Fine-Tuning", sections 3.2 and 3.3). The paper uses Gabor filters or two
layers of AlexNet and 100 bins; here the filters are the first stages of the backbone at hand.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks, data

if TYPE_CHECKING:
    import keras

    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split

Progress = Callable[[int], None]

STAGES = 2  # the first ones; the paper takes low-level filters, as they know no classes
BINS = 16  # the maps of small images have too few places for the paper's 100
EDGE_IMAGES, EDGE_PLACES = 128, 1024  # most answers that edges rest on: what memory holds
DISTANCES = ("hellinger", "kl")
EPSILON = 2.2e-16  # added to a frequency before its logarithm, as the authors' code does
BATCH = 128  # images described, and compared, at a time


def nearest(
    backbone: "Backbone",
    target: "Split",
    source: "Split",
    *,
    neighbours: int,
    distance: str = "hellinger",
    progress: Progress | None = None,
) -> np.ndarray:
    """Returns the nearest source images of every target image, int64 [n, neighbours].

    Each image passes once through the first stages. Of the source, nothing is kept but the nearest
    found so far, so that it may be of any size.

    Args:
        backbone: In the state in which it knows the source.
        target: n images; their labels play no part.
        source: m images.
        neighbours: Source images for each target image.
        distance: See `select`.
        progress: Called with the number of images that were described since the last call.

    Raises:
        ConfigError: More neighbours than source images, or an unknown distance.
    """
    checks.in_range("neighbours", neighbours, 1, len(source))
    bank = filter_bank(backbone)
    spread = np.unique(np.linspace(0, len(target) - 1, EDGE_IMAGES).astype(np.int64))
    edges = edges_of(_answers(bank, target.take(spread)))
    seen = [descriptors(found, edges) for found in _answers(bank, target, progress)]
    others = (descriptors(found, edges) for found in _answers(bank, source, progress))
    return select(np.concatenate(seen), others, neighbours=neighbours, distance=distance)


def at_random(chosen: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Returns a selection of random source images in place of the nearest: the paper's control.

    As many different images stand beside each target image, and as many in all, each as often;
    only the likeness is gone.

    Args:
        chosen: int [n, k], what `nearest` returned.
        count: Source images, m.
        seed: Draws who takes whose place.
    """
    return np.random.default_rng(seed).permutation(count)[chosen]


def filter_bank(backbone: "Backbone") -> "keras.Model":
    """Returns the model from pixels float32 [b, h, w, 3] to the maps of the first stages."""
    import keras

    outputs = [stage.output for stage in backbone.stages[:STAGES]]
    return keras.Model(backbone.model.inputs[0], outputs)


def edges_of(answers: Iterable[Sequence[np.ndarray]], *, bins: int = BINS) -> list[np.ndarray]:
    """Returns the inner edges of each layer's bins, float32 [c, bins - 1], lowest first.

    They are quantiles, so that each bin of a channel holds equally many of the answers. A filter
    that is often silent has several edges at its silence; the bins between them stay empty.

    Args:
        answers: Batches of maps, one a layer, float [b, h, w, c].
        bins: Bins a channel, at least 2.
    """
    parts = [[_places(layer) for layer in layers] for layers in answers]
    at = np.arange(1, bins) / bins
    return [
        np.quantile(np.concatenate(layer), at, axis=0).T.astype(np.float32)
        for layer in zip(*parts, strict=True)
    ]


def histograms(answers: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the share of an image's area in each bin, float32 [b, c, bins].

    Args:
        answers: float [b, h, w, c].
        edges: float32 [c, bins - 1]; an answer at an edge belongs to the bin above it.
    """
    n, channels, bins = len(answers), len(edges), edges.shape[1] + 1
    by_channel = np.ascontiguousarray(answers.reshape(n, -1, channels).transpose(2, 0, 1))
    first = bins * np.arange(n)[:, None]  # of an image, in a count over all images at once
    counts = [
        np.bincount(
            (np.searchsorted(own, values, side="right") + first).ravel(), minlength=n * bins
        )
        for own, values in zip(edges, by_channel, strict=True)
    ]
    area = by_channel.shape[2]
    return (np.stack(counts).reshape(channels, n, bins) / area).swapaxes(0, 1).astype(np.float32)


def descriptors(answers: Sequence[np.ndarray], edges: Sequence[np.ndarray]) -> np.ndarray:
    """Returns roots of the histograms, float32 [b, d] of length 1: one entry a channel and bin.

    Layers weigh the same, and so do the channels of a layer, as in the authors' code. The inner
    product of two rows is the Bhattacharyya coefficient, 1 - (Hellinger distance)^2.

    Args:
        answers: One a layer, float [b, h, w, c].
        edges: One a layer, float32 [c, bins - 1].
    """
    parts = [
        np.sqrt(histograms(layer, own) / (len(edges) * len(own))).reshape(len(layer), -1)
        for layer, own in zip(answers, edges, strict=True)
    ]
    return np.concatenate(parts, axis=1)


def select(
    target: np.ndarray,
    source: "np.ndarray | Iterable[np.ndarray]",
    *,
    neighbours: int,
    distance: str = "hellinger",
) -> np.ndarray:
    """Returns the nearest source images of every target image, nearest first, int64 [n, k].

    Args:
        target: float32 [n, d], what `descriptors` returns.
        source: float32 [m, d], or batches of such rows.
        neighbours: k; of images at one distance, the first come first.
        distance: "hellinger", or "kl": the symmetric divergence of Kullback and Leibler, which the
            paper uses.

    Raises:
        ConfigError: More neighbours than source images, or an unknown distance.
    """
    checks.one_of("distance", distance, DISTANCES)
    score = _likeness if distance == "hellinger" else _negative_divergence
    best = np.empty((len(target), 0), np.float32)
    found = np.empty((len(target), 0), np.int64)
    seen = 0
    for batch in [source] if isinstance(source, np.ndarray) else source:
        places = np.broadcast_to(np.arange(seen, seen + len(batch)), (len(target), len(batch)))
        best = np.concatenate([best, score(target, batch)], axis=1)
        found = np.concatenate([found, places], axis=1)
        # Those found earlier stand on the left, so that a stable order lets them win a tie.
        kept = np.argsort(-best, axis=1, kind="stable")[:, :neighbours]
        best, found = np.take_along_axis(best, kept, 1), np.take_along_axis(found, kept, 1)
        seen += len(batch)
    checks.in_range("neighbours", neighbours, 1, seen)
    return found


def _likeness(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    return target @ source.T


def _negative_divergence(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Returns minus the mean of both divergences, [n, b]: matrix products, as its terms are."""
    p, q = target.astype(np.float64) ** 2, source.astype(np.float64) ** 2
    log_p, log_q = np.log(p + EPSILON), np.log(q + EPSILON)
    own = (p * log_p).sum(axis=1)[:, None] + (q * log_q).sum(axis=1)
    return (p @ log_q.T + log_p @ q.T - own) / 2


def _places(layer: np.ndarray) -> np.ndarray:
    """Returns the answers at evenly spread places of every image, [b * places, c]."""
    flat = layer.reshape(len(layer), -1, layer.shape[-1])
    step = -(-flat.shape[1] // EDGE_PLACES)
    return flat[:, ::step].reshape(-1, layer.shape[-1])


def _answers(
    bank: "keras.Model", split: "Split", progress: Progress | None = None
) -> Iterator[list[np.ndarray]]:
    """Yields the maps of the filter bank batch by batch, float32 [b, h, w, c] each."""
    for pixels in data.evaluation_batches(split, batch_size=BATCH).as_numpy_iterator():
        maps = bank.predict_on_batch(pixels)
        if progress is not None:
            progress(len(pixels))
        layers = maps if isinstance(maps, list) else [maps]
        yield [np.asarray(layer, np.float32) for layer in layers]
