"""The source card: what a backbone was trained on, in numbers, beside its weights."""

import dataclasses
import json
import pathlib
from typing import Any

import keras
import numpy as np

from finetune_kit import checks, data

CARD, STATISTICS = "card.json", "statistics.npz"


@dataclasses.dataclass(frozen=True)
class SourceCard:
    """What is known of the data that a backbone was trained on.

    Attributes:
        trained_on: Name of the source data, with counts.
        terms: Terms of the source data.
        class_names: C source classes.
        image_size: Side in pixels at training.
        accuracy: On the source's test split: value, low, high (95 %, Wilson), n.
        recipe: The command and the settings that made the weights.
        moments: BatchNorm layer to (mean, variance) of its input over source images, each
            float32 [c].
        feature_mean: float32 [d], of the pooled features.
        feature_covariance: float32 [d, d].
        prototypes: float32 [C, d], the mean pooled feature of each class.
    """

    trained_on: str
    terms: str
    class_names: tuple[str, ...]
    image_size: int
    accuracy: dict[str, float]
    recipe: dict[str, Any]
    moments: dict[str, tuple[np.ndarray, np.ndarray]]
    feature_mean: np.ndarray
    feature_covariance: np.ndarray
    prototypes: np.ndarray


def read(folder: pathlib.Path) -> SourceCard | None:
    """Returns the card in a folder, None if there is none."""
    if not (folder / CARD).is_file():
        return None
    facts = json.loads((folder / CARD).read_text(encoding="utf-8"))
    with np.load(folder / STATISTICS) as arrays:
        moments = {
            layer: (arrays[f"mean/{layer}"], arrays[f"variance/{layer}"])
            for layer in facts.pop("layers")
        }
        return SourceCard(
            **{**facts, "class_names": tuple(facts["class_names"])},
            moments=moments,
            feature_mean=arrays["feature_mean"],
            feature_covariance=arrays["feature_covariance"],
            prototypes=arrays["prototypes"],
        )


def write(card: SourceCard, folder: pathlib.Path) -> None:
    """Writes a card as JSON and npz into an existing folder."""
    facts = {
        field.name: getattr(card, field.name)
        for field in dataclasses.fields(card)
        if field.name not in ("moments", "feature_mean", "feature_covariance", "prototypes")
    }
    text = json.dumps({**facts, "layers": list(card.moments)}, indent=2) + "\n"
    (folder / CARD).write_text(text, encoding="utf-8")
    arrays: dict[str, Any] = {
        "feature_mean": card.feature_mean,
        "feature_covariance": card.feature_covariance,
        "prototypes": card.prototypes,
    }
    for layer, (mean, variance) in card.moments.items():
        arrays |= {f"mean/{layer}": mean, f"variance/{layer}": variance}
    np.savez_compressed(folder / STATISTICS, **arrays)


def moments(
    model: keras.Model, split: data.Split, *, batch_size: int = 128
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns mean and variance of the input of every BatchNorm layer, over images and positions.

    Args:
        model: A flat functional model, float32 [b, s, s, 3] in [0, 255] to features.
        split: Images of side s.
        batch_size: Images a forward pass; it does not change the result.

    Returns:
        Layer name to (mean, variance), each float32 [c], accumulated in float64.

    Raises:
        ConfigError: The model has no BatchNorm layer.
    """
    layers = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    if not layers:
        raise checks.ConfigError(
            "Moments are taken at BatchNorm layers. " + checks.received(model=model.name)
        )
    taps = []
    for layer in layers:
        x = layer.input
        axes = tuple(range(1, len(x.shape) - 1))
        taps += [keras.ops.mean(x, axis=axes), keras.ops.mean(keras.ops.square(x), axis=axes)]
    tapped = keras.Model(model.inputs[0], taps)
    batches = data.evaluation_batches(split, batch_size=batch_size)
    values = [np.mean(v, axis=0, dtype=np.float64) for v in tapped.predict(batches, verbose=0)]
    return {
        layer.name: (
            np.asarray(values[2 * i], np.float32),
            np.asarray(np.maximum(values[2 * i + 1] - values[2 * i] ** 2, 0.0), np.float32),
        )
        for i, layer in enumerate(layers)
    }


def feature_statistics(
    features: np.ndarray, labels: np.ndarray, *, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean [d], covariance [d, d] and class means [C, d] of features [n, d], float32."""
    prototypes = np.stack([features[labels == c].mean(axis=0) for c in range(num_classes)])
    covariance = np.cov(features, rowvar=False)
    return (
        features.mean(axis=0).astype(np.float32),
        covariance.astype(np.float32),
        prototypes.astype(np.float32),
    )
