"""What a `.keras` file says of its model, read without Keras."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

from finetune_kit import checks

SUFFIX = ".keras"
CONFIG = "config.json"
GRAPHS = ("Functional", "Sequential")
# How the names begin of Keras' layers that change images at random, as only training wants it.
AUGMENTATIONS = ("Rand", "AugMix", "CutMix", "MixUp")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a model before it is built.

    Attributes:
        shape: Of its input, without the batch: (h, w, channels), each None where any will do; of a
            model that first brings images of any size to its own, that size.
        custom: Layers that are not Keras' own, as `name (Class)`.
    """

    shape: tuple[int | None, ...]
    custom: tuple[str, ...]


def is_file_name(name: str) -> bool:
    """Returns whether a backbone is named by a file of a whole model."""
    return name.endswith(SUFFIX)


def read(path: str | os.PathLike[str]) -> Facts:
    """Returns what the configuration in a `.keras` file says.

    Raises:
        WeightsError: No such file, or it is damaged.
        ConfigError: The model is no functional one, or takes something else than images.
    """
    config = _config(path)
    kind, inner = str(config.get("class_name")), config.get("config", {})
    if kind not in GRAPHS and "layers" not in inner:
        raise checks.ConfigError(
            "A backbone of one's own must be a functional or sequential model, whose layers can be "
            f"followed from images to features. Received: {os.fspath(path)!r}, a subclass of "
            f"keras.Model ({kind}). Save keras.Model(inputs, outputs) instead."
        )
    shapes = _input_shapes(inner)
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise checks.ConfigError(
            "A backbone of one's own must take images [b, h, w, channels] and nothing else. "
            f"Received: {os.fspath(path)!r}, with inputs "
            f"{', '.join(str((None, *shape)) for shape in shapes) or 'of unknown shape'}."
        )
    shape = shapes[0]
    if None in shape[:2]:
        shape = (*(_resized(inner) or shape[:2]), shape[2])
    return Facts(shape, tuple(dict.fromkeys(_custom(inner))))


def side(shape: tuple[int | None, ...]) -> int | None:
    """Returns the side in pixels of a model's own input (the longer one); None if any will do."""
    sides = [n for n in shape[:2] if n]
    return max(sides) if sides else None


def _config(path: str | os.PathLike[str]) -> dict[str, Any]:
    if not pathlib.Path(path).is_file():
        raise checks.WeightsError(
            "--backbone needs a network's name, or a .keras file. "
            f"Received: {os.fspath(path)!r}, which does not exist."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read(CONFIG))
            return config if isinstance(config, dict) else {}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
        raise checks.WeightsError(
            f"--backbone needs a whole .keras file. Received: {os.fspath(path)!r}, "
            f"{' '.join(str(error).split())[:200]}"
        ) from error


def _input_shapes(config: dict[str, Any]) -> list[tuple[int | None, ...]]:
    """Returns the shapes of a model's inputs, without the batch."""
    layers = [x for x in config.get("layers", []) if x.get("class_name") == "InputLayer"]
    shapes = [layer["config"].get("batch_shape") or layer["config"]["shape"] for layer in layers]
    if not shapes and config.get("build_input_shape"):
        shapes = [config["build_input_shape"]]  # a sequential model that met its input later
    return [tuple(shape[1:]) for shape in shapes]


def _resized(config: Any) -> tuple[int, int] | None:
    """Returns (height, width) to which a model resizes images before all else; None if it does not.

    It says of a file what `graphs.resized` says of a model.
    """
    for layer in config.get("layers", []):
        kind, inner = str(layer.get("class_name")), layer.get("config", {})
        if kind == "Resizing":
            return inner["height"], inner["width"]
        if isinstance(inner, dict) and "layers" in inner:
            return _resized(inner)
        if kind != "InputLayer" and not kind.startswith(AUGMENTATIONS):
            return None
    return None


def _custom(config: Any) -> Iterator[str]:
    """Yields the layers, at any depth, that are not Keras' own."""
    for layer in config.get("layers", []):
        module, kind = layer.get("module"), layer.get("class_name")
        inner = layer.get("config", {})
        if not str(module).startswith("keras"):
            yield f"{inner.get('name', layer.get('name'))} ({kind})"
        elif isinstance(inner, dict):
            yield from _custom(inner)
