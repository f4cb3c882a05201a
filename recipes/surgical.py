"""Linear probe, then one stage with the head: the one at which the images pull hardest.

Where images differ from the source in colour or texture, the first stages have to change; where
they differ in what is shown, the last ones. One stage moves, the others keep what they know. With
`--stage=auto` it is the one whose gradient at the solved head is largest beside its weights.

Use it with little data that differs from the source in one respect, and name the stage where you
know which one; the choice is made on the training images and is told in the report.

Expected: docs/advice.md has its accuracy (`surgical`) on seven sets; an early stage costs as much
          as all of them.
Run:      finetune-kit finetune surgical --stage=auto --data=photos --workdir=runs/1

Reference: Lee et al., 2023, "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts",
section 2; section 4 for the choice, where their Auto-RGN weighs the layers' rates instead.
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy, training
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the stage trains, and which one it is."""

    stage: str = settings.option(
        "Stage that trains, as in stem or stage_1, or auto.", settings.AUTO
    )


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase in which `config.stage` and the head train.

    Raises:
        ConfigError: The network has no such stage, or it is still to be chosen.
    """
    return (
        strategy.probe(groups),
        strategy.one_stage(groups, config.stage, config.tuning(), name="surgical"),
    )


def run(config: Config) -> "results.Report":
    """Chooses the stage, solves the head, then trains both; leaves model and report."""
    job = jobs.begin(config, recipe="surgical")
    if job.config.stage == settings.AUTO:
        job = _choose(job)
    return job.carry_out(phases(job.config, job.groups))


def _choose(job: "jobs.Job[Config]") -> "jobs.Job[Config]":
    """Returns the job with its stage chosen, and with a note of the figures."""
    options = jobs.training_options(job.config)
    norms = training.gradients_at_probe(job.classifier, job.images.train, options)
    stage = max(norms, key=lambda name: norms[name])
    figures = ", ".join(f"{name} {norm:.2g}" for name, norm in norms.items())
    note = f"{stage} trains: the largest gradient relative to its weights at the probe ({figures})"
    config = dataclasses.replace(job.config, stage=stage)
    return dataclasses.replace(job, config=config, notes=(*job.notes, note))
