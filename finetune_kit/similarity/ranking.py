"""Which of several backbones suits the images, and how far to trust the order."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_kit.metrics import Estimate
    from finetune_kit.similarity.types import TaskFit

# Kendall's tau, mean over eight target sets and ten networks of the tables that come with TLLib
# (Jiang et al., 2022, "Transferability in Deep Learning: A Survey"), between each score and the
# accuracy after fine-tuning.
KENDALL_TAU = {"ImageNet top-1": 0.69, "NCE": 0.63, "LogME": 0.57, "H-score": 0.56, "LEEP": 0.40}
WARNING = (
    "Scores alone rank networks badly: Kendall's tau with the accuracy after fine-tuning is "
    + ", ".join(f"{tau:.2f} for {name}" for name, tau in KENDALL_TAU.items())
    + " over TLLib's ten networks and eight sets. A list that never looks at the images does as "
    "well or better (Singh et al., 2025, arXiv 2510.06448). What fine-tuning would repair, no "
    "measure of frozen features sees."
)
HEADINGS = (
    "network", "probe", "95 % interval", "by", "ImageNet top-1", "LogME", "H-score", "LEEP"
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Row:
    """What speaks for one network.

    Attributes:
        name: As the caller calls it.
        probe: The better of the probes on its last stage and on all stages, with a 95 %
            interval; None if none could be measured.
        by: Which of the two it is: name of the stage, or `probing.ALL`.
        static: Published ImageNet top-1 accuracy in [0, 1]; None if unknown.
        logme: Nats an image and class, of the same features as the probe.
        h_score: In [0, 1], of the same features as the probe.
        leep: Nats; None without a source head.
    """

    name: str
    probe: "Estimate | None"
    by: str
    static: float | None
    logme: float
    h_score: float
    leep: float | None


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Networks by how well a probe on their features recognises the images.

    Attributes:
        rows: The likeliest network first.
        warning: How far to trust the order.
    """

    rows: tuple[Row, ...]
    warning: str = WARNING

    def table(self) -> list[tuple[str, ...]]:
        """Returns the rows as text, in the columns of `HEADINGS`."""
        return [
            (
                row.name,
                *_probe_words(row.probe),
                row.by,
                _words(row.static, ".1%").replace("%", " %"),
                _words(row.logme, ".3f"),
                _words(row.h_score, ".2f"),
                _words(row.leep, ".2f"),
            )
            for row in self.rows
        ]


def rank(candidates: "Sequence[tuple[str, TaskFit, float | None]]") -> Ranking:
    """Orders networks by their cross-validated probe on the same images.

    The published accuracy settles a draw, and orders networks that could not be probed, which come
    last: it ranks better than any score does (see `WARNING`). Scores decide nothing.

    Args:
        candidates: Name, what `probing.probe` found on the same images, and the published ImageNet
            top-1 accuracy in [0, 1], or None.
    """
    rows = [_row(name, fit, static) for name, fit, static in candidates]
    return Ranking(tuple(sorted(rows, key=_strength, reverse=True)))


def _row(name: str, fit: "TaskFit", static: float | None) -> Row:
    last, everything = fit.last, fit.concatenated
    wins = everything.probe is not None and (
        last.probe is None or everything.probe.value > last.probe.value
    )
    shown = everything if wins else last
    return Row(name, shown.probe, shown.stage, static, shown.logme, shown.h_score, fit.leep)


def _strength(row: Row) -> tuple[float, float]:
    return (
        -math.inf if row.probe is None else row.probe.value,
        -math.inf if row.static is None else row.static,
    )


def _probe_words(probe: "Estimate | None") -> tuple[str, str]:
    if probe is None:
        return "–", "–"
    return f"{100 * probe.value:.1f} %", f"{100 * probe.low:.1f} – {100 * probe.high:.1f} %"


def _words(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
