"""A pretrained network behind one type."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_kit.data import sizes

if TYPE_CHECKING:
    import keras

    from finetune_kit.backbones.card import SourceCard
    from finetune_kit.backbones.keys import KeyReport


@dataclasses.dataclass(frozen=True)
class Stage:
    """Layers of one depth.

    Attributes:
        name: `stem`, `stage_1`, … in the order of depth.
        layers: Names of the layers of the flat graph that belong to it.
        output: The single tensor at its end, float [b, h, w, c], or tokens [b, n, c].
        divisor: Input side divided by the side of `output`, rounded to a power of two.
    """

    name: str
    layers: tuple[str, ...]
    output: Any
    divisor: int


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network from raw pixels to a feature map.

    Attributes:
        name: In the catalogue, `hub:PRESET`, or the `.keras` file or name of a user's model.
        model: One flat functional graph: float32 [b, height, width, N] in [0, 255] to [b, h, w, c].
        stages: Every layer in exactly one stage, from input to output.
        image_size: Side in pixels of square images, else (height, width).
        weights: Where the weights came from: a file, "imagenet", "bundled", "own" or "none".
        source_classes: Classes of the head that the weights file holds besides; None without one.
        card: What is known of the source data, or None.
        arguments: What the constructor was called with besides what the kit sets itself.
        preprocessing: How `model` scales raw pixels for the network, see `catalogue.PREPROCESSING`;
            "" where that is not known.
        head: What a user's own model has behind the map: [b, h, w, c] to logits; None without.
        keys: What the weights gave; None for random ones and for a user's own model.
    """

    name: str
    model: "keras.Model"
    stages: tuple[Stage, ...]
    image_size: sizes.Size
    weights: str
    source_classes: int | None = None
    card: "SourceCard | None" = None
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: str = ""
    head: "keras.Model | None" = None
    keys: "KeyReport | None" = None

    @property
    def channels(self) -> int:
        """Channels of the images that `model` takes, N."""
        return int(self.model.inputs[0].shape[-1])
