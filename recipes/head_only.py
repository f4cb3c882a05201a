"""Linear probe: a logistic regression on the features of the frozen backbone.

The head is solved by L-BFGS on features that are computed once, its regularisation chosen by
cross-validation. Nothing else trains, so nothing is forgotten and little is overfitted.

Use it when there are few images of things that the backbone knows, when it must be done in
seconds, and always as the mark that fine-tuning has to beat.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune head_only --data=photos --workdir=runs/1

Reference: Kumar et al., 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", section 3.1; first case of S12 (docs/source-rules.md).
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Settings):
    """The settings that every recipe has: a solved head has no rate and no epochs."""


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns one phase that solves the head and trains nothing else."""
    del config
    return (strategy.probe(groups),)


def run(config: Config) -> "results.Report":
    """Solves the head, scores it, and leaves model and report in `config.workdir`."""
    job = jobs.begin(config, recipe="head_only")
    return job.carry_out(phases(config, job.groups))
