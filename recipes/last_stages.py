"""The head and the last stages train; everything below them stays as it was.

Early layers hold edges and textures that nearly every task shares; late layers hold what is
particular to the source. Freezing the early ones leaves fewer weights to overfit and, since the
backward pass ends at the first frozen stage, costs less.

Use it with little data that resembles the source, or where training time is short.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune last_stages --stages=1 --data=photos --workdir=runs/1

Reference: Yosinski et al., 2014, "How transferable are features in deep neural networks?",
section 4; first and second case of S12 (docs/source-rules.md).
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the stages train, and how many of them."""

    stages: int = settings.option("Number of stages that train, counted from the head.", 1, low=1)


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase in which the last `config.stages` stages train.

    Raises:
        ConfigError: The backbone has fewer stages than `config.stages`.
    """
    return (
        strategy.probe(groups),
        strategy.last_stages(groups, config.stages, config.tuning()),
    )


def run(config: Config) -> "results.Report":
    """Solves the head, then trains the last stages with it; leaves model and report."""
    job = jobs.begin(config, recipe="last_stages")
    return job.carry_out(phases(job.config, job.groups))
