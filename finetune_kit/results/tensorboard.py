"""Pictures of a run in TensorBoard: the advice, confusion matrix, most confident mistakes."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import tensorflow as tf

from finetune_kit.results import figures, profiles

if TYPE_CHECKING:
    from finetune_kit.results.predictions import Mistake, Predictions

MISTAKES = 16
COLUMNS = 4
SIDE = 192  # px of a picture
CAPTION = 44  # px below it
MARGIN = 12


def write_pictures(
    directory: str | os.PathLike[str], predictions: "Predictions", *, step: int = 0
) -> None:
    """Adds the confusion matrix and the most confident mistakes to an event file.

    Args:
        directory: Where TensorBoard looks; made if missing.
        predictions: What is shown, tagged with its split.
        step: Step under which the pictures stand, such as the last epoch.
    """
    matrix = figures.confusion_matrix(predictions, palette=figures.LIGHT)
    writer = tf.summary.create_file_writer(os.fspath(directory))
    with writer.as_default(step):
        tf.summary.image(f"{predictions.split}/confusion", figures.pixels(matrix)[None])
        if predictions.picture is not None and predictions.mistakes(1):
            tf.summary.image(f"{predictions.split}/mistakes", contact_sheet(predictions)[None])
    writer.close()


def write_advice_board(directory: str | os.PathLike[str], advice: Mapping[str, Any]) -> None:
    """Adds the plan with its reasons, and the profiles it was made from, to an event file.

    Args:
        directory: Where TensorBoard looks; made if missing.
        advice: What `results.read_advice` returns.
    """
    lines = [f"| {d['what']} | {d['value']} | {d['reason']} |" for d in advice["plan"]["decisions"]]
    drawn = {
        "advice/distance": profiles.distance_profile(advice["similarity"], palette=figures.LIGHT),
        "advice/probe": profiles.probe_profile(advice["task_fit"], palette=figures.LIGHT),
    }
    value = advice["similarity"]["value"]
    writer = tf.summary.create_file_writer(os.fspath(directory))
    with writer.as_default(step=0):
        tf.summary.text(
            "advice", "\n".join(["| decision | value | why |", "| --- | --- | --- |", *lines])
        )
        for tag, figure in drawn.items():
            if figure is not None:
                tf.summary.image(tag, figures.pixels(figure)[None])
        if value is not None:
            tf.summary.scalar("advice/similarity", value["value"])
        tf.summary.scalar("advice/confidence", advice["plan"]["confidence"])
    writer.close()


def contact_sheet(predictions: "Predictions", *, count: int = MISTAKES) -> np.ndarray:
    """Returns the most confident mistakes as one picture, uint8 [h, w, 3], with captions."""
    mistakes = predictions.mistakes(count)
    columns = min(COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // max(columns, 1))
    size = (
        MARGIN + columns * (SIDE + MARGIN),
        MARGIN + rows * (SIDE + CAPTION + MARGIN),
    )
    sheet = PIL.Image.new("RGB", size, figures.LIGHT.paper)
    for index, mistake in enumerate(mistakes):
        left = MARGIN + index % columns * (SIDE + MARGIN)
        top = MARGIN + index // columns * (SIDE + CAPTION + MARGIN)
        _paste(sheet, predictions, mistake, left, top)
    return np.asarray(sheet)


def _paste(
    sheet: PIL.Image.Image, predictions: "Predictions", mistake: "Mistake", left: int, top: int
) -> None:
    if predictions.picture is not None:
        image = PIL.Image.fromarray(predictions.picture(mistake.position))
        scale = SIDE / max(image.size)
        size = [max(1, round(side * scale)) for side in image.size]
        kind = PIL.Image.Resampling.NEAREST if scale > 2 else PIL.Image.Resampling.BILINEAR
        sheet.paste(image.resize((size[0], size[1]), kind), (left, top))
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(15)
    said = f"{_fit(mistake.predicted)} ({mistake.probability:.0%})"
    true = f"is {_fit(mistake.true)} ({mistake.true_probability:.0%})"
    draw.text((left, top + SIDE + 4), said, fill=figures.LIGHT.wrong, font=font)
    draw.text((left, top + SIDE + 22), true, fill=figures.LIGHT.muted, font=font)


def _fit(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
