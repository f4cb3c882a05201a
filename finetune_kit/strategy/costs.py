"""How long plans take, from a measured forward pass and the arithmetic of the network."""

import dataclasses
import math
from collections.abc import Sequence

from finetune_kit import checks
from finetune_kit.data import levels
from finetune_kit.strategy import phases

# Backward, a layer's work is twice that of forward: gradients of its input and of its weights
# (Hobbhahn & Sevilla, 2021, "What's the backward-forward FLOP ratio for neural networks?").
BACKWARD = 2.0
# What a step takes where BatchNorm trains, over what it takes where it does not: 1.2 to 1.5 on CPUs
# (the bundled network's seconds in docs/results/scratch.jsonl, MobileNet's in docs/step.md).
BATCH_NORM = 1.4
FEWEST_STEPS = 40  # below, a warm-up and a schedule have no room: the head alone is better


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
    """What was measured of a network on this machine.

    Attributes:
        forward: Seconds of a forward pass, an image.
        trace: Seconds until the first training step is traced.
        others: Seconds of what follows training: evaluation, export, report.
        spent: Seconds that have passed since the run began.
        shares: Share of the forward pass in each stage, from input to output; they sum to 1.
        views: Augmented views an image in all; 0 draws new ones in every epoch.
        keep: Whether activations of frozen stages are kept where they stay the same.

    Raises:
        ConfigError: A negative time.
    """

    forward: float
    trace: float
    others: float
    spent: float
    shares: tuple[float, ...]
    views: int = 0
    keep: bool = True

    def __post_init__(self) -> None:
        for name in ("forward", "trace", "others", "spent"):
            checks.in_range(name, getattr(self, name), 0.0)

    def train(self, plan: Sequence[phases.Phase], images: int) -> float:
        """Returns seconds of training by a sequence of phases, tracing included."""
        seconds = 0.0
        for phase in plan:
            if not phase.solved:
                once, each = self._phase(phase)
                seconds += self.trace + images * (once + phase.epochs * each)
        return seconds

    def _phase(self, phase: phases.Phase) -> tuple[float, float]:
        """Returns seconds an image at the beginning of a phase, and in each of its epochs."""
        opened = [phase.multipliers[g] > 0 for g in phase.multipliers if g != phases.HEAD]
        shown = repeated_views(phase, self.views) if self.keep else 0
        every, backward = operations(self.shares, opened, kept=False)
        run, _ = operations(self.shares, opened, kept=bool(shown))
        once, each = shown * (every - run), run + backward
        if phase.batch_norm == "trainable":
            # One pass more measures the statistics, where every stage trains.
            once, each = once + all(opened), BATCH_NORM * each
        return self.forward * once, self.forward * each

    def total(self, plan: Sequence[phases.Phase], images: int) -> float:
        """Returns seconds from the beginning of the run to its report."""
        return self.spent + self.train(plan, images) + self.others

    def affordable(self, plan: Sequence[phases.Phase], images: int, budget: float) -> int:
        """Returns the epochs of the last phase that fit into a budget in seconds, at least 0."""
        last = plan[-1]
        if last.solved:
            return 0
        fixed = self.total(plan, images)
        each = images * self._phase(last)[1]
        return max(0, last.epochs + math.floor((budget - fixed) / each))


def repeated_views(phase: phases.Phase, views: int) -> int:
    """Returns how many views of an image a phase shows again and again, 0 if none repeats.

    Args:
        phase: Its augmentation may mix images of a batch, which no image repeats.
        views: Augmented views an image in all; 0 draws new ones in every epoch.
    """
    level = levels.LEVELS[phase.augment]
    shown = 1 if level == levels.LEVELS["none"] else views
    return shown if shown < phase.epochs and not level.mix else 0


def operations(
    sizes: Sequence[float], open_stages: Sequence[bool], *, kept: bool
) -> tuple[float, float]:
    """Returns the operations of the forward and the backward pass of a step.

    The backward pass ends at the first open stage; a frozen stage that it crosses has no weights
    to differentiate.

    Args:
        sizes: Operations of every stage's forward pass, from input to output.
        open_stages: Whether each trains.
        kept: Whether the stages before the first open one are not run.
    """
    first = next((i for i, opened in enumerate(open_stages) if opened), len(open_stages))
    crossed = zip(open_stages[first:], sizes[first:], strict=True)
    backward = sum(size * (BACKWARD if opened else BACKWARD / 2) for opened, size in crossed)
    return float(sum(sizes[first if kept else 0 :])), float(backward)


def steps(images: int, batch_size: int, epochs: int) -> int:
    """Returns gradient steps of a number of epochs."""
    return epochs * math.ceil(images / batch_size)
