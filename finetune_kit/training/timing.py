"""Where the time of training goes, and how fast images pass."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit.backbones import flops
from finetune_kit.strategy import costs, phases

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.strategy.phases import Phase

LONG = 20.0  # seconds of steps after which it is worth a second to see what the input can give
PROBED = 1.0  # seconds for which a stream is drawn from to see what it can give
STARVED = 1.25  # a stream that gives fewer times the images that training takes holds it up


class Clock:
    """Seconds by part, over all that is timed with it."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self.parts: dict[str, float] = {}

    def add(self, part: str, seconds: float) -> None:
        """Adds seconds, at least 0, to a part."""
        self.parts[part] = self.parts.get(part, 0.0) + max(seconds, 0.0)

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Adds the seconds of the block to a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(part, time.perf_counter() - began)


class Work:
    """Operations of a training step of a phase, an image; a multiply-add counts as two.

    Attributes:
        forward, backward: Of the stages that are run; the head counts as nothing beside them.
    """

    def __init__(self, classifier: "Classifier", phase: "Phase", *, kept: bool) -> None:
        """Counts.

        Args:
            classifier: Its stages are counted.
            phase: Which of them are open.
            kept: Whether frozen stages at the input are not run, since activations are kept.
        """
        sizes = flops.by_stage(classifier.backbone)
        opened = [value > 0 for group, value in phase.multipliers.items() if group != phases.HEAD]
        self.forward, self.backward = costs.operations(sizes, opened, kept=kept)

    @property
    def total(self) -> float:
        """Of a step."""
        return self.forward + self.backward


class StepTimer(keras.callbacks.Callback):
    """Times the steps of one `fit`.

    Attributes:
        images: Images that were trained on.
        seconds: Of each step.
    """

    def __init__(self, *, images: int, batch_size: int) -> None:
        """Prepares.

        Args:
            images: Images an epoch.
            batch_size: Images a step.
        """
        super().__init__()
        self._images, self._batch_size = images, batch_size
        self.images, self.seconds = 0, list[float]()
        self._began = 0.0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops the clock."""
        self.seconds.append(time.perf_counter() - self._began)
        self.images += min(self._batch_size, self._images - batch * self._batch_size)

    @property
    def tracing(self) -> float:
        """Seconds by which the first step was longer than the others: its graph was traced."""
        if len(self.seconds) < 2:
            return 0.0
        return max(0.0, self.seconds[0] - float(np.median(self.seconds[1:])))

    @property
    def rate(self) -> float:
        """Images a second, without what tracing took."""
        return self.images / max(sum(self.seconds) - self.tracing, 1e-9)


def account(clock: Clock, timer: StepTimer, work: Work, phase: str, stream: Any) -> dict[str, Any]:
    """Adds where the time of a `fit` went to a clock, and returns how fast images passed.

    What forward and backward pass take is told apart by their operations.

    Args:
        clock: Gets tracing, forward and backward.
        timer: Has timed the steps.
        work: Of a step.
        phase: Name of the phase.
        stream: The batches; drawn from once more after a long training.

    Returns:
        phase, images_per_second, gflop_per_image, gflop_per_second; after a long training
        input_images_per_second, and whether the phase was starved of images.
    """
    steps = sum(timer.seconds) - timer.tracing
    share = work.forward / max(work.total, 1.0)
    clock.add("tracing", timer.tracing)
    clock.add("forward", steps * share)
    clock.add("backward", steps * (1 - share))
    row: dict[str, Any] = {
        "phase": phase,
        "images_per_second": timer.rate,
        "gflop_per_image": work.total / 1e9,
        "gflop_per_second": timer.rate * work.total / 1e9,
    }
    if steps > LONG:
        given = stream_rate(stream)
        row |= {"input_images_per_second": given, "starved": given < STARVED * timer.rate}
    return row


def stream_rate(stream: Any) -> float:
    """Returns the images a second that a stream of batches gives while nobody trains.

    Args:
        stream: Batches whose second entry is their labels; about a second's worth is drawn.
    """
    batches = iter(stream)
    next(batches)  # starts the threads
    began, images = time.perf_counter(), 0
    for _, labels, *_ in batches:
        images += int(labels.shape[0])
        if time.perf_counter() - began > PROBED:
            break
    return images / max(time.perf_counter() - began, 1e-9)


def merged(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Returns one row a phase, of several courses the last."""
    return tuple({row["phase"]: row for row in rows}.values())
