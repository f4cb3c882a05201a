"""What every recipe does around its phases: look at the images, load the network, report.

Synopsis, the whole of a recipe's `run`:

    job = jobs.begin(config, recipe="head_only")
    return job.carry_out(phases(job.config, job.groups))
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from finetune_kit import (
    checks,
    console,
    features,
    metrics,
    results,
    strategy,
    training,
)
from recipes import loading, looking, settings

if TYPE_CHECKING:
    import pathlib

    from finetune_kit.data.types import ImageData
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.companions import Companion
    from finetune_kit.training.options import Outcome

C = TypeVar("C", bound=settings.Settings)

LONG = 20_000  # images shown in training, above which an estimate is worth its second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(loading.Loaded[C]):
    """A run between its beginning and its report.

    Attributes:
        recipe: Name of the recipe.
        workdir: The claimed work directory.
        notes: What a reader of the report must know.
        advice: What was measured and advised before training, JSON types; None without.
    """

    recipe: str
    workdir: "pathlib.Path"
    notes: tuple[str, ...]
    advice: Mapping[str, Any] | None = None

    def carry_out(
        self, phases: "Sequence[Phase]", *, companion: "Companion | None" = None
    ) -> "results.Report":
        """Trains phase by phase, scores, and leaves model, report and pictures in `workdir`.

        Args:
            phases: In the order in which they run.
            companion: A source task that trains beside the target; None for none.

        Raises:
            NumericsError: Training diverged; the last good weights are saved before.
        """
        _show(phases)
        expected = self._expected(phases)
        if expected is not None:
            console.say(f"about {expected:.0f} s in all, from a timed forward pass")
        store = features.ActivationStore(
            memory_mb=self.config.cache_mb,
            directory=self.workdir,
            batch_size=self.config.batch_size,
        )
        with contextlib.closing(store):
            outcome = self._train(phases, store, companion)
            self.seconds.update(outcome.seconds)
            with loading.timed(self.seconds, "evaluation"):
                scores, test = self._scores(outcome, store)
        with loading.timed(self.seconds, "export"):
            self._save()
        report = self._report(phases, outcome, scores, expected)
        results.write(report, self.workdir, test)
        if test is not None and self.config.tensorboard:
            results.write_pictures(
                self.workdir / results.TENSORBOARD, test, step=outcome.planned_epochs
            )
        return report

    def _expected(self, phases: "Sequence[Phase]") -> float | None:
        """Returns seconds of the whole run; None where it is short, or the plan has told them."""
        # Each of k folds leaves a k-th of the images out; the course after them trains on all.
        images = max(1, len(self.images.folds)) * len(self.images.train)
        shown = images * sum(phase.epochs for phase in phases if not phase.solved)
        if self.advice is not None or shown < LONG:
            return None
        return looking.measured_costs(self).total(phases, images)

    def _train(
        self,
        phases: "Sequence[Phase]",
        store: "features.ActivationStore",
        companion: "Companion | None",
    ) -> "Outcome":
        config, folder = self.config, self.workdir
        try:
            return training.run(
                self.classifier,
                phases,
                self.images,
                training_options(config),
                tensorboard_dir=folder / results.TENSORBOARD if config.tensorboard else None,
                checkpoints=training.CheckpointStore(folder / results.CHECKPOINTS),
                resume=config.resume,
                identity=_identity(self.recipe, config, self.images, companion),
                companion=companion,
                activations=store,
            )
        except checks.NumericsError:
            self._save()
            raise

    def _save(self) -> None:
        results.save_model(self.classifier.predictor(), self.images.class_names, self.workdir)

    def _scores(
        self, outcome: "Outcome", store: "features.ActivationStore"
    ) -> "tuple[dict[str, metrics.Scores | None], results.Predictions | None]":
        seed, test, predictions = self.config.seed, self.images.test, None
        scores = {
            "validation": _score(outcome.validation, seed),
            "test": None,
        }
        if test is not None:
            probabilities = features.predict(self.classifier, test, store=store)
            scores["test"] = _score((test.labels, probabilities), seed)
            predictions = results.Predictions.of(test, probabilities, self.images.class_names)
        return scores, predictions

    def _report(
        self,
        phases: "Sequence[Phase]",
        outcome: "Outcome",
        scores: "dict[str, metrics.Scores | None]",
        expected: float | None,
    ) -> "results.Report":
        backbone = self.classifier.backbone
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
                "keys": backbone.keys.to_dict() if backbone.keys else None,
            },
            advice=self.advice,
            phases=tuple(dataclasses.asdict(phase) for phase in phases),
            plan=tuple(strategy.table(phases)),
            history=outcome.history,
            scores=scores,
            outcome={
                "planned_epochs": outcome.planned_epochs,
                "chosen_epoch": outcome.chosen_epoch,
                "reason": outcome.reason,
                "restarts": list(outcome.restarts),
                "speed": [dict(row) for row in outcome.speed],
                "expected_seconds": expected,
            },
            seconds={**self.seconds, "total": total},
            device=self.device,
            notes=(*self.notes, *outcome.notes, *outcome.restarts, *self.images.audit.notes),
        )


def begin(
    config: C, *, recipe: str, load: "Callable[[C], loading.Loaded[C]]" = loading.load
) -> Job[C]:
    """Decodes and splits the images, loads the backbone, and claims the work directory.

    Args:
        config: The settings.
        recipe: Its name.
        load: How images and backbone are loaded.

    Raises:
        KitError: Whatever is wrong with the settings, the images, the weights or the directory;
            one line each.
    """
    # Claimed at the end: until images and network are there, nothing is written or deleted.
    results.refuse_used(config.workdir, overwrite=config.overwrite, resume=config.resume)
    loaded = load(config)
    return Job(
        **vars(loaded),
        recipe=recipe,
        workdir=results.prepare(config.workdir, overwrite=config.overwrite, resume=config.resume),
        notes=tuple(loaded.why.values()),
    )


def training_options(config: settings.Source) -> "training.Options":
    """Returns the part of the settings that the loop is told."""
    names = {field.name for field in dataclasses.fields(training.Options)}
    known = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name in names
    }
    return training.Options(**known)


def _identity(
    recipe: str,
    config: settings.Settings,
    images: "ImageData",
    companion: "Companion | None" = None,
) -> dict[str, Any]:
    """Returns what a run must share with an interrupted one to go on with it."""
    free = ("workdir", "overwrite", "resume", "tensorboard", "cache_mb", "cache_dir",
            "keep_activations", "min_loaded")  # fmt: skip
    values = {name: v for name, v in dataclasses.asdict(config).items() if name not in free}
    source = {"source_fingerprint": companion.fingerprint} if companion else {}
    return {**values, **source, "recipe": recipe, "fingerprint": images.fingerprint}


def _show(phases: "Sequence[Phase]") -> None:
    rows = strategy.table(phases)
    console.table("What trains, and how fast", list(rows[0]), [list(row.values()) for row in rows])


def _score(held: "tuple[np.ndarray, np.ndarray] | None", seed: int) -> "metrics.Scores | None":
    return None if held is None else metrics.score(*held, seed=seed)
