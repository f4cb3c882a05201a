"""The report as one self-contained HTML page: no script, no font, no picture from elsewhere.

`render` gathers what is shown; how it looks is `report.html.j2`, next to this file.
"""

import base64
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
import PIL.Image

from finetune_kit import metrics
from finetune_kit.data import sizes
from finetune_kit.results import figures, profiles, workdir
from finetune_kit.results import predictions as predictions_lib

MISTAKES = 12
PAIRS = 5
CLASSES_OPEN = 24  # classes listed at once; of more, the weakest are, and the rest unfold
CLASSES_BESIDE = 12  # up to as many, the matrix has room beside the table
PICTURE_SIDE = 224  # px; twice the width at which a picture is shown, for sharp screens


def render(
    report: Mapping[str, Any], predictions: "predictions_lib.Predictions | None" = None
) -> str:
    """Returns the page of a run.

    Args:
        report: What `Report.to_dict` or `results.read` returned.
        predictions: Of the split to show; None leaves out matrix, classes and pictures.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, percent=percent, duration=duration)
    return environment.get_template("report.html.j2").render(
        report=report,
        name=_name(report),
        audit=report["data"].get("audit"),
        headline=_headline(report),
        metrics=_metric_rows(report),
        advice=_advice(report),
        plan=table(report.get("plan", ())),
        curves=_curves(report),
        phases=figures.phase_names(report.get("history", ())),
        counts=_counts(report),
        classes=_classes(predictions),
        matrix=_matrix(predictions),
        pairs=predictions.confused_pairs(PAIRS) if predictions else (),
        mistakes=_mistakes(predictions),
        settings=_settings(report),
        seconds=_seconds(report),
        predictions=predictions,
        files=workdir.FILES,
    )


def number(value: Any) -> str:
    """Returns a value as a person writes it: 0.00012 is 1.2e-4, None is a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def percent(value: float, digits: int = 1) -> str:
    """Returns a share as percent without the sign; only a whole that is one shows 100."""
    shown = round(100 * value, digits)
    if shown == 100 and value < 1:
        shown = 100 - 10**-digits
    return f"{shown:.{digits}f}"


def duration(seconds: float) -> str:
    """Returns seconds as 0.4 s, 37 s, 4 min 12 s or 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Returns headings, cells as text and which columns hold numbers; None without rows."""
    if not rows:
        return None
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {
        name
        for name in columns
        if all(isinstance(row.get(name), int | float | None) for row in rows)
        and not any(isinstance(row.get(name), bool) for row in rows)
    }
    return {
        "columns": [(name.replace("_", " "), name in numeric) for name in columns],
        "rows": [[(number(row.get(name)), name in numeric) for name in columns] for row in rows],
    }


def _float(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _name(report: Mapping[str, Any]) -> str:
    """Returns what the images are called: a data set's name or the end of a path."""
    source = str(report["data"].get("source") or report["config"].get("data") or "images")
    return (
        source.removeprefix("tfds:")
        if ":" in source
        else "/".join(pathlib.PurePath(source).parts[-2:])
    )


def _headline(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the accuracy to print large: of the test split, else of the validation split."""
    for split in ("test", "validation"):
        scores = report["scores"].get(split)
        if scores:
            return {"split": split, "n": scores["n"]} | scores["accuracy"]
    return None


def _metric_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    splits = {name: report["scores"].get(name) for name in ("test", "validation")}
    splits = {name: scores for name, scores in splits.items() if scores}
    return [
        {
            "title": described.title,
            "share": described.share,
            "meaning": described.meaning,
            "cells": {split: scores.get(name) for split, scores in splits.items()},
        }
        for name, described in metrics.DESCRIPTIONS.items()
        if any(name in scores for scores in splits.values())
    ]


def _curves(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    history = report.get("history", ())
    chosen = report.get("outcome", {}).get("chosen_epoch")
    drawn = []
    for quantity in ("loss", "accuracy"):
        figure = figures.learning_curve(history, quantity, chosen_epoch=chosen)
        if figure is not None:
            label = f"{quantity.capitalize()} by epoch, on the training and the validation images"
            drawn.append({"title": quantity.capitalize(), "svg": _markup(figure, label)})
    return drawn


def _advice(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the plan with its reasons, and what it was made from; None where nobody asked."""
    advice = report.get("advice")
    if not advice:
        return None
    drawn = (
        ("Distance from the source", profiles.distance_profile(advice["similarity"]),
         "Distance from the source by depth"),
        ("Linear probe by depth", profiles.probe_profile(advice["task_fit"]),
         "Accuracy of a linear probe on the features of every stage"),
    )  # fmt: skip
    race = advice.get("race")
    return {
        "decisions": advice["plan"]["decisions"],
        "notes": [*advice["similarity"]["notes"], *([race["reason"]] if race else [])],
        "figures": [
            {"title": title, "svg": _markup(figure, label)}
            for title, figure, label in drawn
            if figure is not None
        ],
    }


def _counts(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns images by class and split, with what a table of them needs."""
    counts = report["data"].get("counts") or {}
    known = ("train", "validation", "test")
    splits = [split for split in known if counts.get(split)]
    names = list(dict.fromkeys(name for split in splits for name in counts[split]))
    if not names:
        return None
    totals = [sum(counts[split].values()) for split in splits]
    largest = max(sum(counts[split].get(name, 0) for split in splits) for name in names)
    return {
        "splits": splits,
        "totals": totals,
        "largest": largest,
        "rows": [(name, [counts[split].get(name, 0) for split in splits]) for name in names],
    }


def _classes(predictions: "predictions_lib.Predictions | None") -> dict[str, Any] | None:
    if predictions is None:
        return None
    results = [result for result in predictions.by_class() if result.n or result.predicted]
    weakest = sorted(results, key=lambda result: result.recall.value if result.recall else 2.0)
    if len(results) <= CLASSES_OPEN:
        return {"open": results, "rest": [], "weakest_first": False}
    half = CLASSES_OPEN // 2
    return {"open": weakest[:half], "rest": weakest[half:], "weakest_first": True}


def _matrix(predictions: "predictions_lib.Predictions | None") -> dict[str, Any] | None:
    if predictions is None:
        return None
    classes = len(predictions.class_names)
    figure = figures.confusion_matrix(predictions)
    width = 72 * figure.get_figwidth()
    return {
        "svg": _markup(figure, "Confusion matrix: true classes in rows, predicted in columns"),
        # Text never smaller than on paper, unless the screen of a phone is; then it scrolls.
        "narrowest": round(min(width, 330) if classes <= 10 else 0.9 * width),
        "widest": round(min(1.35 * width, 860)),
        "large": classes > CLASSES_BESIDE,
        "shown": figures.MATRIX_UP_TO,
        "left_out": max(0, classes - figures.MATRIX_UP_TO),
    }


def _mistakes(predictions: "predictions_lib.Predictions | None") -> list[dict[str, Any]]:
    if predictions is None:
        return []
    rows = []
    for mistake in predictions.mistakes(MISTAKES):
        picture = predictions.picture(mistake.position) if predictions.picture else None
        rows.append({"mistake": mistake} | (_embedded(picture) if picture is not None else {}))
    return rows


def _embedded(picture: np.ndarray) -> dict[str, Any]:
    """Returns a picture, uint8 [h, w, 3], as a data URI, and whether it has few pixels."""
    image = PIL.Image.fromarray(np.asarray(picture, np.uint8))
    few = max(image.size) < PICTURE_SIDE / 2
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    if few:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=82)
    kind = "png" if few else "jpeg"
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"uri": f"data:image/{kind};base64,{data}", "few": few}


def _settings(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    config = dict(report["config"])
    if isinstance(config.get("image_size"), list | tuple):
        config["image_size"] = sizes.shown(config["image_size"])
    return [(name, number(value)) for name, value in config.items() if value != ""]


def _seconds(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the parts of the run's time, the longest first, with their share of the total."""
    total = report["seconds"].get("total") or 0.0
    parts = {k: v for k, v in report["seconds"].items() if k != "total" and v is not None}
    rest = total - math.fsum(parts.values())
    if parts and rest > 0.01 * total:
        parts["other"] = rest
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return [
        {"name": name.replace("_", " "), "seconds": value, "share": value / total if total else 0.0}
        for name, value in ordered
    ]


def _markup(figure: Any, label: str) -> markupsafe.Markup:
    return markupsafe.Markup(figures.svg(figure, label=label))  # escaped by matplotlib
