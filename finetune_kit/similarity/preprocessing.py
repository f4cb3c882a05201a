"""Whether the weights expect pixels that are scaled in another way than the network scales them.

The first BatchNorm layer remembers what the first convolution made of the pixels it was trained
on. If another usual scaling brings the images much nearer to that, the scaling is wrong, or the
weights are.

Dark, pale or flat images would look like a wrong scaling. So their channels are first brought to
the mean and deviation of ImageNet's photographs: what remains to be compared is their texture. With
the right scaling seven real sets, grey and inverted ones too, were nearest under it on four
networks, and any other scaling was at least 1.36 times as far; `FACTOR` is between 1 and that.
"""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import data
from finetune_kit.backbones import catalogue, scaling, taps
from finetune_kit.similarity import moments, observing

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split

IMAGES, CHUNKS = 64, 4
FACTOR = 1.2
# No set above was farther than 0.53 source deviations from the first layer under its own scaling.
FOREIGN = 1.0
# A card measured on the source agrees with what the layer remembers: nothing is left to ask.
CONFIRMED = 0.5
SCALINGS = {
    "none": "raw values from 0 to 255",
    "unit": "values from 0 to 1",
    "tf": "values from -1 to 1",
    "torch": "values less ImageNet's mean, over its deviation",
    "caffe": "BGR values from 0 to 255 less ImageNet's mean",
}


def check(backbone: "Backbone", split: "Split", *, seed: int = 0) -> str:
    """Returns a sentence that names the scaling that the weights expect, "" if all is well.

    Only the layers up to the first BatchNorm layer are run, on up to `IMAGES` images.

    Args:
        backbone: A network whose scaling is known. Its weights are asked through the moving
            statistics of the first BatchNorm layer; without one there is nothing to ask.
        split: n images.
        seed: Decides which of them are used.
    """
    tap = taps.find_taps(backbone.model, backbone.stages)[0]
    own = backbone.preprocessing
    if tap.layer is None or backbone.weights == "none" or not own:
        return ""
    known = moments.remembered([tap])[tap.name]
    if backbone.card is not None and _confirms(backbone.card.moments[tap.name], known):
        return ""
    chosen = np.random.default_rng(seed).permutation(len(split))[:IMAGES]
    batches = data.evaluation_batches(split.take(np.sort(chosen)))
    pixels = photographic(np.concatenate([np.asarray(batch) for batch in batches]))
    if pixels is None or len(pixels) < CHUNKS:
        return ""
    first = keras.Model(backbone.model.inputs[0], observing.pool(tap.tensor))
    distances = {
        name: _distance(first, tap, pixels if name == own else unscaled(scaled(pixels, name), own),
                        known)
        for name in SCALINGS
    }  # fmt: skip
    return _verdict(distances, own, tap.name, told=backbone.weights == catalogue.OWN)


def photographic(pixels: np.ndarray) -> np.ndarray | None:
    """Returns images whose channels have the mean and deviation of ImageNet's, over all of them.

    Args:
        pixels: float32 [n, h, w, 3] in [0, 255].

    Returns:
        float32 of the same shape, hardly outside [0, 255]; None if a channel is constant.
    """
    deviation = pixels.std(axis=(0, 1, 2))
    if deviation.min() < 1.0:
        return None
    standard = (pixels - pixels.mean(axis=(0, 1, 2))) / deviation
    scale, offset = (255 * np.array(x) for x in (scaling.TORCH_DEVIATIONS, scaling.TORCH_MEANS))
    return np.asarray(standard * scale + offset, np.float32)


def scaled(pixels: np.ndarray, name: str) -> np.ndarray:
    """Returns raw pixels as a scaling of `SCALINGS` makes them."""
    return np.asarray(keras.ops.convert_to_numpy(scaling.preprocess(pixels, name)))


def unscaled(values: np.ndarray, mode: str) -> np.ndarray:
    """Returns the pixels of which a network's own preprocessing makes `values`.

    Args:
        values: float32 [n, h, w, 3].
        mode: One of `catalogue.PREPROCESSING`.
    """
    # Every preprocessing is a line in each channel, so two of its values say which; in BGR the
    # channels change places.
    ends = np.zeros((2, 1, 1, 3), np.float32)
    ends[1] = 255
    low, high = scaled(ends, mode)[:, 0, 0].astype(np.float64)
    pixels = (values - low) * (255 / (high - low))
    return np.asarray(pixels[..., ::-1] if mode == "caffe" else pixels, np.float32)


def _distance(
    first: keras.Model, tap: taps.Tap, pixels: np.ndarray, known: moments.Source
) -> float:
    # Eagerly: a few images through a layer or two are not worth tracing.
    parts = [first(chunk, training=False) for chunk in np.array_split(pixels, CHUNKS)]
    means, variances = (np.concatenate(x) for x in zip(*parts, strict=True))
    seen = observing.Seen(tap.name, tap.stage, means, variances)
    return max(0.0, moments.debiased(seen, known)) ** 0.5


def _confirms(measured: tuple[Any, Any], known: moments.Source) -> bool:
    mean, variance = (np.asarray(x, np.float64) for x in measured)
    return float(moments.squared(mean, variance + mean**2, known)) < CONFIRMED**2


def _verdict(distances: dict[str, float], own: str, tap: str, *, told: bool) -> str:
    """Returns what the distances by scaling say; `told` is whether the user decides the scaling."""
    nearest = min(distances, key=lambda name: distances[name])
    here, there = distances[own], distances[nearest]
    if there > FOREIGN:
        return (
            f"The weights fit none of the usual scalings of pixels: at {tap}, the first BatchNorm "
            f"layer, even the nearest ({SCALINGS[nearest]}) is {there:.1f} deviations off. They "
            "may be those of another network."
        )
    if here <= FACTOR * there:
        return ""
    return (
        f"The weights seem to expect {SCALINGS[nearest]}, while the network gives them "
        f"{SCALINGS[own]}: at {tap}, the first BatchNorm layer, the images would be "
        f"{here / max(there, 1e-3):.3g} times nearer to what it remembers."
        + (f" Try --preprocessing={nearest}." if told else "")
    )
