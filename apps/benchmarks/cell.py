"""One cell of the study of advice: a set of images at one number of labels and one seed.

    finetune-kit benchmark cell --data=case/train_and_test --per_class=20 --plans=deep_head,finetune

Images are decoded once and looked at once; then plan after plan is trained from the same weights
and scored. Every finished piece is a line of JSON at once, so that nothing is lost when it stops.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from apps import flags
from finetune_kit import checks, console
from finetune_kit.strategy import candidates
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.strategy.advisor import Plan
    from recipes import loading, looking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Choices, settings.Source):
    """Flags of `finetune-kit benchmark cell`: those of `advise`, and which plans to train."""

    augment: str = settings.option(
        "Strength of the augmentation.", "light", choices=settings.AUGMENTATIONS
    )
    plans: str = settings.option("Candidates to train and score, with commas.", "")
    races: str = settings.option("Candidates to cross-validate, with commas.", "")
    fits: bool = settings.option("Report the evidence, too.", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (*listed(self.plans), *listed(self.races)):
            checks.one_of("plans", name, candidates.CANDIDATES)
        if not self.per_class:
            raise checks.ConfigError("A cell needs --per_class. Received: per_class=0")


def main(argv: list[str]) -> int:
    """Prints the lines of a cell; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark cell")
    flags.refuse_words("benchmark cell", words)
    for line in measure(config):
        console.say(json.dumps(line, allow_nan=False))
    return 0


def measure(config: Config) -> Iterator[dict[str, Any]]:
    """Yields the evidence, then a run for each plan, then the errors of each racer."""
    from recipes import advising, loading, looking

    loaded = loading.load(config)
    backbone = loaded.classifier.backbone
    before = [np.array(v) for v in backbone.model.variables]
    known = looking.counted(loaded)
    # Where the images depart decides which stage opens, so one plan has to be told.
    if config.fits or any(
        candidates.CANDIDATES[name].opens == "one" for name in listed(config.plans)
    ):
        found = looking.look(loaded)
        known = found.evidence
        if config.fits:
            yield {"kind": "evidence", **_evidence(found)}
    for name in listed(config.plans):
        plan = advising.planned(loaded, known, plan=name)
        yield {"kind": "run", "plan": name, **_run(loaded, plan)}
        _restore(backbone.model.variables, before)
    for name in listed(config.races):
        plan = advising.planned(loaded, known, plan=name)
        yield {"kind": "race", "plan": name, **_race(loaded, plan)}
        _restore(backbone.model.variables, before)


def listed(names: str) -> tuple[str, ...]:
    """Returns the names in `a,b`."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _evidence(found: "looking.Look") -> dict[str, Any]:
    from finetune_kit.results import files

    plain: dict[str, Any] = files.plain(
        {"evidence": dataclasses.asdict(found.evidence), **found.to_dict()}
    )
    return plain


def _run(loaded: "loading.Loaded[Config]", plan: "Plan") -> dict[str, Any]:
    """Returns accuracy on the test images and seconds of training."""
    from finetune_kit import features, training
    from recipes import advising, jobs

    images = loaded.images
    if images.test is None:
        raise checks.DataError("A cell needs test images. Received: none")
    classifier = advising.classifier_for(loaded, plan.candidate)
    began = time.perf_counter()
    outcome = training.run(classifier, plan.phases, images, jobs.training_options(loaded.config))
    seconds = time.perf_counter() - began
    probabilities = features.predict(classifier, images.test)
    right = probabilities.argmax(axis=1) == images.test.labels
    return {
        "accuracy": float(right.mean()),
        "right": packed(right),
        "test": len(images.test),
        "n": len(images.train),
        "epochs": outcome.planned_epochs,
        "restarts": len(outcome.restarts),
        "seconds": round(seconds, 2),
    }


def _race(loaded: "loading.Loaded[Config]", plan: "Plan") -> dict[str, Any]:
    """Returns which held-out images a plan got wrong, fold after fold."""
    from finetune_kit import data, training
    from recipes import advising, jobs

    began = time.perf_counter()
    errors = training.cross_validated_errors(
        training.Contender(
            plan.candidate.name, advising.classifier_for(loaded, plan.candidate), plan.phases
        ),
        loaded.images.train,
        data.cross_validation(loaded.images.train, seed=loaded.config.seed),
        jobs.training_options(loaded.config),
        num_classes=loaded.images.num_classes,
    )
    return {
        "errors": packed(errors > 0),
        "images": int(errors.size),
        "seconds": round(time.perf_counter() - began, 2),
    }


def packed(bits: np.ndarray) -> str:
    """Returns booleans [n] as hexadecimal digits, the first image in the highest bit."""
    return np.packbits(bits.astype(bool)).tobytes().hex()


def unpacked(text: str, n: int) -> np.ndarray:
    """Returns the booleans [n] that `packed` wrote."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:n].astype(bool)


def _restore(variables: Any, values: list[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
