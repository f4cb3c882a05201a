"""Measure, then train as the measurement advises.

One forward pass over the training images says how near they are to what the backbone knows, where
they depart from it, and how well its features separate their classes. The advisor turns that into a
plan, prints it as a table with its reasons, and the plan is carried out; `finetune-kit advise`
stops after the table.

Use it by default. Name a plan with --plan to overrule the advice; every other flag that is given
overrules the advice on that point alone.

Expected: docs/advice.md has its regret against the best of all candidates, set by set.
Run:      finetune-kit finetune --data=photos --workdir=runs/1

References: the four cases of the source text (S12 of docs/source-rules.md); Chu et al., 2016, "Best
Practices for Fine-tuning Visual Classifiers to New Domains".
"""

import dataclasses

from finetune_kit import data, results
from recipes import advising, jobs, settings, sizing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Choices, settings.Settings):
    """Everything is chosen from measurements, unless its flag is given."""

    cross_validate: bool = settings.option(
        "Cross-validate a label budget to choose where training ends; else it ends as planned.",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.seconds(self.time_budget)


def run(config: Config) -> "results.Report":
    """Measures, advises, trains; leaves model, advice and report in `config.workdir`."""
    job = jobs.begin(_as_decided(config), recipe="auto", load=sizing.load)
    advice = advising.consult(job, plan=advising.decided(job))
    advising.show(advice)
    return advising.follow(job, advice).carry_out(advice.plan.phases)


def _as_decided(config: Config) -> Config:
    """Returns the settings with what was decided for the interrupted run that they go on with."""
    decided = results.read_advice(config.workdir) if config.resume else {}
    size, augment = config.image_size, config.augment
    if not size and "image_size" in decided:
        size = data.sizes.canonical(decided["image_size"])
    if augment == settings.AUTO:
        augment = decided.get("augment", augment)
    return dataclasses.replace(config, image_size=size, augment=augment)
