"""Puts several runs into one table; starts in a fraction of a second, without TensorFlow.

finetune-kit compare runs/1 runs/2
finetune-kit compare runs/* --format=markdown > table.md
"""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apps import flags
from finetune_kit import checks, console
from finetune_kit.results import report
from recipes import settings

FORMATS = ("table", "markdown", "csv", "json")
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit compare`."""

    format: str = settings.option("How the rows are written.", "table", choices=FORMATS)
    split: str = settings.option(
        "Split whose scores are shown.", "test", choices=("test", "validation")
    )

    def __post_init__(self) -> None:
        settings.check_options(self)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, runs = flags.parse(argv, Config, command="compare", positional="RUN…")
    if not runs:
        raise checks.ConfigError("compare needs the work directories of runs. Received: none")
    rows = [row(run, report.read(run), config.split) for run in runs]
    for line in doubts(rows):
        console.warn(line)
    if config.format == "table":
        console.table("", *cells(rows))
    else:
        console.say(WRITERS[config.format](rows))
    return 0


def row(run: str, values: Row, split: str) -> dict[str, Any]:
    """Returns what is compared of one run.

    Args:
        run: The path that the user gave.
        values: Its report.
        split: "test" or "validation".

    Returns:
        Plain values; every score with `_low` and `_high` beside it, None where there is no score.
    """
    config, scores = values.get("config", {}), values["scores"].get(split) or {}
    found: dict[str, Any] = {
        "run": run,
        "recipe": values["recipe"],
        "backbone": config.get("backbone"),
        "data": config.get("data"),
        "fingerprint": values.get("data", {}).get("fingerprint"),
        "per_class": config.get("per_class"),
        "seed": config.get("seed"),
        "split": split,
        "n": scores.get("n"),
    }
    for name in SCORES:
        estimate = scores.get(name) or {}
        found[name] = estimate.get("value")
        found[f"{name}_low"] = estimate.get("low")
        found[f"{name}_high"] = estimate.get("high")
    return found | {"seconds": values["seconds"].get("total"), "device": values.get("device")}


def doubts(rows: Sequence[Row]) -> list[str]:
    """Returns what stands against comparing the rows, one line each."""
    lines = []
    images = {(row["fingerprint"], row["n"]) for row in rows if row["n"] is not None}
    if len(images) > 1:
        lines.append(
            "these runs were scored on different images, so their scores are not comparable"
        )
    unscored = [row for row in rows if row["n"] is None]
    return lines + [f"{row['run']} has no {row['split']} scores" for row in unscored]


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[Any]]]:
    """Returns headings and cells for a person to read; columns that all runs share are left out."""
    table = [
        {
            "run": row["run"],
            "recipe": row["recipe"],
            "backbone": row["backbone"],
            "data": row["data"],
            "per class": row["per_class"],
            "seed": row["seed"],
            "n": row["n"],
            "accuracy": _share(row, "accuracy"),
            "balanced": _share(row, "balanced_accuracy"),
            "macro-F1": _share(row, "macro_f1"),
            "log loss": _number(row, "log_loss"),
            "seconds": "–" if row["seconds"] is None else f"{row['seconds']:.1f}",
        }
        for row in rows
    ]
    settled = ("backbone", "data", "per class", "seed")
    shown = [
        name for name in table[0] if name not in settled or len({line[name] for line in table}) > 1
    ]
    return shown, [["–" if line[name] is None else line[name] for name in shown] for line in table]


def markdown(rows: Sequence[Row]) -> str:
    """Returns the rows as a table in Markdown."""
    headings, lines = cells(rows)
    numeric = [
        all(isinstance(line[i], int | float) for line in lines) for i in range(len(headings))
    ]
    rule = ["---:" if right else "---" for right in numeric]
    escaped = [
        [str(cell).replace("|", "\\|") for cell in line] for line in [headings, rule, *lines]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def comma_separated(rows: Sequence[Row]) -> str:
    """Returns all plain values as CSV with a line of headings."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().rstrip("\n")


def as_json(rows: Sequence[Row]) -> str:
    """Returns all plain values as a JSON list."""
    return json.dumps(list(rows), indent=2, ensure_ascii=False)


WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "json": as_json,
}


def _share(row: Row, name: str) -> str:
    if row[name] is None:
        return "–"
    value, low, high = (100 * row[key] for key in (name, f"{name}_low", f"{name}_high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _number(row: Row, name: str) -> str:
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("compare"))
