"""What a run was, as one value and as `report.json`; needs no TensorFlow to write or read."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from finetune_kit import checks
from finetune_kit.results import files, workdir

if TYPE_CHECKING:
    from finetune_kit import metrics

FORMAT = 1  # raised when a reader of older reports would misread a field
PACKAGES = ("finetune-kit", "keras", "tensorflow", "numpy", "scikit-learn", "pillow")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a run was.

    Attributes:
        recipe: Name of the recipe.
        config: The resolved settings, every field.
        data: `ImageData.summary()`: fingerprint, class names, counts by class and split, audit.
        backbone: Name, weights, image size and what else describes it.
        advice: What was measured and advised before training; None where nobody asked.
        phases: One row per phase, as it ran.
        plan: What trained and how fast: one row per stage, all with the same columns.
        history: One row per epoch: phase, epoch, loss, accuracy, val_loss, val_accuracy,
            learning_rate, seconds.
        scores: Split to scores; None where there were no images to score.
        outcome: How training ended: chosen and planned epochs, the reason, restarts.
        seconds: Seconds by part of the run, and `total`.
        device: Name of the device that trained.
        notes: What a reader must know: warnings, restarts, files that were left out.
        versions: Versions of Python and the packages that matter.
        finished: Local time with its offset from UTC, ISO 8601.
    """

    recipe: str
    config: Row
    data: Row
    backbone: Row = dataclasses.field(default_factory=dict)
    advice: Row | None = None
    phases: tuple[Row, ...] = ()
    plan: tuple[Row, ...] = ()
    history: tuple[Row, ...] = ()
    scores: "Mapping[str, metrics.Scores | None]" = dataclasses.field(default_factory=dict)
    outcome: Row = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    device: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=lambda: versions())
    finished: str = dataclasses.field(default_factory=lambda: _now())

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as strict JSON has it; `scores` holds None for a split unscored."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        scores = {
            split: scored.to_dict() if scored is not None else None
            for split, scored in self.scores.items()
        }
        plain: dict[str, Any] = files.plain({"format": FORMAT} | values | {"scores": scores})
        return plain

    def write(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `report.json` in one step and returns its path.

        Raises:
            EnvironmentFault: The directory does not exist or is not writable.
        """
        path = pathlib.Path(directory) / workdir.REPORT
        files.write_json(path, self.to_dict())
        return path


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the report of a run.

    Args:
        path: A work directory or a `report.json`.

    Returns:
        What `Report.to_dict` returned.

    Raises:
        DataError: There is no report, or it is not one.
    """
    file = pathlib.Path(path)
    file = file / workdir.REPORT if file.is_dir() else file
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise checks.DataError(
            f"A run needs a report. Received: {str(file)!r}, {reason}. Give the --workdir of a "
            "finished run."
        ) from error
    if (
        not isinstance(values, dict)
        or "recipe" not in values
        or not all(
            isinstance(values.get(name, default), dict)
            for name, default in (("scores", None), ("seconds", None), ("config", {}), ("data", {}))
        )
    ):
        raise checks.DataError(
            "A report needs recipe, scores and seconds, the last two as objects. Received: "
            f"{str(file)!r} without them"
        )
    if values.get("format", 0) > FORMAT:
        raise checks.DataError(
            f"A report must have format {FORMAT} or older. Received: {str(file)!r} with format "
            f"{values['format']}. Install the finetune-kit that wrote it."
        )
    return values


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Returns the versions of Python and of those packages that are installed; imports none."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
