"""All phases of a run, one after the other, from the same weights as often as asked."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import checks, console, data, features
from finetune_kit.training import (
    callbacks,
    fitter,
    interpolation,
    joint_loss,
    journal,
    ledger,
    prefixes,
    schedules,
    scoring,
    snapshots,
    solving,
    statistics,
    timing,
)

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.features.activations import ActivationStore, Kept
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.companions import Companion
    from finetune_kit.training.options import Options

RATE_FACTOR = 0.1  # S7: lower the rate; the text's own two values, 0.01 and 0.001, differ tenfold


class Explosion(Exception):
    """The loss exploded in the first steps of a phase.

    Attributes:
        phase: Index of the phase.
        seen: What was seen, one clause.
        loss: Loss of the batch, nats.
    """

    def __init__(self, phase: int, seen: str, loss: float) -> None:
        super().__init__(seen)
        self.phase, self.seen, self.loss = phase, seen, loss


@dataclasses.dataclass(frozen=True)
class Task:
    """One course to run.

    Attributes:
        train: Images to train on.
        held_out: Images to score after every epoch, or None.
        book: Where the rows are entered; those that it holds are not run again.
        progress: Advanced by one a step.
        points: Rows after which the course ends; None follows it to its end.
        start: Where the course stands, if `book` holds rows.
        note: Called after every row; `Course.capture` then returns where the course stands.
    """

    train: "Split"
    held_out: "Split | None"
    book: ledger.Ledger
    progress: console.Progress
    points: int | None = None
    start: "journal.Standing | None" = None
    note: Callable[[], None] = lambda: None


class Course:
    """The phases of a run on one classifier.

    Every `run` starts from the weights that the classifier had when the course was made. A phase's
    graph is traced once and the features of the frozen backbone are computed once, however often
    the course is run.

    Attributes:
        seconds: Seconds by part, over all runs.
    """

    def __init__(
        self,
        classifier: "Classifier",
        phases: "Sequence[Phase]",
        options: "Options",
        *,
        num_classes: int,
        listeners: Sequence[keras.callbacks.Callback] = (),
        companion: "Companion | None" = None,
        store: "ActivationStore | None" = None,
    ) -> None:
        """Notes the initial weights.

        Args:
            classifier: What is trained.
            phases: Checked against the classifier's groups by the caller.
            options: How to train.
            num_classes: C.
            listeners: Further callbacks for `fit`; they see val_loss and val_accuracy.
            companion: A source task that trains in every phase that is not solved; None for none.
            store: Where activations of frozen stages are kept; None keeps them in memory.
        """
        self._classifier, self._phases, self._options = classifier, tuple(phases), options
        self._num_classes, self._listeners = num_classes, tuple(listeners)
        self._initial = snapshots.take(classifier.model.variables)
        self._companion = companion
        self._joint = joint_loss.Joint(classifier, companion) if companion else None
        self._beginning = snapshots.take(self._variables)
        self._fitters: dict[tuple[int, bool], fitter.Fitter] = {}
        if companion:  # its images would need activations too, and they are as many as the source
            options = dataclasses.replace(options, keep_activations=False)
        self.prefixes = prefixes.Prefixes(
            classifier,
            phases,
            options,
            store or features.ActivationStore(batch_size=options.batch_size),
        )
        self._solver = solving.Solver(
            classifier, self.prefixes, num_classes=num_classes, seed=options.seed
        )
        self._scales = [1.0] * len(self._phases)
        self._unguarded: set[int] = set()
        self._last: fitter.Fitter | None = None
        self.clock = timing.Clock()
        self._speeds: list[dict[str, Any]] = []

    @property
    def weights(self) -> list[Any]:
        """Variables that make up the classifier; the seeds of its dropout are not among them."""
        return list(self._classifier.model.weights)

    @property
    def _variables(self) -> list[Any]:
        """All that training changes, the optimizer's state apart."""
        other = self._joint.head.variables if self._joint else []
        return [*self._classifier.model.variables, *other]

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part, over all runs so far."""
        return {**self._solver.seconds, **self.clock.parts}

    @property
    def speed(self) -> tuple[dict[str, Any], ...]:
        """How fast images passed, phase by phase, when it was last trained."""
        return timing.merged(self._speeds)

    @property
    def scales(self) -> tuple[float, ...]:
        """What the guard has made of each phase's rate, a factor a phase."""
        return tuple(self._scales)

    def rescale(self, scales: Sequence[float]) -> None:
        """Sets `scales`, as a run that goes on had them."""
        self._scales = list(scales)

    def lower_rate(self, first: int) -> float:
        """Lowers the rate of phase `first` and those after it; returns its new peak."""
        for index in range(first, len(self._scales)):
            self._scales[index] *= RATE_FACTOR
        return self._phases[first].learning_rate * self._scales[first]

    def clear_rate(self, first: int) -> float:
        """Takes the last lowering of phase `first` back and guards it no more; returns its peak."""
        for index in range(first, len(self._scales)):
            self._scales[index] /= RATE_FACTOR
        self._unguarded.add(first)
        return self._phases[first].learning_rate * self._scales[first]

    def run(self, task: Task) -> None:
        """Trains phase by phase, from the initial weights or from where `task.start` stands.

        Raises:
            Explosion: The guard saw the loss explode.
            NumericsError: The loss or the weights stopped being finite; the classifier holds the
                last weights that were.
        """
        snapshots.put(self._variables, task.start.variables if task.start else self._beginning)
        if task.start:
            self._reweigh(task.book)
        self._last, epoch = None, 0
        for index, phase in enumerate(self._phases):
            left = math.inf if task.points is None else task.points - len(task.book.rows)
            if left <= 0:
                break
            done = len(task.book.rows_of(phase.name))
            if phase.solved:
                if not done:
                    self._solve(phase, task, epoch=epoch)
                continue
            kept = self.prefixes.train(index, task.train)
            self._last = self._open(index, self._last, cut=kept is not None)
            if phase.batch_norm == "trainable":
                statistics.shorten_memory(
                    self._classifier.model._flatten_layers(),
                    steps=phase.epochs
                    * data.steps_per_epoch(len(task.train), self._options.batch_size),
                )
            stands_here = task.start is not None and task.book.rows[-1]["phase"] == phase.name
            if task.start is not None and stands_here:
                self._last.go_on(task.start.optimizer)
            epochs = range(epoch + done, epoch + int(min(phase.epochs, done + left)))
            if not task.book.exhausted(phase.name, self._options.patience) and epochs:
                self._fit(index, self._last, task, epochs, begin=epoch, kept=kept)
            elif stands_here:
                self._last.finish()
                self._reweigh(task.book)
            epoch += phase.epochs

    def _reweigh(self, book: ledger.Ledger) -> None:
        """Gives the last row of a book what its weights are now that training stands there."""
        if book.last is not None:
            with self._interpolated(book):
                book.last = dataclasses.replace(book.last, weights=snapshots.take(self.weights))

    def _interpolated(self, book: ledger.Ledger) -> contextlib.AbstractContextManager[None]:
        """Puts the weights that are scored and kept in the place of those that train."""
        wanted = {id(variable) for variable in self.weights}
        pairs = zip(self._classifier.model.variables, self._initial, strict=True)
        initial = [value for variable, value in pairs if id(variable) in wanted]
        return interpolation.interpolated(self.weights, book.probe or initial, self._options.wise)

    def capture(self) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Returns the values of the variables that train, and of the optimizer's by key."""
        state = {} if self._last is None else self._last.state()
        return snapshots.take(self._variables), state

    def restore(self, weights: Sequence[np.ndarray]) -> None:
        """Puts weights into the classifier that a ledger kept."""
        snapshots.put(self.weights, weights)

    def _solve(self, phase: "Phase", task: Task, *, epoch: int) -> None:
        began = time.perf_counter()
        own, held_out = self._solver.solve(task.train, task.held_out)
        row = {
            "phase": phase.name,
            "epoch": epoch,
            "loss": own.loss,
            "accuracy": own.accuracy,
            "learning_rate": None,
            "seconds": time.perf_counter() - began,
        }
        weights = snapshots.take(self.weights)
        if self._options.wise < 1.0:
            task.book.probe = weights
        task.book.add(row, held_out, weights)
        task.note()

    def _open(self, index: int, previous: fitter.Fitter | None, *, cut: bool) -> fitter.Fitter:
        found = self.prefixes.cut(index) if cut else None
        key = (index, cut)
        if key not in self._fitters:
            self._fitters[key] = fitter.Fitter(
                self._classifier,
                self._phases[index],
                self._options,
                origin=self._initial,
                previous=previous,
                joint=self._joint,
                suffix=found.suffix if found else None,
            )
        self._fitters[key].start(previous)
        return self._fitters[key]

    def _fit(
        self,
        index: int,
        current: fitter.Fitter,
        task: Task,
        epochs: range,
        *,
        begin: int,
        kept: "Kept | None",
    ) -> None:
        """Fits the epochs of a phase that began with epoch `begin`."""
        options = self._options
        steps = data.steps_per_epoch(len(task.train), options.batch_size)
        watch = callbacks.Watch(
            images=len(task.train),
            batch_size=options.batch_size,
            num_classes=self._num_classes,
            guard=options.guard and index not in self._unguarded and epochs.start == begin,
        )
        rates = callbacks.Rates(self._schedule(index), first_epoch=begin, steps=steps)
        keeper = self._keeper(current, rates, task, index if kept else None)
        work = timing.Work(self._classifier, current.phase, kept=kept is not None)
        meter = callbacks.Meter(
            task.progress, current.phase.name, batch_size=options.batch_size, work=work.total
        )
        timer = timing.StepTimer(images=len(task.train), batch_size=options.batch_size)
        stream = self._batches(current.phase, task.train, epochs, begin=begin, kept=kept)
        current.fit(
            stream,
            steps=steps,
            epochs=epochs,
            callbacks=[timer, rates, watch, keeper, meter, *self._listeners],
        )
        self._speeds.append(timing.account(self.clock, timer, work, current.phase.name, stream))
        if watch.exploded:
            raise Explosion(index, watch.exploded, watch.loss)
        if watch.diverged or keeper.diverged:
            self._stop(task.book, current.phase)

    def _schedule(self, index: int) -> Any:
        phase = self._phases[index]
        peak = phase.learning_rate * self._scales[index]
        return schedules.keras_schedule(phase.schedule, peak=peak, epochs=phase.epochs)

    def _keeper(
        self, current: fitter.Fitter, rates: callbacks.Rates, task: Task, cut: int | None
    ) -> ledger.Bookkeeper:
        return ledger.Bookkeeper(
            task.book,
            phase=current.phase.name,
            rates=rates,
            score=self._scorer(task, cut),
            weights=self.weights,
            scored=lambda: self._interpolated(task.book),
            patience=self._options.patience,
            after=task.note,
        )

    def _stop(self, book: ledger.Ledger, phase: "Phase") -> None:
        """Restores the last good weights and raises `NumericsError`."""
        kept = book.best or book.last
        if kept is not None:
            self.restore(kept.weights)
        else:
            snapshots.put(self._classifier.model.variables, self._initial)
        where = f"after epoch {book.rows[kept.point]['epoch']}" if kept else "before training"
        raise checks.NumericsError(
            f"The loss must be a finite number. Received: NaN or infinity in phase {phase.name!r}. "
            f"The weights {where} are kept. Lower --learning_rate, or use --precision=float32."
        )

    def _scorer(self, task: Task, cut: int | None) -> Any:
        """Returns what scores the held-out images, from the cut of phase `cut` if that is given."""
        if task.held_out is None:
            return None
        kept = None if cut is None else self.prefixes.held_out(cut, task.held_out)
        found = self.prefixes.cut(cut) if cut is not None and kept is not None else None
        scorer = scoring.Scorer(
            found.suffix if found else self._classifier.model,
            task.held_out,
            batch_size=2 * self._options.batch_size,
            activations=kept,
        )
        return functools.partial(self._score, scorer)

    def _score(self, scorer: scoring.Scorer) -> scoring.Score:
        with self.clock.time("validation"):
            return scorer.score()

    def _batches(
        self, phase: "Phase", train: "Split", epochs: range, *, begin: int, kept: "Kept | None"
    ) -> Any:
        options, companion = self._options, self._companion
        weights = None
        if options.imbalance == "weights":
            weights = data.class_weights(train.counts(self._num_classes))
        stream: Any
        if companion is not None:
            shares = companion.shares(
                epochs=epochs,
                begin=begin,
                total=phase.epochs,
                steps=data.steps_per_epoch(len(train), options.batch_size),
            )
            stream = functools.partial(
                data.paired_batches, partners=companion.beside(train), shares=shares
            )
        else:
            stream = functools.partial(data.batches, views=options.views, activations=kept)
        return stream(
            train,
            num_classes=self._num_classes,
            batch_size=options.batch_size,
            seed=options.seed,
            epochs=epochs.stop,
            first_epoch=epochs.start,
            augmentation=phase.augment,
            sampling="balanced" if options.imbalance == "sampling" else "natural",
            class_weights=weights,
        )
