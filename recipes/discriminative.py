"""Rates by depth: every layer trains, deep ones faster than shallow ones.

Shallow layers need the smallest change, so they get the smallest rate. The ratio of the first
stage's rate to the last one's is the parameter, spread geometrically over the stages between, so
one setting means the same on a network of five stages and on one of ten.

Use it when the images resemble the source enough to keep the early layers and differ enough to
need more than a new head; with `--ratio=1` it is `probe_then_finetune`.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune discriminative --ratio=0.1 --data=photos --workdir=runs/1

Reference: Howard & Ruder, 2018, "Universal Language Model Fine-tuning for Text Classification",
section 3.2 (2.6 from layer to layer there; end to end here); S11 of docs/source-rules.md.
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the layers train, and how far their rates lie apart."""

    ratio: float = settings.option(
        "Rate of the first stage divided by the rate of the last.", 0.1, low=1e-6, high=1e6
    )


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase whose rates rise by depth from `config.ratio` to 1."""
    return (
        strategy.probe(groups),
        strategy.discriminative(groups, config.ratio, config.tuning()),
    )


def run(config: Config) -> "results.Report":
    """Solves the head, then trains by depth; leaves model and report in `config.workdir`."""
    job = jobs.begin(config, recipe="discriminative")
    return job.carry_out(phases(job.config, job.groups))
