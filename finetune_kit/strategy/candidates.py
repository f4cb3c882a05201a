"""The plans that an advisor chooses from, as values: what opens, at which rates, under which head.

Each is a sequence of phases that a recipe could run, so what the study measured is what a user
gets.
"""

import dataclasses
from collections.abc import Sequence

from finetune_kit import checks
from finetune_kit.strategy import phases, plans

SHALLOW = 1  # stages that a plain head sees
DEEP = 3  # stages of a multi-depth head: where most of its gain lies, at a third of the width
OPENED = ("nothing", "last", "one", "batch_norm", "all")  # from little to much work
STARTS = ("probe", "random_head", "random")
DEPTH_RATIO = 0.1  # rate of the first stage to the last one's, where rates differ by depth
# Far from the source the best rate is larger (Li et al., 2020, "Rethinking the Hyperparameters for
# Fine-tuning", section 3.4), and so it is from random weights; half a decade is the step of most
# grids.
BOLD = 10 / 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to train.

    Attributes:
        name: Unique.
        title: What a person calls it.
        head_stages: Last stages whose pooled features the head sees; 0 is all.
        opens: "nothing" beyond the head, "batch_norm" layers of every stage, "one" stage by the
            type of the shift, the "last" stage, or "all".
        ratio: Rate of the first stage divided by the last one's.
        rate: Factor on the peak rate.
        start: "probe" solves the head first, "random_head" does not, "random" draws the whole
            network.
        batch_norm: What "auto" means for BatchNorm under this plan, "frozen" or "trainable".
    """

    name: str
    title: str
    head_stages: int = SHALLOW
    opens: str = "all"
    ratio: float = 1.0
    rate: float = 1.0
    start: str = "probe"
    batch_norm: str = "frozen"

    def __post_init__(self) -> None:
        checks.one_of("opens", self.opens, OPENED)
        checks.one_of("start", self.start, STARTS)
        checks.one_of("batch_norm", self.batch_norm, phases.BATCH_NORM)

    @property
    def trains(self) -> bool:
        """Whether anything is trained step by step."""
        return self.opens != "nothing"

    @property
    def work(self) -> int:
        """How much of the network trains, as a rank: enough to tell dear plans from cheap ones."""
        return OPENED.index(self.opens)

    def phases(
        self, groups: Sequence[str], tuning: "plans.Tuning", *, shift: str = "unknown"
    ) -> tuple[phases.Phase, ...]:
        """Returns the phases of this plan.

        Args:
            groups: Stages from input to output, then `head`.
            tuning: How what opens is trained.
            shift: Where the images depart from the source; decides which "one" stage opens.
        """
        first = (plans.probe(groups),) if self.start == "probe" else ()
        if not self.trains:
            return first
        tuning = dataclasses.replace(tuning, learning_rate=self.rate * tuning.learning_rate)
        tuning = dataclasses.replace(tuning, batch_norm=self._batch_norm(tuning.batch_norm))
        if self.opens == "last":
            return (*first, plans.last_stages(groups, 1, tuning, name="finetune"))
        if self.opens == "one":
            return (*first, tuning.phase("finetune", _one(groups, shift)))
        if self.opens == "batch_norm":
            # With statistics of the batch, channels that hardly vary in the source would become
            # noise: on MobileNet's the loss begins at 17 nats.
            phase = plans.everything(groups, tuning)
            return (*first, dataclasses.replace(phase, layers="batch_norm"))
        return (*first, plans.discriminative(groups, self.ratio, tuning))

    def _batch_norm(self, said: str) -> str:
        """Returns "frozen" or "trainable": as was said, unless the plan decides or must."""
        # Of random weights, the statistics are of nothing.
        return self.batch_norm if said == plans.AUTO or self.start == "random" else said


CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate(name="head", title="head on the last stage", opens="nothing"),
        Candidate(
            name="deep_head", title="head on several stages", head_stages=DEEP, opens="nothing"
        ),
        Candidate(name="last_stage", title="probe, then the last stage",
                  head_stages=DEEP, opens="last"),
        Candidate(name="finetune", title="probe, then every stage"),
        Candidate(name="deep_finetune", title="multi-depth probe, then every stage",
                  head_stages=DEEP),
        Candidate(name="bold_finetune", title="multi-depth probe, then every stage, fast",
                  head_stages=DEEP, rate=BOLD),
        Candidate(name="bold_batch_norm", title="multi-depth probe, then all and BatchNorm, fast",
                  head_stages=DEEP, rate=BOLD, batch_norm="trainable"),
        Candidate(name="by_depth", title="multi-depth probe, then rates by depth",
                  head_stages=DEEP, ratio=DEPTH_RATIO, rate=BOLD),
        Candidate(name="surgical", title="probe, then one stage",
                  head_stages=DEEP, opens="one"),
        Candidate(name="batch_norm", title="probe, then BatchNorm's scale and offset",
                  head_stages=DEEP, opens="batch_norm"),
        Candidate(name="full", title="every stage from a random head", start="random_head"),
        Candidate(name="scratch", title="every stage from random weights", start="random",
                  rate=BOLD, batch_norm="trainable"),
    )
}  # fmt: skip


def _one(groups: Sequence[str], shift: str) -> dict[str, float]:
    """Returns the multipliers that open one stage and the head (Lee et al., 2023, section 3).

    The first for a shift of the input, the last for one of the labels' meaning, else the middle.
    """
    stages = groups[:-1]
    places = {"input": 0, "semantic": len(stages) - 1}
    chosen = stages[places.get(shift, len(stages) // 2)]
    return {group: float(group in (chosen, phases.HEAD)) for group in groups}
