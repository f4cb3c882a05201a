"""The figures of the suite `advice`."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np

from apps.benchmarks import regret
from finetune_kit.results import figures

WIDTH, ROW, FRAME = 7.2, 0.34, 1.1  # inches


def regrets(found: Mapping[str, Sequence[regret.Loss]]) -> str:
    """Returns a drawing as SVG: mean regret of each policy with its interval, a dot for each set.

    Args:
        found: Policy to what it loses at every place.
    """
    palette = figures.LIGHT
    means = {title: regret.over_sets(losses, _regret) for title, losses in found.items()}
    order = sorted(means, key=lambda title: means[title].value)
    figure = matplotlib.figure.Figure(figsize=(WIDTH, FRAME + ROW * len(order)), dpi=100)
    axes = figure.subplots()
    for place, title in enumerate(order):
        colour = palette.accent if title.startswith("auto") else palette.second
        mean = means[title]
        dots = _by_set(found[title])
        axes.scatter(dots, np.full(len(dots), place), s=12, color=colour, alpha=0.45, zorder=2)
        axes.plot([100 * mean.low, 100 * mean.high], [place, place], color=colour, lw=2, zorder=3)
        axes.scatter([100 * mean.value], [place], s=42, color=colour, zorder=4)
    axes.axvline(0.0, color=palette.ink, lw=0.8)
    axes.set_yticks(range(len(order)), order)
    axes.invert_yaxis()
    # Training from nothing loses tens of points: on a linear axis it would hide the others.
    axes.set_xscale("symlog", linthresh=5.0)
    axes.set_xticks([-2, 0, 1, 2, 5, 10, 20, 50], ["-2", "0", "1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("regret in points: small dots are sets, bars 95 % intervals over sets")
    axes.grid(axis="x", color=palette.line, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "regret"}):
        figure.savefig(buffer, format="svg", facecolor=palette.paper, metadata={"Date": None})
    return buffer.getvalue()


def _regret(loss: regret.Loss) -> float:
    return loss.regret


def _by_set(losses: Sequence[regret.Loss]) -> list[float]:
    sets: dict[str, list[float]] = {}
    for loss in losses:
        sets.setdefault(loss.place[0], []).append(100 * loss.regret)
    return [float(np.mean(values)) for values in sets.values()]
