"""Plain full fine-tuning: a random head and every layer at one rate from the first step.

This is what most code does, and the baseline that the other recipes are there to beat: while the
head is still random, its gradients distort the features that it will need.

Use it with many images (thousands a class), where the start no longer matters, or to compare.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune full_finetune --data=photos --workdir=runs/1

Reference: Yosinski et al., 2014, "How transferable are features in deep neural networks?",
section 4 (the fine-tuned variants); third case of S12 (docs/source-rules.md).
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the one phase trains."""


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns one phase in which every stage and the head train at the same rate."""
    return (strategy.everything(groups, config.tuning()),)


def run(config: Config) -> "results.Report":
    """Trains every layer from the first step; leaves model and report in `config.workdir`."""
    job = jobs.begin(config, recipe="full_finetune")
    return job.carry_out(phases(job.config, job.groups))
