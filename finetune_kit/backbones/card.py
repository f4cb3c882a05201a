"""The source card: what a backbone was trained on, in numbers, beside its weights.

The bundled card is a folder's `card.json` and `statistics.npz`; a card that a user makes is one
`.npz` file that holds both. Of images of another size the folder has such a file, `card_64.npz`.
"""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import taps
from finetune_kit.data import sizes

CARD, STATISTICS = "card.json", "statistics.npz"
FACTS = "facts"  # where the JSON is in a card of one file
SUFFIX = ".npz"
MAX_ROWS = 512  # features that a card ships: of the bundled network, a quarter of a MiB
ARRAYS = ("feature_mean", "feature_covariance", "prototypes", "features")
OPTIONAL = ("prototypes", "features")


@dataclasses.dataclass(frozen=True)
class SourceCard:
    """What is known of the data that a backbone was trained on.

    Attributes:
        trained_on: Name of the source data, with counts.
        terms: Terms of the source data.
        class_names: C source classes; empty if the images were not labelled.
        image_size: Side in pixels at training, or (height, width).
        accuracy: On the source's test split: value, low, high (95 %, Wilson), n; empty if unknown.
        recipe: The command and the settings that made the weights, or the card.
        moments: Tap to (mean, variance) of its values over source images, each float32 [c]. The
            taps are the inputs of the BatchNorm layers, or the ends of the stages without them.
        feature_mean: float32 [d], of the pooled features.
        feature_covariance: float32 [d, d].
        prototypes: float32 [C, d], the mean pooled feature of each class; None without labels.
        features: float16 [m, d], the pooled features of up to `MAX_ROWS` source images that were
            not trained on, where there are such; None in older cards.
        null_quantiles: Sample size n to the distance W that 95 % of samples of n source images
            stay below; empty in older cards.
    """

    trained_on: str
    terms: str
    class_names: tuple[str, ...]
    image_size: sizes.Size
    accuracy: dict[str, float]
    recipe: dict[str, Any]
    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    feature_mean: np.ndarray
    feature_covariance: np.ndarray
    prototypes: np.ndarray | None
    features: np.ndarray | None = None
    null_quantiles: dict[int, float] = dataclasses.field(default_factory=dict)


def read(folder: pathlib.Path, image_size: sizes.Size | None = None) -> SourceCard | None:
    """Returns the card in a folder, None if there is none.

    Args:
        folder: Of the weights.
        image_size: What the network sees; a card that was measured at this size is preferred.
    """
    if image_size is not None:
        other = folder / f"card_{sizes.shown(image_size)}{SUFFIX}"
        if other.is_file():
            return read_file(other)
    if not (folder / CARD).is_file():
        return None
    facts = json.loads((folder / CARD).read_text(encoding="utf-8"))
    with np.load(folder / STATISTICS) as arrays:
        return _joined(facts, arrays)


def further(folder: pathlib.Path) -> list[SourceCard]:
    """Returns the cards in a folder of images of other sizes."""
    return [read_file(path) for path in sorted(folder.glob(f"card_*{SUFFIX}"))]


def write(card: SourceCard, folder: pathlib.Path) -> None:
    """Writes a card as JSON and npz into an existing folder."""
    text = json.dumps(_facts(card), indent=2) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    np.savez_compressed(folder / STATISTICS, **_arrays(card))


def read_file(path: str | os.PathLike[str]) -> SourceCard:
    """Returns the card in one file.

    Raises:
        WeightsError: No such file, or none that `write_file` wrote.
    """
    if not pathlib.Path(path).is_file():
        raise checks.WeightsError(
            "--source_card needs a file that `finetune-kit source-card` wrote. "
            f"Received: {os.fspath(path)!r}, which does not exist."
        )
    try:
        with np.load(path) as arrays:
            return _joined(json.loads(str(arrays[FACTS])), arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise checks.WeightsError(
            "--source_card needs a file that `finetune-kit source-card` wrote. "
            f"Received: {os.fspath(path)!r}: {' '.join(str(error).split())[:200]}"
        ) from error


def write_file(card: SourceCard, path: str | os.PathLike[str]) -> None:
    """Writes a card as one file, whose name must end in `.npz`."""
    facts: dict[str, Any] = {FACTS: np.array(json.dumps(_facts(card)))}
    np.savez_compressed(path, **_arrays(card), **facts)


def refuse_unfit(
    card: SourceCard, found: Sequence[taps.Tap], *, features: int, path: str, network: str
) -> None:
    """Refuses a card that was made for another network.

    Args:
        card: The card.
        found: The taps of the network.
        features: d, channels of its last map.
        path: Where the card is, for the error.
        network: Name of the network, for the error.

    Raises:
        WeightsError: Taps, their channels or the width of the features differ.
    """
    needed = {tap.name: tap.channels for tap in found}
    known = {name: len(mean) for name, (mean, _) in card.moments.items()}
    width = len(card.feature_mean)
    if needed == known and width == features:
        return
    odd = [name for name in {**needed, **known} if needed.get(name) != known.get(name)]
    difference = f"it differs at {', '.join(odd[:3])}{', …' if len(odd) > 3 else ''}"
    raise checks.WeightsError(
        f"--source_card must have been made for {network}, with {len(needed)} taps and {features} "
        f"features. Received: {path!r} with {len(known)} taps and {width} features"
        f"{f'; {difference}' if odd else ''}. Make one with `finetune-kit source-card`."
    )


def _facts(card: SourceCard) -> dict[str, Any]:
    """Returns what JSON holds."""
    names = [field.name for field in dataclasses.fields(card)]
    facts = {name: getattr(card, name) for name in names if name not in ("moments", *ARRAYS)}
    return {**facts, "layers": list(card.moments)}


def _arrays(card: SourceCard) -> dict[str, Any]:
    """Returns what npz holds."""
    arrays = {name: getattr(card, name) for name in ARRAYS if getattr(card, name) is not None}
    for layer, (mean, variance) in card.moments.items():
        arrays |= {f"mean/{layer}": mean, f"variance/{layer}": variance}
    return arrays


def _joined(facts: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> SourceCard:
    layers = facts.pop("layers")
    nulls = facts.pop("null_quantiles", {})
    given = {name: arrays[name] for name in ARRAYS if name in arrays or name not in OPTIONAL}
    as_made = {
        "class_names": tuple(facts["class_names"]),
        "image_size": sizes.canonical(facts["image_size"]),
    }
    return SourceCard(
        **{"prototypes": None, **facts, **given, **as_made},
        moments={layer: (arrays[f"mean/{layer}"], arrays[f"variance/{layer}"]) for layer in layers},
        null_quantiles={int(n): float(quantile) for n, quantile in nulls.items()},
    )


def feature_statistics(
    features: np.ndarray, labels: np.ndarray | None, *, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Returns mean [d], covariance [d, d] and class means [C, d] of features [n, d], float32.

    Without labels there are no class means.
    """
    covariance = np.cov(features, rowvar=False)
    prototypes = None
    if labels is not None:
        means = [features[labels == c].mean(axis=0) for c in range(num_classes)]
        prototypes = np.stack(means).astype(np.float32)
    return (
        features.mean(axis=0).astype(np.float32),
        covariance.astype(np.float32),
        prototypes,
    )
