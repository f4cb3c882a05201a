"""Gradual unfreezing: one more stage trains in every phase, from the last to the first.

The last stage holds the least general knowledge, so it moves first, while the stages below still
give it stable inputs. Each phase opens the next stage and keeps the optimizer's state of those
that were open before; rates fall with depth as in `discriminative`.

Use it when full fine-tuning forgets: the loss falls and the accuracy on held-out images with it.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune gradual_unfreezing --data=photos --workdir=runs/1

Reference: Howard & Ruder, 2018, "Universal Language Model Fine-tuning for Text Classification",
section 3.3.
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the layers train; `epochs` is the sum over all phases."""

    ratio: float = settings.option(
        "Rate of the first stage divided by the rate of the last.", 0.1, low=1e-6, high=1e6
    )


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase for every stage, the last stage first."""
    return (
        strategy.probe(groups),
        *strategy.gradual(groups, config.ratio, config.tuning()),
    )


def run(config: Config) -> "results.Report":
    """Solves the head, then opens stage after stage; leaves model and report."""
    job = jobs.begin(config, recipe="gradual_unfreezing")
    return job.carry_out(phases(job.config, job.groups))
