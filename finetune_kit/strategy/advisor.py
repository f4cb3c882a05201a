"""From evidence to a plan: what trains, how fast and how long, each decision with its reason.

The source text's four cases (S12) say what the evidence amounts to. What is done about it follows
from measured experience with the candidates on sets of images that the plan was not chosen on;
where the two disagree, the plan says so. Where images lie nearer to the source than any of that
experience, the text decides.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from finetune_kit import checks
from finetune_kit.strategy import candidates as candidates_lib
from finetune_kit.strategy import costs as costs_lib
from finetune_kit.strategy import evidence as evidence_lib
from finetune_kit.strategy import experience as experience_lib
from finetune_kit.strategy import explaining, phases, plans

# A difference in expected accuracy that is not worth a dearer plan; half of what the regret of a
# good adviser is allowed to be.
TIE = 0.0025
TEXT_FIRST = "head"  # the candidate of S12's first case
# Images a step below which nothing says what training BatchNorm gains: its error grows as batches
# shrink (Wu & He, 2018, "Group Normalization", abstract). The study's had 25 to 32 images, but for
# the last one of an epoch.
FEWEST_OF_BATCH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the advisor says.

    Attributes:
        choice: The candidate, what it trains, what it is expected to gain and to take.
        decisions: The lines of the table.
        evidence: What was known.
    """

    choice: explaining.Choice
    decisions: tuple[explaining.Decision, ...]
    evidence: evidence_lib.Evidence

    @property
    def candidate(self) -> candidates_lib.Candidate:
        """The plan that is advised."""
        return self.choice.candidate

    @property
    def runner_up(self) -> candidates_lib.Candidate | None:
        """The next best by expectation, which a race would try; None if there is no other."""
        return self.choice.runner_up

    @property
    def phases(self) -> tuple[phases.Phase, ...]:
        """What trains, phase by phase."""
        return tuple(self.choice.phases)

    @property
    def seconds(self) -> float | None:
        """Expected seconds from the beginning of the run to its report; None if unknown."""
        return self.choice.seconds

    @property
    def confidence(self) -> float:
        """Probability that the plan ends within a point of the best candidate."""
        return self.choice.confidence

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns the decisions as the rows of a table."""
        return [(line.what, line.value, line.reason) for line in self.decisions]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as JSON types."""
        return {
            "plan": self.candidate.name,
            "title": self.candidate.title,
            "runner_up": self.runner_up.name if self.runner_up else None,
            "expected_gains": dict(self.choice.gains),
            "expected_seconds": self.seconds,
            "confidence": self.confidence,
            "decisions": [dataclasses.asdict(line) for line in self.decisions],
            "evidence": self.evidence.to_dict(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What a plan is made for.

    Attributes:
        groups: The backbone's stages from input to output, then `head`.
        tuning: How what opens is trained; its rate and epochs are those of a plan of factor 1, and
            "auto" leaves BatchNorm to the plans.
        batch_size: Images a step.
        rate_given: Whether the rate was given, so that no plan may multiply it.
        batch_norm_layers: Whether the backbone has BatchNorm layers that could be tuned.
        costs: What was measured of the network; None leaves time unknown.
        budget: Seconds that the whole run may take; 0 is no limit.
        why: Line of the table to its reason, where a rule or a flag has decided already.
    """

    groups: tuple[str, ...]
    tuning: plans.Tuning
    batch_size: int = 32
    rate_given: bool = False
    batch_norm_layers: bool = True
    costs: costs_lib.Costs | None = None
    budget: float = 0.0
    why: Mapping[str, str] = dataclasses.field(default_factory=dict)


def advise(
    evidence: evidence_lib.Evidence,
    setting: Setting,
    *,
    plan: str = "",
    because: str = "as you said",
    experience: experience_lib.Experience | None = None,
) -> Plan:
    """Returns the plan of the highest expected accuracy, of equal ones the cheapest.

    Args:
        evidence: What is known of images and backbone.
        setting: What the plan is made for.
        plan: Name of a candidate that is to be taken whatever the evidence; "" chooses.
        because: Why it is to be taken.
        experience: What candidates gained before; that of the kit's study if not given.

    Raises:
        ConfigError: No such candidate.
    """
    known = (experience := experience or experience_lib.read()).gains(evidence)
    ways = _ways(known, evidence, setting, plan)
    gains = {name: known.get(name, 0.0) for name in ways if name in known or name == plan}
    built = {name: _fit(way, evidence, setting) for name, way in ways.items()}
    affordable = {name: gain for name, gain in gains.items() if built[name]} or gains
    order = [name for name in ordered(affordable, evidence, experience) if name != plan]
    order = [plan, *order] if plan else order
    chosen, second = order[0], order[1] if len(order) > 1 else None
    full = ways[chosen].phases(setting.groups, setting.tuning, shift=evidence.shift)
    sequence = built[chosen] or full
    choice = explaining.Choice(
        candidate=ways[chosen],
        runner_up=ways[second] if second else None,
        phases=sequence,
        full=full,
        gains=dict(sorted(gains.items(), key=lambda item: -item[1])),
        seconds=setting.costs.total(sequence, evidence.images) if setting.costs else None,
        budget=setting.budget,
        confidence=experience.confidence(gains, chosen),
        because=because if plan else _text(chosen, evidence, experience),
    )
    lines = explaining.explain(choice, evidence, setting.why, experience)
    return Plan(choice=choice, decisions=lines, evidence=evidence)


def ordered(
    gains: Mapping[str, float],
    evidence: evidence_lib.Evidence,
    experience: experience_lib.Experience,
) -> list[str]:
    """Returns candidates in the order in which they are preferred on evidence.

    It is that of their expected gains (`ranked`), but for images that lie nearer to the source than
    any that experience has seen: there the source text's first case decides, few images of what the
    backbone knows, which tunes the head alone (S12).

    Args:
        gains: Candidate to expected gain in accuracy; at least one.
        evidence: What is known of the images.
        experience: What the gains follow from.
    """
    order = ranked(gains)
    if TEXT_FIRST in order and follows_text(evidence, experience):
        order.remove(TEXT_FIRST)
        order.insert(0, TEXT_FIRST)
    return order


def follows_text(evidence: evidence_lib.Evidence, experience: experience_lib.Experience) -> bool:
    """Returns whether the text's first case decides, for want of experience.

    The images have to look like the source's, and the features to tell them apart: a backbone that
    has learnt little is near to many images and of no use to them.
    """
    near = evidence.similarity is not None and evidence.similarity.value >= evidence_lib.SIMILAR
    fitting = evidence.fit is not None and evidence.fit >= evidence_lib.FITTING
    little = evidence.amount in ("few", "little")
    return near and fitting and little and not experience.covers(evidence)


def ranked(gains: Mapping[str, float]) -> list[str]:
    """Returns candidates in the order in which they are preferred.

    First the one that trains least among those whose expected gain is within `TIE` of the highest,
    then the others by expected gain.

    Args:
        gains: Candidate to expected gain in accuracy; at least one.
    """
    highest = max(gains.values())
    close = [name for name in gains if gains[name] >= highest - TIE]
    ways = candidates_lib.CANDIDATES
    first = min(close, key=lambda name: (ways[name].work, -gains[name]))
    rest = sorted((name for name in gains if name != first), key=lambda name: -gains[name])
    return [first, *rest]


def _text(
    chosen: str, evidence: evidence_lib.Evidence, experience: experience_lib.Experience
) -> str:
    """Returns why the source text decided, "" if it did not."""
    if chosen != TEXT_FIRST or not follows_text(evidence, experience):
        return ""
    return "nearer to the source than any images of the experience, so the source text decides"


def _possible(
    candidate: candidates_lib.Candidate, evidence: evidence_lib.Evidence, setting: Setting
) -> bool:
    if candidate.start == "random":
        return True
    for_norms = candidate.opens == "batch_norm" or candidate.batch_norm == "trainable"
    return evidence.pretrained and (setting.batch_norm_layers or not for_norms)


def _ways(
    known: Mapping[str, float], evidence: evidence_lib.Evidence, setting: Setting, plan: str
) -> dict[str, candidates_lib.Candidate]:
    """Returns the candidates to choose from, with the rates that they have here.

    Args:
        known: Candidate to expected gain.
        evidence, setting: Of `advise`.
        plan: Name of one that is among them whatever a rule says; "" is none.

    Raises:
        ConfigError: It is impossible here, or no candidate.
    """
    ways = {
        name: dataclasses.replace(way, rate=1.0) if setting.rate_given else way
        for name, way in candidates_lib.CANDIDATES.items()
        if _possible(way, evidence, setting) and (name == plan or _allowed(way, evidence, setting))
    }
    if plan:
        checks.one_of("plan", plan, candidates_lib.CANDIDATES)
    if plan and plan not in ways:
        needed = "BatchNorm layers" if evidence.pretrained else "pretrained weights"
        raise checks.ConfigError(
            f"This plan needs a backbone with {needed}. {checks.received(plan=plan)}"
        )
    return _distinct(ways, evidence, setting, {**known, plan: math.inf})


def _distinct(
    ways: Mapping[str, candidates_lib.Candidate],
    evidence: evidence_lib.Evidence,
    setting: Setting,
    worth: Mapping[str, float],
) -> dict[str, candidates_lib.Candidate]:
    """Returns one candidate, that of the highest worth, of those that flags have made equal."""
    found: list[tuple[Any, ...]] = []
    kept = {}
    for name in sorted(ways, key=lambda name: -worth.get(name, -math.inf)):
        way = ways[name]
        sequence = way.phases(setting.groups, setting.tuning, shift=evidence.shift)
        if (what := (way.start, way.head_stages, sequence)) not in found:
            found.append(what)
            kept[name] = way
    return kept


def _allowed(
    candidate: candidates_lib.Candidate, evidence: evidence_lib.Evidence, setting: Setting
) -> bool:
    """Returns whether nothing speaks against training BatchNorm, where that makes the plan."""
    if candidate.start == "random" or candidate.batch_norm == "frozen":
        return True
    enough = min(setting.batch_size, evidence.images) >= FEWEST_OF_BATCH
    said = setting.tuning.batch_norm
    return enough if said == plans.AUTO else said == "trainable"


def _fit(
    candidate: candidates_lib.Candidate, evidence: evidence_lib.Evidence, setting: Setting
) -> tuple[phases.Phase, ...]:
    """Returns the phases of a candidate, shortened into the budget; none if nothing is left."""
    sequence = candidate.phases(setting.groups, setting.tuning, shift=evidence.shift)
    if not (setting.budget and setting.costs):
        return sequence
    images, last = evidence.images, sequence[-1]
    if last.solved:
        return sequence
    epochs = min(last.epochs, setting.costs.affordable(sequence, images, setting.budget))
    if costs_lib.steps(images, setting.batch_size, epochs) < costs_lib.FEWEST_STEPS:
        return ()
    warmup = min(last.schedule.warmup_epochs, epochs / 2)
    schedule = dataclasses.replace(last.schedule, warmup_epochs=warmup)
    return (*sequence[:-1], dataclasses.replace(last, epochs=epochs, schedule=schedule))
