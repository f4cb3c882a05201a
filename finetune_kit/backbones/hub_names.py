"""Presets of KerasHub by name, looked at without importing it."""

import importlib.util
import json
import os
import pathlib
import re
from typing import Any

from finetune_kit import checks

PREFIX = "hub:"
CONFIG = "config.json"
USUAL_SIDE = 224


def is_preset(name: str) -> bool:
    """Returns whether a backbone is named by a preset of KerasHub, as in `hub:PRESET`."""
    return name.startswith(PREFIX)


def preset(name: str) -> str:
    """Returns the preset in `hub:PRESET`, a name or a folder.

    Raises:
        ConfigError: There is none.
        EnvironmentFault: KerasHub is not installed.
        WeightsError: A folder that does not exist, or holds no preset.
    """
    found = name.removeprefix(PREFIX)
    if not found:
        raise checks.ConfigError(
            "--backbone=hub: needs a preset, such as hub:vit_base_patch16_224_imagenet, or the "
            f"folder of one. {checks.received(backbone=name)}"
        )
    if importlib.util.find_spec("keras_hub") is None:
        raise checks.EnvironmentFault(
            f"Presets of KerasHub need the package keras-hub. {checks.received(backbone=name)}. "
            "Install finetune-kit[hub]."
        )
    if _is_path(found) and not (pathlib.Path(found) / CONFIG).is_file():
        raise checks.WeightsError(
            f"--backbone=hub: needs a preset, or the folder of one with its {CONFIG}. "
            f"{checks.received(backbone=name)}, which holds none."
        )
    return found


def default_side(name: str) -> int:
    """Returns the side in pixels that a preset was made for, as its folder or its name say."""
    found = preset(name)
    if _is_path(found):
        shape = _config(pathlib.Path(found) / CONFIG).get("image_shape") or []
        return next((int(n) for n in shape[:2] if n), USUAL_SIDE)
    said = re.search(r"_(\d{3})(?:_|$)", found)
    return int(said.group(1)) if said else USUAL_SIDE


def _is_path(preset: str) -> bool:
    # Handles such as kaggle://… and hf://… are no paths.
    return "://" not in preset and (os.sep in preset or os.path.isdir(preset))


def _config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8")).get("config", {})
    except (OSError, ValueError, AttributeError):
        return {}  # whoever loads the preset says what is wrong with it
    return config if isinstance(config, dict) else {}
