"""The trained model as others use it: plain Keras from raw pixels, class names beside it."""

import json
import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.data import sizes
from finetune_kit.results import files, workdir


def save_model(
    predictor: keras.Model, class_names: Sequence[str], directory: str | os.PathLike[str]
) -> pathlib.Path:
    """Writes `model.keras` and then `classes.json`, each in one step.

    Args:
        predictor: Raw pixels, [b, any, any, N] in 0..255, to probabilities [b, C]; made of layers
            that Keras itself brings, so that it loads where this package is not installed.
        class_names: C names, in the order of the probabilities.
        directory: The work directory.

    Returns:
        The path of the model.

    Raises:
        ConfigError: The number of names is not that of the probabilities.
        EnvironmentFault: The directory does not exist or is not writable.
    """
    _check_classes(predictor, class_names, checks.ConfigError, "class_names")
    folder = pathlib.Path(directory)
    with files.replacing(folder / workdir.MODEL, suffix=".keras") as temporary:
        predictor.save(temporary)
    files.write_json(folder / workdir.CLASSES, list(class_names))
    return folder / workdir.MODEL


def load_model(directory: str | os.PathLike[str]) -> tuple[keras.Model, tuple[str, ...]]:
    """Loads what `save_model` wrote; runs no code that a file may hold.

    Args:
        directory: A work directory.

    Returns:
        The model, uncompiled, and the class names.

    Raises:
        WeightsError: A file is missing or damaged, or the two do not belong together.
        UntrustedFileError: The model holds Python code, such as a Lambda layer.
    """
    folder = pathlib.Path(directory)
    names = _read_classes(folder / workdir.CLASSES)
    path = folder / workdir.MODEL
    if not zipfile.is_zipfile(path):
        state = "which is damaged" if path.is_file() else "which does not exist"
        raise checks.WeightsError(
            f"A work directory needs a whole {workdir.MODEL}. Received: {str(path)!r}, {state}. "
            "Give the work directory of a finished run."
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # By the kind of damage, Keras raises nearly anything.
        if "safe_mode" in str(error):
            raise checks.UntrustedFileError(
                f"A model must be made of Keras layers alone. Received: {str(path)!r}, which holds "
                "Python code. Load it only where its author is trusted, with "
                "keras.saving.load_model(path, safe_mode=False)."
            ) from error
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise checks.WeightsError(
            f"A work directory needs a whole {workdir.MODEL}. Received: {str(path)!r}, {line}"
        ) from error
    _check_classes(model, names, checks.WeightsError, workdir.CLASSES)
    return model, names


def input_size(model: keras.Model) -> sizes.Size | None:
    """Returns the side in px, or (height, width), to which a model resizes; None if it does not."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Resizing):
            return sizes.canonical((layer.height, layer.width))
    return None


def input_channels(model: keras.Model) -> int:
    """Returns the number of channels of the images that a model takes; 3 where it says none."""
    return int(model.inputs[0].shape[-1] or sizes.COLOURS)


def _read_classes(path: pathlib.Path) -> tuple[str, ...]:
    try:
        names: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise checks.WeightsError(
            f"A model needs the names of its classes. Received: {str(path)!r}, {reason}. Give the "
            "work directory of a finished run."
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise checks.WeightsError(
            f"{workdir.CLASSES} must be a list of names. Received: {str(path)!r}, which is not"
        )
    return tuple(names)


def _check_classes(
    model: keras.Model, names: Sequence[str], error: type[checks.KitError], what: str
) -> None:
    outputs = model.output_shape[-1]
    if outputs != len(names):
        raise error(
            f"{what} must name each of the model's {outputs} classes. Received: {len(names)} names"
        )
