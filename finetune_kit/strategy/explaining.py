"""A plan in words: one line a decision, each with its reason and its figures."""

import dataclasses
from collections.abc import Mapping, Sequence

from finetune_kit.strategy import candidates as candidates_lib
from finetune_kit.strategy import evidence as evidence_lib
from finetune_kit.strategy import experience as experience_lib
from finetune_kit.strategy.phases import HEAD, Phase

EVERY_STAGE = ("finetune", "deep_finetune", "bold_finetune", "bold_batch_norm", "by_depth")
# Which candidates the source text has in mind for each of its cases; what lies between cases
# contradicts none.
TEXTBOOK = {
    "little data, similar": ("head", "deep_head", "last_stage"),
    "much data, similar": ("last_stage", *EVERY_STAGE),
    "much data, dissimilar": (*EVERY_STAGE, "full", "scratch"),
    "little data, dissimilar": EVERY_STAGE,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Decision:
    """One line of a plan: what is decided, what it was decided to be, and why."""

    what: str
    value: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """What is to be explained.

    Attributes:
        candidate, runner_up: The chosen one and the next best.
        phases: What will run.
        full: What would run without a budget.
        gains: Candidate to expected gain over a head on frozen features, in accuracy.
        seconds: Expected seconds of the run, or None.
        budget: Seconds allowed; 0 is no limit.
        confidence: Probability in [0, 1].
        because: Why this candidate, where it was not chosen by expectation; else "".
    """

    candidate: candidates_lib.Candidate
    runner_up: candidates_lib.Candidate | None
    phases: Sequence[Phase]
    full: Sequence[Phase]
    gains: Mapping[str, float]
    seconds: float | None
    budget: float
    confidence: float
    because: str


def explain(
    choice: Choice,
    evidence: evidence_lib.Evidence,
    why: Mapping[str, str],
    experience: experience_lib.Experience,
) -> tuple[Decision, ...]:
    """Returns the lines of a plan's table.

    Args:
        choice: What was chosen.
        evidence: What it was chosen by.
        why: Line to its reason, where a rule or a flag has decided already.
        experience: What the expectation comes from.
    """
    lines = [_situation(evidence), _method(choice, evidence, experience), _head(choice)]
    last = choice.phases[-1]
    if not last.solved:
        lines += _training(choice, last, why)
    else:
        lines.append(Decision("stages", "none", "the head is solved in closed form; no rates"))
    lines += [_scratch(choice, evidence), _regulariser(last, why), _resolution(why)]
    lines += [_runner_up(choice), _time(choice), _confidence(choice, experience)]
    return tuple(lines)


def _situation(evidence: evidence_lib.Evidence) -> Decision:
    case, advice = evidence.case
    known = [f"{evidence.images} images, {evidence.per_class:.0f} a class"]
    if evidence.similarity is not None:
        s = evidence.similarity
        known.append(f"similarity {s.value:.2f} [{s.low:.2f}, {s.high:.2f}]")
    if evidence.fit is not None:
        known.append(f"task fit {evidence.fit:.2f}")
    book = f"the source text says: {advice}" if advice else "between the source text's four cases"
    return Decision("case", case, f"{', '.join(known)}; {book}")


def _method(
    choice: Choice, evidence: evidence_lib.Evidence, experience: experience_lib.Experience
) -> Decision:
    name, title = choice.candidate.name, choice.candidate.title
    gain = choice.gains.get(name, 0.0)
    expected = (
        f"{_points(gain)} over a head on several stages, by {experience.cells} measured draws of "
        "other images"
    )
    if choice.because:
        return Decision("method", f"{name}: {title}", f"{choice.because}; expected {expected}")
    book = TEXTBOOK.get(evidence.case[0])
    against = "" if book is None or name in book else "; the source text would not, evidence does"
    return Decision("method", f"{name}: {title}", f"expected {expected}{against}")


def _head(choice: Choice) -> Decision:
    count = choice.candidate.head_stages
    if count == candidates_lib.SHALLOW:
        reason = "the last stage has the most general features of what is shown"
        return Decision("head", "on the last stage", reason)
    return Decision(
        "head",
        f"on the last {count} stages" if count else "on all stages",
        "shallower features tell apart what the last stage has learnt to ignore",
    )


def _training(choice: Choice, last: Phase, why: Mapping[str, str]) -> list[Decision]:
    stages = [group for group in last.trained if group != HEAD]
    rates = [last.learning_rate * last.multipliers[stage] for stage in stages]
    every = len(stages) == len(last.multipliers) - 1
    span = f"{rates[0]:.2g}" if len(set(rates)) == 1 else f"{rates[0]:.2g} to {rates[-1]:.2g}"
    layers = " (BatchNorm alone)" if choice.candidate.opens == "batch_norm" else ""
    shortened = last.epochs < choice.full[-1].epochs
    return [
        Decision(
            "stages",
            ("every stage" if every else ", ".join(stages)) + layers,
            _opened(choice.candidate),
        ),
        Decision("rates", f"{span}, {last.schedule.name}", _rates(choice.candidate, why)),
        Decision(
            "epochs",
            str(last.epochs),
            f"shortened from {choice.full[-1].epochs} to keep within {choice.budget:.0f} s"
            if shortened
            else why.get("epochs", "as you said"),
        ),
        Decision("BatchNorm", last.batch_norm, why.get("BatchNorm") or _batch_norm(last)),
        Decision("augmentation", last.augment, why.get("augmentation", "")),
    ]


def _rates(candidate: candidates_lib.Candidate, why: Mapping[str, str]) -> str:
    base = why.get("rates", "as you said")
    if candidate.rate == 1.0:
        return base
    return f"{candidate.rate:.1f} times the usual, as this plan has it; {base}"


def _opened(candidate: candidates_lib.Candidate) -> str:
    return {
        "all": "every stage can correct what the stages behind it cannot",
        "last": "what is shown differs, not how it looks",
        "one": "the stage where the images depart from the source (Lee et al., 2023)",
        "batch_norm": "few numbers adapt every depth, and can hardly overfit",
    }[candidate.opens]


def _batch_norm(last: Phase) -> str:
    if last.batch_norm == "frozen":
        return "the source's statistics come from more images than are here"
    return "the statistics have to become those of these images"


def _scratch(choice: Choice, evidence: evidence_lib.Evidence) -> Decision:
    if choice.candidate.start == "random":
        return Decision("from scratch", "yes", "the pretrained weights are not expected to help")
    expected = choice.gains.get("scratch")
    figure = "" if expected is None else f", {_points(expected)} expected against the head"
    return Decision("from scratch", "no", f"pretrained features help{figure}")


def _regulariser(last: Phase, why: Mapping[str, str]) -> Decision:
    if last.solved:
        return Decision("regulariser", "L2 on the head", "strength by cross-validation")
    return Decision("regulariser", why.get("regulariser", "weight decay"),
                    "decoupled, each stage at its own rate")  # fmt: skip


def _resolution(why: Mapping[str, str]) -> Decision:
    value, _, reason = why.get("resolution", "the network's").partition("; ")
    return Decision("resolution", value, reason)


def _runner_up(choice: Choice) -> Decision:
    if choice.runner_up is None:
        return Decision("runner-up", "none", "no other plan is possible here")
    second = choice.runner_up
    behind = choice.gains.get(choice.candidate.name, 0.0) - choice.gains.get(second.name, 0.0)
    return Decision(
        "runner-up", f"{second.name}: {second.title}",
        f"expected {_points(-behind)} against the plan; --race lets them compete",
    )  # fmt: skip


def _time(choice: Choice) -> Decision:
    if choice.seconds is None:
        return Decision("time", "unknown", "no forward pass was timed")
    limit = f" of {choice.budget:.0f} s allowed" if choice.budget else ""
    return Decision("time", f"about {choice.seconds:.0f} s{limit}", "from the timed forward pass")


def _confidence(choice: Choice, experience: experience_lib.Experience) -> Decision:
    return Decision(
        "confidence",
        f"{100 * choice.confidence:.0f} %",
        "that no candidate ends more than a point ahead, by what was missed on sets left out "
        f"({len(experience.residuals)} cells)",
    )


def _points(gain: float) -> str:
    return f"{100 * gain:+.1f} points"
