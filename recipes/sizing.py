"""Loads images at the size that suits them: what `advise` and `auto` do where none is given."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from finetune_kit import backbones, similarity
from finetune_kit.strategy import resolution
from recipes import loading, looking

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split

C = TypeVar("C", bound=Any)

MOST = 500  # images that are compared: a difference is known within three points by then


def load(config: C) -> "loading.Loaded[C]":
    """Loads as `loading.load` does; without `image_size`, at twice the default where that helps.

    Random weights are not asked, since they have learnt no size, and neither is any network where
    time is limited: the work is four times as much.

    Args:
        config: With the fields of `settings.Choices` and `settings.Source`.

    Raises:
        KitError: As `loading.load`.
    """
    loaded = loading.load(config)
    original = loaded.images.audit.median_side
    larger = backbones.catalogue.larger_size(config.backbone, original)
    if config.image_size or not larger or config.weights == "none" or config.time_budget:
        return loaded
    chosen = resolution.choose(
        loaded.images.image_size, larger, _recognised(loaded, larger), original=original
    )
    if chosen.size == larger:
        again = loading.load(dataclasses.replace(config, image_size=larger))
        both = {part: loaded.seconds[part] + spent for part, spent in again.seconds.items()}
        loaded = dataclasses.replace(again, seconds=both, started=loaded.started)
    return dataclasses.replace(loaded, why={**loaded.why, "resolution": chosen.reason})


def _recognised(loaded: "loading.Loaded[Any]", larger: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns what a probe recognises of a sample of the images at both sizes, two bool [m]."""
    config, images = loaded.config, loaded.images
    sample = looking.sample(images.train, MOST, seed=config.seed)
    there = dataclasses.replace(config, image_size=larger)
    ways = (
        (loaded.classifier.backbone, sample),
        (loading.load_backbone(there, weights=config.weights), sample.at_size(larger)),
    )
    near, far = (_hits(*way, classes=images.num_classes, seed=config.seed) for way in ways)
    return None if near is None or far is None else (near, far)


def _hits(backbone: "Backbone", split: "Split", *, classes: int, seed: int) -> np.ndarray | None:
    seen = similarity.observe(backbone, split)
    return similarity.recognised(seen.features, split.labels, num_classes=classes, seed=seed)
