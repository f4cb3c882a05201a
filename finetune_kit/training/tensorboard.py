"""The scalars of a run for TensorBoard: loss, metrics, the rate of every stage, the plan."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_kit import strategy

if TYPE_CHECKING:
    import os

    from finetune_kit.strategy.phases import Phase

METRICS = ("loss", "accuracy")


class Board:
    """Writes to a folder that TensorBoard reads; does nothing without one."""

    def __init__(self, folder: "str | os.PathLike[str] | None", phases: "Sequence[Phase]") -> None:
        """Opens the log and writes the plan as text."""
        self._writer: Any = None
        self._phases = {phase.name: phase for phase in phases}
        self._told = 0
        if folder is None:
            return
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(folder))
        with self._writer.as_default(step=0):
            tf.summary.text("plan", _markdown(strategy.table(phases)))
        self._writer.flush()

    def epoch(self, row: Mapping[str, Any], restarts: Sequence[str]) -> None:
        """Writes a row of the history; rates are per stage, at the end of the epoch.

        Args:
            row: See `Outcome.history`.
            restarts: What the guard has done so far; each sentence is written once.
        """
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default(step=int(row["epoch"])):
            for name in METRICS:
                for split, value in (("training", row[name]), ("validation", row[f"val_{name}"])):
                    if value is not None:
                        tf.summary.scalar(f"{name}/{split}", value)
            if row["learning_rate"] is not None:
                for group, multiplier in self._phases[row["phase"]].multipliers.items():
                    tf.summary.scalar(f"rate/{group}", row["learning_rate"] * multiplier)
            for number, sentence in enumerate(restarts[self._told :], start=self._told + 1):
                tf.summary.text(f"restart {number}", sentence)
        self._writer.flush()
        self._told = len(restarts)

    def seconds(self, parts: Mapping[str, float]) -> None:
        """Writes where the time went, a scalar for each part."""
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default(step=0):
            for part, seconds in parts.items():
                tf.summary.scalar(f"seconds/{part}", seconds)

    def close(self) -> None:
        """Flushes and closes the log."""
        if self._writer is not None:
            self._writer.close()


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row.values()) + " |" for row in rows])
