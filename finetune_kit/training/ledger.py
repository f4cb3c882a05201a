"""What a course of training has seen: rows of history, held-out scores, the best weights."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit.training import joint_loss, optimizers, snapshots

if TYPE_CHECKING:
    from finetune_kit.training.callbacks import Rates
    from finetune_kit.training.scoring import Score

Row = dict[str, Any]
Listener = Callable[[Row], None]


@dataclasses.dataclass(frozen=True)
class Kept:
    """Weights that are kept, and what they scored.

    Attributes:
        point: Index of their row in the history.
        weights: Values of the model's weights.
        score: Held-out score, None without held-out images.
    """

    point: int
    weights: list[np.ndarray]
    score: "Score | None"


@dataclasses.dataclass
class Ledger:
    """One course, as far as it has come.

    Attributes:
        rows: History, one row an epoch and one a solved head.
        scores: Held-out score of every row, kept where `keep_scores`.
        best: Weights of the highest validation accuracy, None without held-out images.
        last: Weights of the last row, all finite; what is left when training diverges.
        probe: Weights after the last solved head, where the course interpolates from them.
        keep_scores: Whether `scores` is kept.
        listeners: Called with every row.
    """

    keep_scores: bool = False
    listeners: Sequence[Listener] = ()
    rows: list[Row] = dataclasses.field(default_factory=list)
    scores: "list[Score]" = dataclasses.field(default_factory=list)
    best: Kept | None = None
    last: Kept | None = None
    probe: list[np.ndarray] | None = None

    def add(self, row: Row, score: "Score | None", weights: list[np.ndarray]) -> None:
        """Enters an epoch: its row, what it scored, and the weights that scored it."""
        row |= {
            "val_loss": score.loss if score else None,
            "val_accuracy": score.accuracy if score else None,
        }
        self.rows.append(row)
        self.last = Kept(len(self.rows) - 1, weights, score)
        if score is not None:
            if self.keep_scores:
                self.scores.append(score)
            if self.best is None or self.best.score is None or score.beats(self.best.score):
                self.best = self.last
        for listener in self.listeners:
            listener(row)

    def rows_of(self, phase: str) -> list[Row]:
        """Returns the rows of a phase."""
        return [row for row in self.rows if row["phase"] == phase]

    def exhausted(self, phase: str, patience: int) -> bool:
        """Returns whether a phase has gone `patience` epochs without a lower validation loss.

        A function of the rows alone, so that a run that goes on stops where it would have stopped.

        Args:
            phase: Its name.
            patience: Epochs to wait; 0 waits for ever.
        """
        losses = [row["val_loss"] for row in self.rows_of(phase)]
        if not patience or not losses or None in losses:
            return False
        return len(losses) - 1 - int(np.argmin(losses)) >= patience


class Bookkeeper(keras.callbacks.Callback):
    """Enters every epoch in a ledger, and ends a phase whose validation loss falls no more.

    Attributes:
        diverged: Whether weights or validation loss became infinite or NaN.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        phase: str,
        rates: "Rates",
        score: "Callable[[], Score] | None",
        weights: Sequence[Any],
        scored: Callable[[], contextlib.AbstractContextManager[None]],
        patience: int,
        after: Callable[[], None],
    ) -> None:
        """Prepares.

        Args:
            ledger: Where rows are entered.
            phase: Name of the phase.
            rates: Knows the learning rate.
            score: Scores the held-out images; None if there are none.
            weights: Variables that make up the classifier.
            scored: Entered while they are scored and kept; puts others in the place of `weights`.
            patience: Epochs without a lower loss after which the phase ends; 0 never.
            after: Called once an epoch has been entered.
        """
        super().__init__()
        self._ledger, self._phase, self._rates = ledger, phase, rates
        self._score, self._weights, self._patience = score, weights, patience
        self._scored, self._after, self._began = scored, after, 0.0
        self.diverged = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Scores, enters the row, and decides whether the phase goes on."""
        logs = {} if logs is None else logs
        if not math.isfinite(logs["loss"]):
            return
        with optimizers.averaged(self.model.optimizer), self._scored():
            values = snapshots.take(self._weights)
            score = self._score() if self._score else None
        if not snapshots.finite(values) or (score and not math.isfinite(score.loss)):
            self.diverged = self.model.stop_training = True
            return
        row = {
            "phase": self._phase,
            "epoch": epoch + 1,
            "loss": float(logs.get(joint_loss.OWN_LOSS, logs["loss"])),
            "accuracy": float(logs["accuracy"]),
            "learning_rate": self._rates.current,
            "seconds": time.perf_counter() - self._began,
        }
        self._ledger.add(row, score, values)
        logs |= {name: row[name] for name in ("val_loss", "val_accuracy") if score}
        self._after()
        if self._ledger.exhausted(self._phase, self._patience):
            self.model.stop_training = True
