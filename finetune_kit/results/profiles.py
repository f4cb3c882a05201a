"""Figures of what was measured before training: distance and probe by depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np

from finetune_kit.results import figures

SIZE = (5.0, 3.0)  # inches
NAMES_UP_TO = 8  # stages whose names have room on the axis


def distance_profile(
    similarity: Mapping[str, Any], *, palette: figures.Palette = figures.PAGE
) -> matplotlib.figure.Figure | None:
    """Draws how far the images are from the source at every tap, and what arises there.

    Args:
        similarity: `dataclasses.asdict` of a `Similarity`.
        palette: Colours.

    Returns:
        A figure, or None where fewer than two taps are known.
    """
    profile = similarity["profile"]
    if len(profile) < 2:
        return None
    depth = np.arange(len(profile))
    values = np.array([[tap["distance"][k] for k in ("value", "low", "high")] for tap in profile])
    new = np.array([np.nan if t["innovation"] is None else t["innovation"] for t in profile])
    with figures.style():
        figure, axes = figures.frame(*SIZE, palette)
        figure.subplots_adjust(left=0.11, right=0.97, top=0.86, bottom=0.2)
        axes.fill_between(depth, values[:, 1], values[:, 2], color=palette.accent, alpha=0.18, lw=0)
        axes.plot(depth, values[:, 0], color=palette.accent, lw=1.8, label="distance")
        if np.isfinite(new).any():
            axes.plot(depth, new, color=palette.second, lw=1.4, ls="--", label="arises here")
        axes.set_ylim(bottom=0)
        axes.set_xticks(*_stage_ticks([tap["stage"] for tap in profile]))
        axes.set_ylabel("standard deviations", color=palette.muted, fontsize=9.5)
        _legend(axes, palette)
    return figure


def probe_profile(
    fit: Mapping[str, Any], *, palette: figures.Palette = figures.PAGE
) -> matplotlib.figure.Figure | None:
    """Draws the accuracy of a linear probe on every stage, with its interval, and chance.

    Args:
        fit: `dataclasses.asdict` of a `TaskFit`.
        palette: Colours.

    Returns:
        A figure, or None where no stage could be probed.
    """
    rows = [stage for stage in (*fit["stages"], fit["last_three"]) if stage["probe"]]
    if not rows:
        return None
    places = np.arange(len(rows))
    values = 100 * np.array([[r["probe"][k] for k in ("value", "low", "high")] for r in rows])
    with figures.style():
        figure, axes = figures.frame(*SIZE, palette)
        figure.subplots_adjust(left=0.11, right=0.97, top=0.86, bottom=0.2)
        axes.vlines(places, values[:, 1], values[:, 2], color=palette.accent, lw=1.8)
        axes.plot(places, values[:, 0], "o", color=palette.accent, markersize=5)
        axes.axhline(100 * fit["chance"], color=palette.second, lw=1, ls="--")
        axes.text(
            places[0] - 0.4, 100 * fit["chance"], "chance", color=palette.muted, fontsize=9,
            va="bottom",
        )  # fmt: skip
        axes.set_ylim(0, 100)
        axes.set_xlim(-0.5, len(rows) - 0.5)
        names = [row["stage"].replace("_", " ") for row in rows]
        if len(names) > NAMES_UP_TO:
            names = [n if i % 2 == 0 else "" for i, n in enumerate(names)]
        axes.set_xticks(places, names)
        axes.set_ylabel("% recognised", color=palette.muted, fontsize=9.5)
    return figure


def _stage_ticks(stages: Sequence[str]) -> tuple[list[float], list[str]]:
    """Returns where each stage has its middle, and its name."""
    names = list(dict.fromkeys(stages))
    middles = [float(np.mean([i for i, s in enumerate(stages) if s == name])) for name in names]
    return middles, [name.replace("_", " ") for name in names]


def _legend(axes: matplotlib.axes.Axes, palette: figures.Palette) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=9.5,
        labelcolor=palette.muted, borderaxespad=0.1,
    )  # fmt: skip
