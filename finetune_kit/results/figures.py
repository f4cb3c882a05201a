"""Figures of a run: learning curves and confusion matrix, for the page and for TensorBoard.

A figure is drawn in a palette. In the palette `PAGE` every colour is a stand-in that `svg` turns
into a CSS variable, so that one drawing follows the page's light and dark theme.
"""

import contextlib
import dataclasses
import html
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.backends.backend_agg
import matplotlib.figure
import matplotlib.patches
import matplotlib.ticker
import numpy as np

from finetune_kit import checks
from finetune_kit.results import predictions as predictions_lib

NUMBERS_UP_TO = 20  # classes; in a larger matrix the counts would be too small to read
MATRIX_UP_TO = 50  # classes; of more, those with the most mistakes are shown
LABEL_UP_TO = 18  # characters of a class name on an axis
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 11,
    "text.parse_math": False,  # a class may be called "$5 notes"
    "axes.unicode_minus": True,
}


@dataclasses.dataclass(frozen=True)
class Palette:
    """Colours of a figure, as `#rrggbb`."""

    ink: str
    muted: str
    line: str
    paper: str
    accent: str
    second: str
    wrong: str
    on_accent: str


LIGHT = Palette(
    ink="#1c1f24",
    muted="#6a7079",
    line="#dfe2e6",
    paper="#ffffff",
    accent="#1f6feb",
    second="#8b939e",
    wrong="#d1532c",
    on_accent="#ffffff",
)
# Stand-ins, told apart by their last digit; no drawing uses them otherwise.
PAGE = Palette(*(f"#0a0b0{digit}" for digit in range(1, 9)))


def learning_curve(
    history: Sequence[Mapping[str, Any]],
    quantity: str,
    *,
    chosen_epoch: int | None = None,
    palette: Palette = PAGE,
) -> matplotlib.figure.Figure | None:
    """Draws a quantity over the epochs, on the training and the validation images.

    Args:
        history: Rows of a report; an epoch without the quantity leaves a gap.
        quantity: "loss" or "accuracy".
        chosen_epoch: Epoch whose weights were kept; marked if given.
        palette: Colours.

    Returns:
        A figure with the phases marked, or None if fewer than two epochs have the quantity.

    Raises:
        ConfigError: Another quantity.
    """
    checks.one_of("quantity", quantity, ("loss", "accuracy"))
    epochs = np.array([row.get("epoch", index) for index, row in enumerate(history)], float)
    curves = {
        "training": _column(history, quantity),
        "validation": _column(history, f"val_{quantity}"),
    }
    if max((int(np.isfinite(values).sum()) for values in curves.values()), default=0) < 2:
        return None
    with style():
        figure, axes = frame(5.0, 3.0, palette)
        figure.subplots_adjust(left=0.11, right=0.82, top=0.88, bottom=0.16)
        colours = {"training": palette.second, "validation": palette.accent}
        for name, values in curves.items():
            axes.plot(epochs, values, color=colours[name], linewidth=1.8, marker="o", markersize=2)
        _mark_phases(axes, history, epochs, palette)
        _mark_chosen(axes, epochs, curves["validation"], chosen_epoch, palette)
        _scale(axes, quantity, curves)
        _name_curves(axes, epochs, curves, colours)
        axes.set_xlabel("epoch", color=palette.muted)
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=7))
    return figure


def confusion_matrix(
    predictions: "predictions_lib.Predictions", *, palette: Palette = PAGE
) -> matplotlib.figure.Figure:
    """Draws the share of each true class (row) that was taken for each class (column).

    Right answers are in the accent colour and wrong ones in the other, both stronger for a larger
    share of the row; up to 20 classes the counts stand in the cells. Of more than 50 classes, the
    50 with the most mistakes are shown.
    """
    matrix = predictions.confusion()
    shown = _most_confused(matrix, MATRIX_UP_TO)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    names = [_short(predictions.class_names[index]) for index in shown]
    size = 1.4 + max(3.0, 0.34 * len(shown) if len(shown) <= NUMBERS_UP_TO else 0.19 * len(shown))
    with style():
        figure, axes = frame(size, size, palette)
        for (row, true), (column, guess) in itertools.product(enumerate(shown), enumerate(shown)):
            if matrix[true, guess]:
                text = str(matrix[true, guess]) if len(shown) <= NUMBERS_UP_TO else ""
                _cell(axes, row, column, float(shares[true, guess]), text, palette)
        _name_cells(axes, names, palette)
        figure.tight_layout(pad=0.4)
    return figure


def phase_names(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the phases in the order in which they ran, as `learning_curve` numbers them."""
    return [name for name, _ in itertools.groupby(str(row.get("phase", "")) for row in history)]


def svg(figure: matplotlib.figure.Figure, *, label: str) -> str:
    """Returns a figure drawn in `PAGE` as an `<svg>` element for a page.

    Args:
        figure: The figure.
        label: What it shows, in words, for those who cannot see it.
    """
    buffer = io.StringIO()
    with style({"svg.hashsalt": label}):  # the same run gives the same page, byte for byte
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for field in dataclasses.fields(Palette):
        variable = f"var(--{field.name.replace('_', '-')})"
        text = text.replace(getattr(PAGE, field.name), variable)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1)


def pixels(figure: matplotlib.figure.Figure, *, dpi: int = 110) -> np.ndarray:
    """Returns a figure as a picture, uint8 [h, w, 3]."""
    with style():
        figure.set_dpi(dpi)
        canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextlib.contextmanager
def style(extra: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draws with our settings, and without warnings about glyphs that our font lacks."""
    with matplotlib.rc_context(STYLE | dict(extra or {})), warnings.catch_warnings():
        # The browser has fonts of its own; here only the measures are somewhat off.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def frame(
    width: float, height: float, palette: Palette
) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    """Returns a figure of a size in inches, and its axes with no more than a base line."""
    figure = matplotlib.figure.Figure(figsize=(width, height), facecolor=palette.paper)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.tick_params(colors=palette.muted, length=0, labelsize=9.5)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(palette.line)
    return figure, axes


def _column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [row.get(name) for row in history]
    return np.array([math.nan if value is None else value for value in values], float)


def _scale(axes: matplotlib.axes.Axes, quantity: str, curves: Mapping[str, np.ndarray]) -> None:
    axes.grid(axis="y", color=axes.spines["bottom"].get_edgecolor(), linewidth=0.8)
    axes.set_axisbelow(True)
    values = np.concatenate(list(curves.values()))
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        axes.set_ylim(max(0.0, low - 0.08 * (high - low) - 0.01), min(1.0, high + 0.03) + 0.002)
    else:
        axes.set_ylim(0, high * 1.06 + 1e-6)
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(nbins=5))


def _name_curves(
    axes: matplotlib.axes.Axes,
    epochs: np.ndarray,
    curves: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
) -> None:
    """Writes each curve's name behind its last point, at least a line's height apart."""
    low, high = axes.get_ylim()
    ends = {
        name: float(values[np.isfinite(values)][-1])
        for name, values in curves.items()
        if np.isfinite(values).any()
    }
    gap, previous = 0.075 * (high - low), -math.inf
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        previous = max(end, previous + gap)
        axes.annotate(
            name,
            (float(epochs.max()), previous),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=colours[name],
            annotation_clip=False,
        )


def _mark_phases(
    axes: matplotlib.axes.Axes,
    history: Sequence[Mapping[str, Any]],
    epochs: np.ndarray,
    palette: Palette,
) -> None:
    """Draws a line between phases and numbers them."""
    phases = [str(row.get("phase", "")) for row in history]
    starts = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    middles = [float(epochs[i - 1] + epochs[i]) / 2 for i in starts]
    for boundary in middles:
        axes.axvline(boundary, color=palette.muted, linewidth=0.8, dashes=(2, 2))
    edges = [float(epochs[0]), *middles, float(epochs[-1])]
    for number, (left, right) in enumerate(itertools.pairwise(edges), start=1):
        if middles:
            axes.annotate(
                str(number),
                ((left + right) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color=palette.muted,
            )


def _mark_chosen(
    axes: matplotlib.axes.Axes,
    epochs: np.ndarray,
    values: np.ndarray,
    chosen_epoch: int | None,
    palette: Palette,
) -> None:
    here = np.flatnonzero(epochs == (math.nan if chosen_epoch is None else chosen_epoch))
    if len(here) and math.isfinite(values[here[0]]):
        axes.plot(
            epochs[here[0]],
            values[here[0]],
            marker="o",
            markersize=8,
            markerfacecolor="none",
            markeredgecolor=palette.accent,
            markeredgewidth=1.6,
        )


def _most_confused(matrix: np.ndarray, count: int) -> list[int]:
    """Returns the indices of the `count` classes with most mistakes, in the order of classes."""
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    return sorted(np.argsort(-mistakes, kind="stable")[:count].tolist())


def _cell(
    axes: matplotlib.axes.Axes, row: int, column: int, share: float, text: str, palette: Palette
) -> None:
    right = row == column
    # A root, because one image in a hundred must still be seen.
    strength = math.sqrt(share) if not right else share
    axes.add_patch(
        matplotlib.patches.Rectangle(
            (column - 0.46, row - 0.46),
            0.92,
            0.92,
            linewidth=0,
            facecolor=palette.accent if right else palette.wrong,
            alpha=max(0.12, 0.95 * strength),
        )
    )
    if text:
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=9.5,
            color=palette.on_accent if strength > 0.5 else palette.ink,
        )


def _name_cells(axes: matplotlib.axes.Axes, names: Sequence[str], palette: Palette) -> None:
    ticks = range(len(names))
    size = 9.5 if len(names) <= NUMBERS_UP_TO else 7.5
    longest = max(len(name) for name in names)
    axes.set_xticks(ticks, names, rotation=0 if longest <= 2 else 90, fontsize=size)
    axes.set_yticks(ticks, names, fontsize=size)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("predicted", color=palette.muted, fontsize=10, labelpad=8)
    axes.set_ylabel("true", color=palette.muted, fontsize=10)


def _short(name: str) -> str:
    return name if len(name) <= LABEL_UP_TO else f"{name[: LABEL_UP_TO - 1]}…"
