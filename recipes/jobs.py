"""What every recipe does around its phases: look at the images, load the network, report.

Synopsis, the whole of a recipe's `run`:

    job = jobs.begin(config, recipe="head_only")
    return job.carry_out(phases(job.config, job.groups))
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from finetune_kit import (
    backbones,
    checks,
    console,
    data,
    features,
    metrics,
    results,
    strategy,
    training,
)
from recipes import settings

if TYPE_CHECKING:
    import pathlib

    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import ImageData
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.options import Outcome

C = TypeVar("C", bound=settings.Settings)

HEAD_BATCH = 64  # images a forward pass where nothing is trained; it changes no result


@dataclasses.dataclass(frozen=True)
class Job(Generic[C]):
    """A run between its beginning and its report.

    Attributes:
        config: The recipe's settings, resolved: nothing is left to be chosen.
        recipe: Name of the recipe.
        workdir: The claimed work directory.
        images: What is trained and scored on.
        classifier: The backbone with a fresh head.
        device: Name of the device that trains.
        notes: What was chosen and why, and what a reader of the report must know.
        seconds: Seconds by part so far.
        started: `time.perf_counter()` at the beginning.
    """

    config: C
    recipe: str
    workdir: "pathlib.Path"
    images: "ImageData"
    classifier: "Classifier"
    device: str
    notes: tuple[str, ...]
    seconds: dict[str, float]
    started: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The backbone's stages from input to output, then `head`."""
        return self.classifier.groups

    def carry_out(self, phases: "Sequence[Phase]") -> "results.Report":
        """Trains phase by phase, scores, and leaves model, report and pictures in `workdir`.

        Raises:
            NumericsError: Training diverged; the last good weights are saved before.
        """
        config, folder = self.config, self.workdir
        _show(phases)
        try:
            outcome = training.run(
                self.classifier,
                phases,
                self.images,
                training_options(config),
                tensorboard_dir=folder / results.TENSORBOARD if config.tensorboard else None,
                checkpoints=training.CheckpointStore(folder / results.CHECKPOINTS),
                resume=config.resume,
                identity=_identity(self.recipe, config, self.images),
            )
        except checks.NumericsError:
            self._save()
            raise
        self.seconds.update(outcome.seconds)
        with _timed(self.seconds, "evaluation"):
            scores, test = self._scores(outcome)
        with _timed(self.seconds, "export"):
            self._save()
        report = self._report(phases, outcome, scores)
        results.write(report, folder, test)
        if test is not None and config.tensorboard:
            results.write_pictures(folder / results.TENSORBOARD, test, step=outcome.planned_epochs)
        return report

    def _save(self) -> None:
        results.save_model(self.classifier.predictor(), self.images.class_names, self.workdir)

    def _scores(
        self, outcome: "Outcome"
    ) -> "tuple[dict[str, metrics.Scores | None], results.Predictions | None]":
        seed, test, predictions = self.config.seed, self.images.test, None
        scores = {
            "validation": _score(outcome.validation, seed),
            "test": None,
        }
        if test is not None:
            probabilities = features.predict(self.classifier, test, batch_size=HEAD_BATCH)
            scores["test"] = _score((test.labels, probabilities), seed)
            predictions = results.Predictions.of(test, probabilities, self.images.class_names)
        return scores, predictions

    def _report(
        self,
        phases: "Sequence[Phase]",
        outcome: "Outcome",
        scores: "dict[str, metrics.Scores | None]",
    ) -> "results.Report":
        backbone = self.classifier.backbone
        audit = self.images.audit
        left_out = [f"{file.name} was left out: {file.reason}" for file in audit.bad]
        total = time.perf_counter() - self.started
        return results.Report(
            recipe=self.recipe,
            config=dataclasses.asdict(self.config),
            data=self.images.summary(),
            backbone={
                "name": backbone.name,
                "weights": backbone.weights,
                "image_size": backbone.image_size,
                "parameters": backbone.model.count_params(),
                "stages": [stage.name for stage in backbone.stages],
            },
            phases=tuple(dataclasses.asdict(phase) for phase in phases),
            plan=tuple(strategy.table(phases)),
            history=outcome.history,
            scores=scores,
            outcome={
                "planned_epochs": outcome.planned_epochs,
                "chosen_epoch": outcome.chosen_epoch,
                "reason": outcome.reason,
                "restarts": list(outcome.restarts),
            },
            seconds={**self.seconds, "total": total},
            device=self.device,
            notes=(*self.notes, *outcome.notes, *outcome.restarts, *audit.warnings, *left_out),
        )


def begin(config: C, *, recipe: str) -> Job[C]:
    """Decodes and splits the images, loads the backbone, and claims the work directory.

    Raises:
        KitError: Whatever is wrong with the settings, the images, the weights or the directory;
            one line each.
    """
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    # Claimed at the end: until images and network are there, nothing is written or deleted.
    results.refuse_used(config.workdir, overwrite=config.overwrite, resume=config.resume)
    with _timed(seconds, "start_up"):
        device = training.choose_device(config.precision)
    size = backbones.catalogue.image_size(config.backbone, config.image_size)
    with _timed(seconds, "data"), console.progress("Decoding") as bar:
        images = data.load(
            config.data,
            image_size=size,
            data_dir=config.data_dir or None,
            seed=config.seed,
            per_class=config.per_class,
            test_fraction=config.test_fraction,
            validation_fraction=config.validation_fraction,
            max_bad_fraction=config.max_bad_fraction,
            cache_mb=config.cache_mb,
            progress=bar.advance,
        )
    with _timed(seconds, "backbone"):
        backbone = backbones.load(
            config.backbone,
            image_size=size,
            weights=config.weights,
            arguments=config.arguments(),
            precision=config.precision,
            seed=config.seed,
        )
        classifier = backbones.attach_head(
            backbone,
            images.num_classes,
            dropout=getattr(config, "dropout", 0.0),
            seed=config.seed,
        )
    resolved, notes = _resolve(config, backbone.model.count_params(), images, size)
    workdir = results.prepare(config.workdir, overwrite=config.overwrite, resume=config.resume)
    return Job(resolved, recipe, workdir, images, classifier, device, notes, seconds, started)


def training_options(config: settings.Settings) -> "training.Options":
    """Returns the part of the settings that the loop is told."""
    names = {field.name for field in dataclasses.fields(training.Options)}
    known = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name in names
    }
    return training.Options(**known)


def _resolve(
    config: C, parameters: int, images: "ImageData", size: int
) -> tuple[C, tuple[str, ...]]:
    """Returns the settings with every automatic value chosen, and why."""
    chosen: dict[str, Any] = {"image_size": size}
    notes = []
    if isinstance(config, settings.TuningSettings):
        if not config.learning_rate:
            rate, reason = strategy.default_rate(config.optimizer, parameters=parameters)
            chosen["learning_rate"] = rate
            notes.append(f"learning rate {reason}")
        if not config.epochs:
            epochs, reason = strategy.default_epochs(
                len(images.train), batch_size=config.batch_size
            )
            chosen["epochs"] = epochs
            notes.append(reason)
    return dataclasses.replace(config, **chosen), tuple(notes)


def _identity(recipe: str, config: settings.Settings, images: "ImageData") -> dict[str, Any]:
    """Returns what a run must share with an interrupted one to go on with it."""
    free = ("workdir", "overwrite", "resume", "tensorboard", "cache_mb")
    values = {name: v for name, v in dataclasses.asdict(config).items() if name not in free}
    return {**values, "recipe": recipe, "fingerprint": images.fingerprint}


def _show(phases: "Sequence[Phase]") -> None:
    rows = strategy.table(phases)
    console.table("What trains, and how fast", list(rows[0]), [list(row.values()) for row in rows])


def _score(held: "tuple[np.ndarray, np.ndarray] | None", seed: int) -> "metrics.Scores | None":
    return None if held is None else metrics.score(*held, seed=seed)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[part] = time.perf_counter() - started
