"""How near images are to the source of a backbone: everything in one call.

Synopsis:

    near = similarity.measure(backbone, images.train)
    near.value, near.shift, similarity.per_stage(near)
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit.data import sizes
from finetune_kit.similarity import (
    calibration,
    frechet,
    innovation,
    moments,
    observing,
    preprocessing,
    types,
)

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split

# Beyond, the interval is already narrower than the difference between any two real sets.
MAX_IMAGES = 500


def measure(
    backbone: "Backbone",
    split: "Split",
    *,
    seed: int = 0,
    observation: observing.Observation | None = None,
    observer: observing.Observer | None = None,
) -> types.Similarity:
    """Returns how near the images of a split are to the source of a backbone.

    No labels are looked at, and the backbone is left as it was.

    Args:
        backbone: Its BatchNorm layers or its card say what the source was like; in RGB alone.
        split: n images of its size; without an observation, up to `MAX_IMAGES` of them are used.
        seed: Decides which, and seeds the bootstrap.
        observation: What the backbone sees of exactly these images, if that is known already.
        observer: An observer of this backbone, if there is one already.
    """
    if observation is None and len(split) > MAX_IMAGES:
        chosen = np.random.default_rng(seed).permutation(len(split))[:MAX_IMAGES]
        split = split.take(np.sort(chosen))
    known = moments.sources(backbone)
    reason = _unknown(backbone, len(split), known is not None)
    if known is None or reason:
        return _nothing(len(split), reason)
    observer = observer or observing.Observer(backbone)
    seen = observation or observer.observe(split)
    found = moments.distances(seen, known, seed=seed)
    new = innovation.innovations(backbone, split, known, seed=seed)
    null = calibration.null(backbone.card.null_quantiles if backbone.card else {}, len(split))
    noise = calibration.noise(observer, known)
    notes = [preprocessing.check(backbone, split, seed=seed), _other_size(backbone)]
    if noise <= null:
        notes.append("Noise is no farther from the source than images of it: no scale can be made.")
    return types.Similarity(
        value=calibration.similarity(found.overall, null=null, noise=noise)
        if noise > null
        else None,
        distance=found.overall,
        profile=_profile(seen, found, new),
        shift=_shift(seen, found, new, null),
        feature_distance=frechet.feature_distance(backbone.card, seen.pooled_features)
        if backbone.card
        else None,
        null=null,
        noise=noise,
        images=len(split),
        notes=tuple(note for note in notes if note),
    )


def per_stage(similarity: types.Similarity) -> dict[str, float]:
    """Returns stage to the root mean square of the distances of its taps, from input to output."""
    by_stage: dict[str, list[float]] = {}
    for depth in similarity.profile:
        by_stage.setdefault(depth.stage, []).append(depth.distance.value)
    return {
        stage: math.sqrt(float(np.mean(np.square(values)))) for stage, values in by_stage.items()
    }


def _unknown(backbone: "Backbone", images: int, known: bool) -> str:
    """Returns why nothing can be said, "" if something can."""
    if images < moments.MIN_IMAGES:
        return f"Similarity is unknown: it takes {moments.MIN_IMAGES} images, there are {images}."
    if backbone.weights == "none":
        return "Similarity is unknown: random weights have no source."
    if backbone.channels != sizes.COLOURS:
        return (
            "Similarity is unknown: the source is known in RGB, and these images have "
            f"{backbone.channels} channel{'s' if backbone.channels > 1 else ''}."
        )
    if not known:
        return (
            f"Similarity is unknown: {backbone.name} has no BatchNorm layer that remembers its "
            "source. Make a source card with `finetune-kit source-card` from images of the source."
        )
    return ""


def _nothing(images: int, reason: str) -> types.Similarity:
    return types.Similarity(
        value=None,
        distance=None,
        profile=(),
        shift=types.UNKNOWN,
        feature_distance=None,
        null=0.0,
        noise=0.0,
        images=images,
        notes=(reason,),
    )


def _profile(
    seen: observing.Observation, found: moments.Distances, new: Mapping[str, float] | None
) -> tuple[types.Depth, ...]:
    return tuple(
        types.Depth(
            tap=tap.tap,
            stage=tap.stage,
            distance=found.taps[tap.tap],
            innovation=None if new is None else math.sqrt(max(0.0, new[tap.tap])),
        )
        for tap in seen.seen
    )


def _shift(
    seen: observing.Observation,
    found: moments.Distances,
    new: Mapping[str, float] | None,
    null: float,
) -> str:
    if found.overall.low <= null:
        return types.NONE  # chance alone would show as much
    if new is None:
        return types.UNKNOWN
    return innovation.shift([tap.stage for tap in seen.seen], new)


def _other_size(backbone: "Backbone") -> str:
    if backbone.card is None or backbone.card.image_size == backbone.image_size:
        return ""
    measured, seen = (sizes.shown(each.image_size) for each in (backbone.card, backbone))
    return (
        f"The source card was measured at {measured} px, the images are seen at {seen} px: part of "
        "the distance is that."
    )
