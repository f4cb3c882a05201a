"""Writes report and page of a run, the report last: where it stands, the run is finished."""

import os
import pathlib
from typing import TYPE_CHECKING

from finetune_kit.results import files, page, workdir

if TYPE_CHECKING:
    from finetune_kit.results.predictions import Predictions
    from finetune_kit.results.report import Report


def write(
    report: "Report",
    directory: str | os.PathLike[str],
    predictions: "Predictions | None" = None,
) -> pathlib.Path:
    """Writes `report.html` and then `report.json`.

    Args:
        report: What the run was.
        directory: The work directory.
        predictions: Of the test split, or of the validation split where there is no test split;
            without them the page has no confusion matrix and no pictures.

    Returns:
        The path of the page.

    Raises:
        EnvironmentFault: The directory does not exist or is not writable.
    """
    path = pathlib.Path(directory) / workdir.PAGE
    files.write_text(path, page.render(report.to_dict(), predictions))
    report.write(directory)
    return path
