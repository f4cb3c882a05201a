"""A race: plans compete by cross-validation inside the training images."""

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks, console, data
from finetune_kit.training import choosing, course, ledger, scoring, snapshots, statistics

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Fold, Split
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.options import Options

ATTEMPTS = 3  # rates that a contender whose loss explodes may try, each a tenth of the one before


@dataclasses.dataclass(frozen=True)
class Contender:
    """A plan in a race: what it is called, what it trains, phase by phase."""

    name: str
    classifier: "Classifier"
    phases: "tuple[Phase, ...]"


@dataclasses.dataclass(frozen=True)
class Result:
    """How a race ended.

    Attributes:
        winner: Name of a contender.
        errors: Contender to the share of held-out images that it did not recognise, in [0, 1].
        images: Number of held-out images, over all folds.
        margin: Share by which the winner or else the best rival beats the prior; negative where
            the rival is behind.
        error: Standard error of `margin`.
        seconds: Seconds that the race took.
        reason: One sentence.
    """

    winner: str
    errors: dict[str, float]
    images: int
    margin: float
    error: float
    seconds: float
    reason: str


def race(
    contenders: Sequence[Contender],
    train: "Split",
    folds: "Sequence[Fold]",
    settings: "Options",
    *,
    num_classes: int,
) -> Result:
    """Trains every contender on every fold and returns who wins.

    The first contender is the prior. It wins unless another recognises more held-out images by
    more than one standard error of the paired difference (Breiman et al., 1984, section 3.4.3).

    Args:
        contenders: Two or more; their classifiers keep the weights they came with.
        train: n images.
        folds: Positions within `train` to train on and to hold out; at least one.
        settings: How to train.
        num_classes: C.

    Raises:
        ConfigError: There are fewer than two contenders, or no folds.
    """
    if len(contenders) < 2 or not folds:
        raise checks.ConfigError(
            "A race needs two plans and images that can be held out. "
            + checks.received(plans=[c.name for c in contenders], folds=len(folds))
        )
    began = time.perf_counter()
    work = [sum(phase.epochs for phase in contender.phases) for contender in contenders]
    steps = sum(data.steps_per_epoch(len(fold.train), settings.batch_size) for fold in folds)
    with console.progress("Racing", steps * sum(work)) as bar:
        errors = np.stack(
            [
                cross_validated_errors(
                    c, train, folds, settings, num_classes=num_classes, progress=bar
                )
                for c in contenders
            ]
        )
    return _result([c.name for c in contenders], errors, time.perf_counter() - began)


def _result(names: Sequence[str], errors: np.ndarray, seconds: float) -> Result:
    """Returns who wins, from 1 for an error and 0 else of every held-out image, [plans, m]."""
    rival = 1 + int(np.argmin(errors[1:].mean(axis=1)))
    difference = errors[0] - errors[rival]
    standard = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    won = choosing.choose_point(errors[[rival, 0]]) == 0
    return Result(
        winner=names[rival] if won else names[0],
        errors=dict(zip(names, map(float, errors.mean(axis=1)), strict=True)),
        images=int(errors.shape[1]),
        margin=float(difference.mean()),
        error=standard,
        seconds=seconds,
        reason=(
            f"{names[rival]} recognised {100 * difference.mean():+.1f} ± {100 * standard:.1f} "
            f"points more of {errors.shape[1]} held-out images than {names[0]}: "
            + ("more" if won else "not more")
            + " than one standard error"
        ),
    )


def cross_validated_errors(
    contender: Contender,
    train: "Split",
    folds: "Sequence[Fold]",
    settings: "Options",
    *,
    num_classes: int,
    progress: console.Progress | None = None,
) -> np.ndarray:
    """Returns 1 for every held-out image that a plan does not recognise and 0 else, float64 [m].

    Args:
        contender: Its classifier keeps the weights it came with.
        train: n images.
        folds: Positions within `train` to train on and to hold out.
        settings: How to train.
        num_classes: C.
        progress: Advanced by one a step.
    """
    bar = progress or console.Progress()
    variables = contender.classifier.model.variables
    before = snapshots.take(variables)
    statistics.prepare(contender.classifier, contender.phases, train, settings)
    way = course.Course(contender.classifier, contender.phases, settings, num_classes=num_classes)
    try:
        return np.concatenate(
            [
                _follow(way, contender, train.take(fold.train), train.take(fold.validation), bar)
                for fold in folds
            ]
        )
    finally:
        snapshots.put(variables, before)


def _follow(
    way: course.Course,
    contender: Contender,
    train: "Split",
    held_out: "Split",
    bar: console.Progress,
) -> np.ndarray:
    """Runs the course on one fold and scores its end; a plan that diverges recognises nothing."""
    for _ in range(ATTEMPTS):
        try:
            way.run(course.Task(train, None, ledger.Ledger(), bar))
        except course.Explosion as explosion:
            way.lower_rate(explosion.phase)
            continue
        except checks.NumericsError:
            break
        model = contender.classifier.model
        return scoring.Scorer(model, held_out, batch_size=64).score().errors
    return np.ones(len(held_out))
