"""What was advised before training, as a file of its own: it stands before the run has ended."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from finetune_kit import checks
from finetune_kit.results import files, workdir


def write_advice(advice: Mapping[str, Any], directory: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `advice.json` in one step and returns its path.

    Raises:
        EnvironmentFault: The directory does not exist or is not writable.
    """
    path = pathlib.Path(directory) / workdir.ADVICE
    files.write_json(path, advice)
    return path


def read_advice(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what `write_advice` wrote into a directory; {} where nothing was.

    Raises:
        DataError: The file is no advice.
    """
    path = pathlib.Path(directory) / workdir.ADVICE
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise checks.DataError(
            f"Advice must be JSON. Received: {str(path)!r}, {error}. Delete it, or use --overwrite."
        ) from error
    return values if isinstance(values, dict) else {}
