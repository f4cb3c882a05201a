"""Linear probe, then nothing but the scale and offset of BatchNorm, with the head.

Two numbers a channel, about a hundredth of the weights, can turn features up, down and off, but
make no new ones. So little moves that little can be forgotten or overfitted.

Use it with a network that has BatchNorm and with few images that look unlike the source, where
full fine-tuning overfits; `--batch_norm=trainable` lets the statistics follow as well.

Expected: docs/advice.md has its accuracy (`batch_norm`) on seven sets, 5 and 20 images a class.
Run:      finetune-kit finetune batch_norm_only --data=photos --workdir=runs/1

Reference: Frankle et al., 2021, "Training BatchNorm and Only BatchNorm: On the Expressive Power of
Random Features in CNNs", section 3; Kanavati & Tsuneki, 2021, "Partial transfusion: on the
expressive influence of trainable batch norm parameters for transfer learning".
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import results, strategy
from recipes import jobs, settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the second phase trains; the first has nothing to set."""


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase in which BatchNorm and the head train."""
    return (strategy.probe(groups), strategy.batch_norm_only(groups, config.tuning()))


def run(config: Config) -> "results.Report":
    """Solves the head, then trains BatchNorm with it; leaves model and report.

    Raises:
        ConfigError: The network has no BatchNorm.
    """
    job = jobs.begin(config, recipe="batch_norm_only")
    return job.carry_out(phases(job.config, job.groups))
