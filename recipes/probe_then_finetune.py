"""Linear probe, then fine-tuning of every layer at a small rate.

A random head sends large, arbitrary gradients through the backbone and pulls its features apart
before they have been used. Starting from the solved head removes that: the first step already
improves the classifier that the features support.

Use it by default, until something measured says otherwise: it keeps what the probe reaches and
adds what the target needs. With 20 labelled images a class and more, the bundled network gains by
`--head_stages=3 --learning_rate=1e-3 --batch_norm=trainable --batch_norm_statistics=target`
(`bold_batch_norm` in docs/advice.md): its BatchNorm then follows the images, from statistics that
were measured on them before the head is solved.

Expected: docs/recipes.md has its accuracy and seconds on seven sets, 20 images a class.
Run:      finetune-kit finetune probe_then_finetune --data=photos --workdir=runs/1

Reference: Kumar et al., 2022, "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", section 3 (LP-FT).
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the second phase trains; the first has nothing to set."""


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase in which every stage trains at the same rate."""
    return (strategy.probe(groups), strategy.everything(groups, config.tuning()))


def run(config: Config) -> "results.Report":
    """Solves the head, then trains every layer; leaves model and report in `config.workdir`."""
    job = jobs.begin(config, recipe="probe_then_finetune")
    return job.carry_out(phases(job.config, job.groups))
