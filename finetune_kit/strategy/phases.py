"""Phases: complete tables of what trains and how fast.

A phase is a value. Its multipliers name every stage and the head, so that nothing trains, or stays
frozen, by omission; 0 freezes a stage whole, the statistics of its BatchNorm layers included.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_kit import checks
from finetune_kit.data import levels
from finetune_kit.strategy import schedules

HEAD = "head"
BATCH_NORM = ("frozen", "trainable")
LAYERS = ("all", "batch_norm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: How tables and logs call it; unique within a run.
        multipliers: Stage or `head` to its rate divided by the phase's rate: at least 0, and 0
            freezes. Pairs are accepted as well as a mapping.
        learning_rate: Peak rate, before the multipliers.
        epochs: Passes over the training images.
        schedule: How the rate moves within the phase.
        batch_norm: "frozen" normalises with the moving statistics of the source and trains neither
            them nor scale and offset; "trainable" trains all four where the stage trains.
        layers: "all" trains every layer of the stages that train; "batch_norm" nothing but the
            scale and offset of their BatchNorm layers, with the head. What `batch_norm` says then
            holds for the statistics alone: "trainable" updates them, "frozen" does not.
        augment: Level of augmentation, a name in `data.LEVELS`.
        solved: The head is solved in closed form on the features of the frozen backbone: all
            stages have multiplier 0, there are no epochs and no rate.

    Raises:
        ConfigError: A value out of range, a name that occurs twice, or a phase that trains nothing.
    """

    name: str
    multipliers: Mapping[str, float]
    learning_rate: float = 0.0
    epochs: int = 0
    schedule: schedules.Schedule = schedules.Schedule("constant")
    batch_norm: str = "frozen"
    layers: str = "all"
    augment: str = "none"
    solved: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", _table_of(self.name, self.multipliers))
        checks.one_of("batch_norm", self.batch_norm, BATCH_NORM)
        checks.one_of("layers", self.layers, LAYERS)
        checks.one_of("augment", self.augment, levels.LEVELS)
        if self.solved:
            _check_solved(self)
        else:
            _check_trained(self)

    @property
    def trained(self) -> tuple[str, ...]:
        """Groups with a multiplier above 0, in the order of the table."""
        return tuple(group for group, value in self.multipliers.items() if value > 0)


def check(phases: Sequence[Phase], groups: Sequence[str]) -> None:
    """Raises `ConfigError` unless every phase names each group once and has a name of its own.

    Args:
        phases: In the order in which they run; at least one.
        groups: The backbone's stages from input to output, then `head`.
    """
    if not phases:
        raise checks.ConfigError("A plan needs at least one phase. Received: none")
    names = [phase.name for phase in phases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise checks.ConfigError(
            f"The phases of a plan need names of their own. Repeated: {', '.join(repeated)}. "
            f"Received: {', '.join(names)}"
        )
    checks.same_names("The stages of a network", dict.fromkeys(groups), groups)
    for phase in phases:
        checks.same_names(f"The multipliers of phase {phase.name!r}", groups, phase.multipliers)


def table(phases: Sequence[Phase]) -> list[dict[str, str]]:
    """Returns the plan as a table: one row a group, one column a phase.

    A cell is the group's peak rate, `frozen`, or `solved`. Rows below say what holds for a whole
    phase: epochs, schedule, BatchNorm and augmentation, and which layers if that is not all. All
    cells are text.
    """
    groups = list(dict.fromkeys(group for phase in phases for group in phase.multipliers))
    rows = [_row(group, (_cell(phase, group) for phase in phases), phases) for group in groups]
    settings = {
        "epochs": lambda phase: str(phase.epochs),
        "schedule": lambda phase: _schedule(phase.schedule),
        "BatchNorm": lambda phase: phase.batch_norm,
        "augment": lambda phase: phase.augment,
    }
    if any(phase.layers != "all" for phase in phases):
        settings["layers"] = lambda phase: phase.layers
    rows += [
        _row(name, ("-" if p.solved else show(p) for p in phases), phases)
        for name, show in settings.items()
    ]
    return rows


def _table_of(name: str, multipliers: Mapping[str, float] | Iterable[Any]) -> dict[str, float]:
    pairs = list(multipliers.items() if isinstance(multipliers, Mapping) else multipliers)
    groups = [group for group, _ in pairs]
    repeated = sorted({group for group in groups if groups.count(group) > 1})
    if repeated:
        raise checks.ConfigError(
            f"The multipliers of phase {name!r} must name each stage once. Repeated: "
            f"{', '.join(repeated)}. Received: {', '.join(groups)}"
        )
    for group, value in pairs:
        checks.in_range(f"multiplier of {group!r} in phase {name!r}", value, 0.0)
    return {group: float(value) for group, value in pairs}


def _check_solved(phase: Phase) -> None:
    trained = [group for group in phase.trained if group != HEAD]
    if trained or phase.epochs or phase.learning_rate:
        raise checks.ConfigError(
            "A solved phase trains no stage and has neither epochs nor a rate. "
            + checks.received(
                phase=phase.name,
                trains=trained,
                epochs=phase.epochs,
                learning_rate=phase.learning_rate,
            )
        )


def _check_trained(phase: Phase) -> None:
    checks.in_range("epochs", phase.epochs, 1)
    checks.in_range("learning_rate", phase.learning_rate, 0.0)
    if not phase.trained or phase.learning_rate == 0.0:
        raise checks.ConfigError(
            "A phase needs a rate and a multiplier above 0, or nothing trains. "
            + checks.received(
                phase=phase.name, learning_rate=phase.learning_rate, trains=phase.trained
            )
        )
    if phase.schedule.warmup_epochs >= phase.epochs:
        raise checks.ConfigError(
            "A warm-up must be shorter than its phase. "
            + checks.received(
                phase=phase.name, warmup_epochs=phase.schedule.warmup_epochs, epochs=phase.epochs
            )
        )


def _row(name: str, cells: Iterable[str], phases: Sequence[Phase]) -> dict[str, str]:
    columns = (phase.name for phase in phases)
    return {"group": name, **dict(zip(columns, cells, strict=True))}


def _cell(phase: Phase, group: str) -> str:
    multiplier = phase.multipliers.get(group, 0.0)
    if phase.solved:
        return "solved" if group == HEAD else "frozen"
    return f"{phase.learning_rate * multiplier:.2g}" if multiplier else "frozen"


def _schedule(schedule: schedules.Schedule) -> str:
    warmup = f", {schedule.warmup_epochs:g} to warm up" if schedule.warmup_epochs else ""
    return schedule.name + warmup
