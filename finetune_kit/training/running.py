"""The one way through training: phases in, history and the best weights out.

    outcome = training.run(classifier, phases, images, training.Options())

The weights at the planned end are kept, unless those of an earlier epoch recognise clearly more
held-out images. With a validation split, one course gives both. With a label budget, the course is
first run once on every fold; what the folds say about each epoch decides how long the final course
on all images goes on, so every label trains and none chooses for itself.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import checks, console, data, strategy
from finetune_kit.strategy import applying
from finetune_kit.training import (
    choosing,
    course,
    journal,
    ledger,
    options,
    statistics,
    tensorboard,
)

if TYPE_CHECKING:
    import os

    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import ImageData, Split
    from finetune_kit.features.activations import ActivationStore
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.checkpoints import CheckpointStore
    from finetune_kit.training.companions import Companion

MAX_RESTARTS = 3
# A loss that the rate drives up falls with the rate; hard batches, few and augmented, stay as hard.
SAME_LOSS = 0.7
Options = options.Options
Outcome = options.Outcome


def run(
    classifier: "Classifier",
    phases: "Sequence[Phase]",
    images: "ImageData",
    settings: Options,
    *,
    tensorboard_dir: "str | os.PathLike[str] | None" = None,
    checkpoints: "CheckpointStore | None" = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    companion: "Companion | None" = None,
    activations: "ActivationStore | None" = None,
) -> Outcome:
    """Trains a classifier phase by phase and leaves the chosen weights in it.

    Args:
        classifier: Its weights and flags are changed.
        phases: In the order in which they run; they name the classifier's groups.
        images: With `validation`, or with `folds`, or with neither.
        settings: How to train.
        tensorboard_dir: Where scalars and the plan are written for TensorBoard; None for nowhere.
        checkpoints: Where to note how far the run has come; None for nowhere.
        resume: Go on from the newest checkpoint, if there is one.
        identity: What an interrupted run must share with this one, JSON types.
        callbacks: Further callbacks for `fit`.
        companion: A source task beside the target; no score is its own.
        activations: Where what frozen stages make of the images is kept; None is memory.

    Raises:
        ConfigError: A phase or option does not fit the classifier, or the checkpoint the run.
        NumericsError: The loss exploded at every rate, or became NaN; the last good weights stay.
    """
    strategy.check(phases, classifier.groups)
    applying.check(classifier, phases)
    if images.validation is None:
        # Folds are compared epoch by epoch, so each has to run them all.
        settings = dataclasses.replace(settings, patience=0)
    statistics.prepare(classifier, phases, images.train, settings)
    way = course.Course(classifier, phases, settings, num_classes=images.num_classes,
                        listeners=callbacks, companion=companion, store=activations)  # fmt: skip
    board = tensorboard.Board(tensorboard_dir, phases)
    diary = journal.Journal(checkpoints, identity or {})
    attempt = _Attempt(way, tuple(phases), images, settings, diary, board)
    try:
        return attempt.persist(diary.read() if resume else None)
    finally:
        board.close()


@dataclasses.dataclass
class _Attempt:
    """A run under way: the course, and what it is told and tells."""

    way: course.Course
    phases: "tuple[Phase, ...]"
    images: "ImageData"
    settings: Options
    diary: journal.Journal
    board: tensorboard.Board
    restarts: list[str] = dataclasses.field(default_factory=list)
    explosion: course.Explosion | None = None
    books: list[ledger.Ledger] = dataclasses.field(default_factory=list)

    def persist(self, start: journal.Standing | None) -> Outcome:
        """Runs until the guard has nothing to say against the rate."""
        notes: tuple[str, ...] = ()
        if start is not None:
            self.way.rescale(start.scales)
            self.restarts = list(start.restarts)
            notes = (f"gone on with an interrupted run after {_where(start)}",)
        while True:
            self.books = list(start.books) if start else []
            try:
                folded = self.images.validation is None and self.images.folds
                outcome = self._with_folds(start) if folded else self._with_validation(start)
                restarts = tuple(self.restarts)
                speed = self.way.speed
                notes = (*notes, *self.way.prefixes.notes, *_bottlenecks(speed))
                self.board.seconds(self.way.seconds)
                return dataclasses.replace(outcome, restarts=restarts, notes=notes, speed=speed)
            except course.Explosion as explosion:
                self._answer(explosion)
                start = None

    def _with_validation(self, start: journal.Standing | None) -> Outcome:
        """Runs the course once; keeps the best weights, or the last without held-out images."""
        images = self.images
        with self._progress([len(images.train)]) as progress:
            book = self._follow(
                0, start, images.train, images.validation, progress,
                listener=lambda row: self.board.epoch(row, self.restarts),
            )  # fmt: skip
        kept, reason = _choose(book)
        self.way.restore(kept.weights)
        return Outcome(
            history=tuple(book.rows),
            chosen_epoch=book.rows[kept.point]["epoch"],
            planned_epochs=sum(phase.epochs for phase in self.phases),
            reason=reason,
            validation=(kept.score.labels, kept.score.probabilities) if kept.score else None,
            seconds=self.way.seconds,
        )

    def _with_folds(self, start: journal.Standing | None) -> Outcome:
        """Runs the course on every fold, chooses its length, and runs it on all images."""
        train, folds = self.images.train, self.images.folds
        with self._progress([*(len(fold.train) for fold in folds), len(train)]) as progress:
            for number, fold in enumerate(folds):
                pair = train.take(fold.train), train.take(fold.validation)
                self._follow(number, start, *pair, progress)
            books = self.books[: len(folds)]
            point = choosing.choose_point(
                choosing.pooled([[score.errors for score in book.scores] for book in books])
            )
            final = self._follow(
                len(folds), start, train, None, progress, points=point + 1,
                listener=lambda row: self._tell(row, final_rows=self.books[-1].rows),
            )  # fmt: skip
        self.way.restore(_choose(final)[0].weights)
        rows = [row | _means(books, i) for i, row in enumerate(final.rows)]
        return Outcome(
            history=tuple(rows),
            chosen_epoch=rows[-1]["epoch"],
            planned_epochs=sum(phase.epochs for phase in self.phases),
            reason=_reason(point, books),
            validation=(
                np.concatenate([book.scores[point].labels for book in books]),
                np.concatenate([book.scores[point].probabilities for book in books]),
            ),
            seconds=self.way.seconds,
            folds=tuple(tuple(row["val_loss"] for row in book.rows) for book in books),
        )

    def _follow(
        self,
        number: int,
        start: journal.Standing | None,
        train: "Split",
        held_out: "Split | None",
        progress: console.Progress,
        *,
        points: int | None = None,
        listener: ledger.Listener = lambda row: None,
    ) -> ledger.Ledger:
        """Runs course `number`, or what is missing of it, and returns its book."""
        under_way = start is not None and number == len(start.books) - 1
        if start is not None and number < len(start.books) - 1:
            progress.advance(self._steps(len(train)))
            return self.books[number]
        if not under_way:
            self.books.append(ledger.Ledger(keep_scores=bool(self.images.folds)))
        book = self.books[number]
        book.listeners = (listener,)
        steps = data.steps_per_epoch(len(train), self.settings.batch_size)
        progress.advance(steps * sum(row["learning_rate"] is not None for row in book.rows))
        self.way.run(
            course.Task(
                train,
                held_out,
                book,
                progress,
                points=points,
                start=start if under_way else None,
                note=self._note,
            )
        )
        self._write()  # the end of a course is worth a checkpoint however young the last one is
        return book

    def _note(self) -> None:
        if self.diary.due:
            self._write()

    def _write(self) -> None:
        with self.way.clock.time("checkpoints"):
            variables, optimizer = self.way.capture()
            self.diary.write(
                journal.Standing(
                    self.way.scales, tuple(self.restarts), tuple(self.books), variables, optimizer
                )
            )

    def _tell(self, row: ledger.Row, *, final_rows: list[ledger.Row]) -> None:
        """Tells TensorBoard a row of the final course, with what the folds said of its epoch."""
        point = len(final_rows) - 1
        self.board.epoch(row | _means(self.books[:-1], point), self.restarts)

    def _answer(self, explosion: course.Explosion) -> None:
        """Lowers the rate after an explosion, or finds that the rate is not to blame.

        Raises:
            NumericsError: The rate has been lowered often enough.
        """
        name = self.phases[explosion.phase].name
        before, self.explosion = self.explosion, explosion
        again = before is not None and before.phase == explosion.phase
        if before is not None and again and explosion.loss > SAME_LOSS * before.loss:
            rate = self.way.clear_rate(explosion.phase)
            self._say(
                f"In phase {name!r} {explosion.seen} at a tenth of the rate too, so the rate is "
                f"not to blame: started again at {rate:.2g}, unguarded"
            )
            return
        if len(self.restarts) == MAX_RESTARTS:
            raise checks.NumericsError(
                f"The loss must not explode. Received: in phase {name!r} {explosion.seen}, at a "
                f"rate lowered {MAX_RESTARTS} times. Choose a smaller --learning_rate."
            )
        rate = self.way.lower_rate(explosion.phase)
        self._say(
            f"In phase {name!r} {explosion.seen}: started again from the initial weights, with the "
            f"peak rate lowered to {rate:.2g} (S7)"
        )

    def _say(self, line: str) -> None:
        self.restarts.append(line)
        console.warn(line)

    def _progress(self, sizes: Sequence[int]) -> "Any":
        return console.progress("Training", sum(map(self._steps, sizes)))

    def _steps(self, images: int) -> int:
        epochs = sum(phase.epochs for phase in self.phases)
        return epochs * data.steps_per_epoch(images, self.settings.batch_size)


def _bottlenecks(speed: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns a sentence for every phase that waited for its images."""
    return tuple(
        f"phase {row['phase']!r} waits for images: {row['input_images_per_second']:.0f} a second "
        f"come, {row['images_per_second']:.0f} are trained on. More --cache_mb, a --cache_dir or a "
        "weaker --augment would help."
        for row in speed
        if row.get("starved")
    )


def _means(books: Sequence[ledger.Ledger], point: int) -> dict[str, float]:
    """Returns what the folds said of a point, on average."""
    return {
        name: float(np.mean([book.rows[point][name] for book in books]))
        for name in ("val_loss", "val_accuracy")
    }


def _where(start: journal.Standing) -> str:
    rows = start.books[-1].rows
    return f"epoch {rows[-1]['epoch']} of course {len(start.books)}"


def _choose(book: ledger.Ledger) -> tuple[ledger.Kept, str]:
    """Returns the weights to keep of a course that has ended, and why."""
    best, last = book.best, book.last
    if last is None:
        raise checks.ConfigError("A course needs at least one point. Received: none")
    if best is None or best.score is None or last.score is None:
        return last, "the planned end: no images were held out"
    images = f"{len(last.score.labels)} held-out images"
    if choosing.choose_point(np.stack([best.score.errors, last.score.errors])) == 1:
        return last, f"the end of training: no earlier epoch was clearly better on {images}"
    epoch = book.rows[best.point]["epoch"]
    return best, f"epoch {epoch}: clearly better than the end on {images}"


def _reason(point: int, books: Sequence[ledger.Ledger]) -> str:
    last = len(books[0].rows) - 1
    images = sum(len(book.scores[0].labels) for book in books)
    held_out = f"{images} images held out in {len(books)} folds"
    if point == last:
        return f"the planned end: no earlier epoch was clearly better on {held_out}"
    epoch = books[0].rows[point]["epoch"]
    return f"epoch {epoch}: clearly better than the planned end on {held_out}"
