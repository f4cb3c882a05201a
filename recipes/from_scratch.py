"""Training from random weights: what the backbone's knowledge is compared with.

The architecture is the backbone's, its weights are drawn anew, BatchNorm learns its statistics.
If this comes near to fine-tuning, the source had little to give.

Use it to see what pretraining is worth on your images, or with very many images that resemble
nothing in the source.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune from_scratch --data=photos --workdir=runs/1

Reference: He et al., 2019, "Rethinking ImageNet Pre-training", section 3 (longer schedules and
BatchNorm that trains); S4 to S9 of docs/source-rules.md.
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the network trains; the weights are random whatever `weights` says elsewhere."""

    weights: str = settings.option(
        "Random weights: nothing else is possible here.", "none", choices=("none",)
    )
    learning_rate: float = settings.option(
        "Peak learning rate; S7 asks for 0.01 or 0.001.", 1e-3, low=0.0, high=10.0
    )
    batch_norm: str = settings.option(
        "Whether BatchNorm learns: with random weights it must.",
        "trainable",
        choices=("trainable",),
    )


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns one phase in which everything trains, BatchNorm included."""
    return (strategy.everything(groups, config.tuning(), name="from_scratch"),)


def run(config: Config) -> "results.Report":
    """Trains the backbone's architecture from nothing; leaves model and report."""
    job = jobs.begin(config, recipe="from_scratch")
    return job.carry_out(phases(job.config, job.groups))
