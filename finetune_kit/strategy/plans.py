"""The phases that recipes are made of, by name.

Every function takes the groups of a classifier (stages from input to output, then `head`) and
returns phases; `spread` gives the multipliers for rates that differ by depth (S11).
"""

import dataclasses
from collections.abc import Mapping, Sequence

from finetune_kit import checks
from finetune_kit.strategy import phases, schedules

Phase = phases.Phase
Schedule = schedules.Schedule
CONSTANT = Schedule("constant")
AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a phase trains, whatever it trains; the attributes are those of `Phase`.

    Attributes:
        learning_rate: Peak rate.
        epochs: Passes over the training images.
        schedule: How the rate moves.
        batch_norm: "frozen" or "trainable"; "auto" for the plans of an advisor, which say it.
        augment: Level of augmentation.
    """

    learning_rate: float
    epochs: int
    schedule: Schedule = Schedule("cosine")
    batch_norm: str = "frozen"
    augment: str = "light"

    def phase(self, name: str, multipliers: Mapping[str, float]) -> Phase:
        """Returns the phase that trains what a table of multipliers says."""
        return Phase(
            name=name,
            multipliers=multipliers,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            schedule=self.schedule,
            batch_norm=self.batch_norm,
            augment=self.augment,
        )


def spread(groups: Sequence[str], ratio: float, *, head: float = 1.0) -> dict[str, float]:
    """Returns multipliers that run geometrically from `ratio` at the stem to 1 at the last stage.

    The ratio of the ends is the parameter, not the factor from stage to stage, so that one setting
    means the same on a network of five stages and on one of ten. Howard & Ruder (2018, section
    3.2) divide by 2.6 from layer to layer; with five stages that is a ratio of 0.022.

    Args:
        groups: Stages from input to output, then `head`.
        ratio: Rate of the first stage divided by the rate of the last one, above 0. A backbone of
            one stage has nothing to spread over: its multiplier is 1.
        head: Multiplier of the head.

    Raises:
        ConfigError: The ratio is not above 0.
    """
    if not ratio > 0.0:
        raise checks.ConfigError("ratio must be above 0. " + checks.received(ratio=ratio))
    stages = _stages(groups)
    steps = max(1, len(stages) - 1)
    rates = {stage: ratio ** (1 - (i / steps)) for i, stage in enumerate(stages)}
    if len(stages) == 1:
        rates = {stages[0]: 1.0}
    return {**rates, phases.HEAD: head}


def probe(groups: Sequence[str], *, name: str = "probe") -> Phase:
    """Returns the phase that solves the head on frozen features (Kumar et al., 2022, sec. 3.1)."""
    return Phase(name=name, multipliers=_last(groups, 0), solved=True)


def last_stages(
    groups: Sequence[str], count: int, tuning: Tuning, *, name: str = "last_stages"
) -> Phase:
    """Returns the phase in which the head and the last `count` stages train.

    Raises:
        ConfigError: The backbone has fewer than `count` stages, or count < 1.
    """
    checks.in_range("stages", count, 1, len(_stages(groups)))
    return tuning.phase(name, _last(groups, count))


def everything(groups: Sequence[str], tuning: Tuning, *, name: str = "finetune") -> Phase:
    """Returns the phase in which every stage and the head train at one rate."""
    return tuning.phase(name, dict.fromkeys(groups, 1.0))


def batch_norm_only(groups: Sequence[str], tuning: Tuning, *, name: str = "batch_norm") -> Phase:
    """Returns the phase in which the head trains and, of all stages, BatchNorm's scale and offset.

    Frankle et al., 2021, "Training BatchNorm and Only BatchNorm", section 3; Kanavati & Tsuneki,
    2021, "Partial transfusion", on pretrained networks.
    """
    return dataclasses.replace(everything(groups, tuning, name=name), layers="batch_norm")


def one_stage(
    groups: Sequence[str], stage: str, tuning: Tuning, *, name: str = "one_stage"
) -> Phase:
    """Returns the phase in which one stage and the head train (Lee et al., 2023, section 2).

    Raises:
        ConfigError: No such stage.
    """
    checks.one_of("stage", stage, _stages(groups))
    return tuning.phase(name, {group: float(group in (stage, phases.HEAD)) for group in groups})


def discriminative(
    groups: Sequence[str], ratio: float, tuning: Tuning, *, name: str = "finetune"
) -> Phase:
    """Returns the phase in which everything trains at rates that rise with depth (`spread`)."""
    return tuning.phase(name, spread(groups, ratio))


def gradual(
    groups: Sequence[str], ratio: float, tuning: Tuning, *, epochs_each: int = 1
) -> tuple[Phase, ...]:
    """Returns one phase for each stage, opening the last stage first (Howard & Ruder, 2018, 3.3).

    A stage opens every `epochs_each` epochs; once all are open, the rest of the epochs follow with
    the schedule. Until then the rate is constant. Rates differ by depth as in `discriminative`.

    Args:
        groups: Stages from input to output, then `head`.
        ratio: See `spread`.
        tuning: Its epochs are the sum over all phases; its schedule is that of the last phase, with
            a warm-up of half of it at most.
        epochs_each: Epochs between the opening of two stages.

    Raises:
        ConfigError: There are fewer epochs than the phases need.
    """
    stages, rates = _stages(groups), spread(groups, ratio)
    rest = _after_opening(len(stages), epochs=tuning.epochs, epochs_each=epochs_each)
    # Training is under way by then: a warm-up must not fill the last phase.
    warmup = min(tuning.schedule.warmup_epochs, rest / 2)
    schedule = dataclasses.replace(tuning.schedule, warmup_epochs=warmup)
    last = dataclasses.replace(tuning, epochs=rest, schedule=schedule)
    opening = dataclasses.replace(tuning, epochs=epochs_each, schedule=CONSTANT)
    return tuple(
        (opening if first else last).phase(
            f"from_{stage}", {g: rates[g] if g in groups[first:] else 0.0 for g in groups}
        )
        for first, stage in reversed(list(enumerate(stages)))
    )


def _stages(groups: Sequence[str]) -> list[str]:
    """Returns the groups without the head, which must stand last.

    Raises:
        ConfigError: There is no stage, or the head is not the last group.
    """
    if len(groups) < 2 or groups[-1] != phases.HEAD or phases.HEAD in groups[:-1]:
        raise checks.ConfigError(
            f"Groups must be one stage or more, then {phases.HEAD!r}. "
            + checks.received(groups=tuple(groups))
        )
    return list(groups[:-1])


def _after_opening(stages: int, *, epochs: int, epochs_each: int) -> int:
    """Returns the epochs that are left once all stages are open, at least 1."""
    opening = epochs_each * (stages - 1)
    if epochs <= opening:
        raise checks.ConfigError(
            f"Opening {stages} stages one by one needs more than {opening} epochs. "
            + checks.received(epochs=epochs, epochs_each=epochs_each)
        )
    return epochs - opening


def _last(groups: Sequence[str], count: int) -> dict[str, float]:
    """Returns multiplier 1 for the head and the last `count` stages, 0 for the others."""
    first = len(_stages(groups)) - count
    return {group: float(i >= first) for i, group in enumerate(groups)}
