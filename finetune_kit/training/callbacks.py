"""What happens between two steps: the rate is set, the loss is watched, progress is shown."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from finetune_kit import console

# S7 says "the first few batches". Explosions come at once; 20 steps leave room for a warm-up.
GUARDED_STEPS = 20
EXPLODED = 4.0  # times the larger of the first loss and that of guessing
FINITE_EVERY = 50  # steps between two looks at the loss once the guard is over


class Rates(keras.callbacks.Callback):
    """Sets the learning rate before each step, to the schedule's value in the middle of the step.

    The optimizer's rate stays a variable, so a lower peak or another number of steps an epoch
    needs no new trace.

    Attributes:
        current: The rate of the last step.
    """

    def __init__(self, schedule: Callable[[Any], Any], *, first_epoch: int, steps: int) -> None:
        super().__init__()
        self._schedule, self._first, self._steps = schedule, first_epoch, steps
        self._epoch: list[float] = []
        self.current = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Works out the rates of the epoch, in one call: one a step takes as long as small steps.

        Schedules count epochs from the beginning of the phase.
        """
        # In the middle, so that a warm-up does not begin with a step of length 0.
        steps = (np.arange(self._steps) + 0.5) / self._steps
        rates = self._schedule((epoch - self._first + steps).astype(np.float32))
        self._epoch = np.broadcast_to(keras.ops.convert_to_numpy(rates), self._steps).tolist()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Sets the rate."""
        self.current = self._epoch[batch]
        self.model.optimizer.learning_rate = self.current


class Watch(keras.callbacks.Callback):
    """Stops training when the loss explodes in the first steps, or is no number later (S7).

    Attributes:
        exploded: What was seen in the first steps, one clause, or None.
        loss: Loss of the batch that exploded, nats; NaN and infinity included.
        diverged: Whether the loss stopped being a number after the first steps.
    """

    def __init__(self, *, images: int, batch_size: int, num_classes: int, guard: bool) -> None:
        """Prepares the ceiling.

        Args:
            images: Images an epoch.
            batch_size: Images a step.
            num_classes: C; guessing has the loss log C.
            guard: Whether the first steps are guarded.
        """
        super().__init__()
        self._images, self._batch_size = images, batch_size
        self._guessing = math.log(num_classes)
        self._left = GUARDED_STEPS if guard else 0
        self._step, self._total, self._first = 0, 0.0, math.nan
        self.exploded: str | None = None
        self.loss = math.nan
        self.diverged = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forgets the running sum, as Keras does."""
        self._total = 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the loss of the batch."""
        self._step += 1
        if self._left:
            self._left -= 1
            self._guard(batch, float((logs or {})["loss"]))
        elif self._step % FINITE_EVERY == 0 and not math.isfinite(float((logs or {})["loss"])):
            self._stop()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the mean loss of the epoch."""
        if not self.exploded and not math.isfinite(float((logs or {})["loss"])):
            self._stop()

    def _stop(self) -> None:
        self.diverged = True
        self.model.stop_training = True

    def _guard(self, batch: int, mean: float) -> None:
        """Compares the loss of one batch with the first one's; Keras reports the running mean."""
        done = batch * self._batch_size
        size = min(self._batch_size, self._images - done)
        loss = (mean * (done + size) - self._total) / size
        self._total = mean * (done + size)
        if math.isnan(self._first):
            self._first = loss
            if not math.isfinite(loss):  # no rate is to blame before the first step
                self._stop()
                return
        # A solved head starts near 0, where a factor means nothing: guessing is the least ceiling.
        ceiling = EXPLODED * max(self._first, self._guessing)
        if not loss <= ceiling:
            self.loss = loss
            self.exploded = (
                f"the loss went from {self._first:.3g} to {loss:.3g} in {self._step} steps"
            )
            self.model.stop_training = True


class Meter(keras.callbacks.Callback):
    """Advances a progress bar, one step a batch."""

    def __init__(
        self, progress: "console.Progress", phase: str, *, batch_size: int = 0, work: float = 0.0
    ) -> None:
        """Prepares.

        Args:
            progress: What is advanced.
            phase: Name of the phase.
            batch_size: Images a step, for the images a second; 0 shows none.
            work: Operations of a step, an image.
        """
        super().__init__()
        self._progress, self._phase = progress, phase
        self._batch_size, self._work = batch_size, work
        self._steps, self._began = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Shows one more step, the running loss and how fast images pass."""
        logs = logs or {}
        shown = {name: float(logs[name]) for name in ("loss", "accuracy") if name in logs}
        self._progress.advance(1, phase=self._phase, **shown, **self._speed())

    def _speed(self) -> dict[str, str]:
        if not self._steps:  # the first step traces the graph: it says nothing about the others
            self._began = time.perf_counter()
        seconds, self._steps = time.perf_counter() - self._began, self._steps + 1
        if not self._batch_size or seconds <= 0.0:
            return {}
        rate = (self._steps - 1) * self._batch_size / seconds
        return {"images/s": f"{rate:.0f}", "GFLOP/s": f"{rate * self._work / 1e9:.1f}"}
