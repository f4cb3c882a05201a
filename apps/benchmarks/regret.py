"""What an adviser loses: its plans against the best ones, on sets that it has not learnt from."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from apps.benchmarks import cell
from finetune_kit import metrics
from finetune_kit.strategy import advisor, candidates, experience
from finetune_kit.strategy.evidence import Evidence
from finetune_kit.training import choosing

FEWEST_PLANS = 6  # of a draw whose best plan says something

Place = tuple[str, int]  # set, and labelled images a class
Pick = Callable[["Draw"], str]  # what a policy chooses


@dataclasses.dataclass(frozen=True)
class Draw:
    """One draw of the images of a place.

    Attributes:
        place: Set and labelled images a class.
        seed: Of the draw.
        evidence: What was measured before training.
        accuracies: Plan to accuracy on the test split, in [0, 1].
        right: Plan to which test images it recognises, bool [n].
        errors: Plan to which cross-validated training images it gets wrong, bool [m].
    """

    place: Place
    seed: int
    evidence: Evidence
    accuracies: Mapping[str, float]
    right: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Loss:
    """What a policy loses at one place, in accuracy.

    Attributes:
        place: Set and labelled images a class.
        regret: Accuracy of the oracle minus that of the policy, mean over the seeds; below 0 where
            the policy found better plans than the oracle.
        accuracy: Of the policy, mean over the seeds.
        picks: What it chose, seed by seed.
    """

    place: Place
    regret: float
    accuracy: float
    picks: tuple[str, ...]


def study(lines: Iterable[Mapping[str, Any]]) -> list[Draw]:
    """Returns the draws that rows of one protocol make; those without evidence are left out."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for line in lines:
        key = (line["data"], line["per_class"], line["seed"])
        draw = found.setdefault(key, {"evidence": None, "run": {}, "race": {}})
        if line["kind"] == "evidence":
            draw["evidence"] = _evidence(line["evidence"])
        else:
            draw[line["kind"]][line["plan"]] = line
    return [
        Draw(
            (data, per_class),
            seed,
            draw["evidence"],
            {plan: row["accuracy"] for plan, row in draw["run"].items()},
            {plan: cell.unpacked(row["right"], row["test"]) for plan, row in draw["run"].items()},
            {plan: cell.unpacked(row["errors"], row["images"])
             for plan, row in draw["race"].items()},
        )
        for (data, per_class, seed), draw in sorted(found.items())
        if draw["evidence"] is not None and draw["run"]
    ]  # fmt: skip


def studies(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Draw]]:
    """Returns the usable draws of each network by its title, the network of most draws first."""
    by_network: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        by_network.setdefault(title(line["protocol"]), []).append(line)
    found = {name: usable(study(of)) for name, of in by_network.items()}
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def title(protocol: Mapping[str, Any]) -> str:
    """Returns what a network of a protocol is called: name, arguments, input and weights."""
    arguments = f" {protocol['backbone_args']}" if protocol["backbone_args"] else ""
    weights = protocol["weights"] or "own weights"
    return f"{protocol['backbone']}{arguments} at {protocol['image_size']} px, {weights}"


def network(title: str) -> str:
    """Returns the title of a network without the size of its input: who has seen one, has seen all.

    Args:
        title: Of `title`.
    """
    return re.sub(r" at .* px, ", ", ", title)


def usable(draws: Iterable[Draw]) -> list[Draw]:
    """Returns the draws of which enough is known: most plans, at a number that two sets have."""
    rich = [draw for draw in draws if len(draw.accuracies) >= FEWEST_PLANS]
    sets = {number: {d.place[0] for d in rich if d.place[1] == number}
            for number in {d.place[1] for d in rich}}  # fmt: skip
    return [draw for draw in rich if len(sets[draw.place[1]]) > 1]


def cells(draws: Iterable[Draw]) -> list[experience.Cell]:
    """Returns draws as what experience is learnt from."""
    return [
        experience.Cell(draw.place[0], draw.evidence, draw.accuracies)
        for draw in draws
        if experience.REFERENCE in draw.accuracies
    ]


def learnt_without(
    draws: Sequence[Draw], teachers: Sequence[Draw] | None = None
) -> dict[str, experience.Experience]:
    """Returns, for each set, what the other sets teach.

    Args:
        draws: Whose sets are left out, one by one.
        teachers: What is learnt from: these draws unless given.
    """
    known = cells(draws if teachers is None else teachers)
    return {name: experience.without(known, name) for name in sorted({d.place[0] for d in draws})}


def without_similarity(draws: Iterable[Draw]) -> list[Draw]:
    """Returns draws of which the similarity to the source is not known."""
    return [
        dataclasses.replace(draw, evidence=dataclasses.replace(draw.evidence, similarity=None))
        for draw in draws
    ]


def losses(draws: Sequence[Draw], pick: Pick) -> list[Loss]:
    """Returns what a policy loses at every place.

    The oracle is cross-fitted: for each seed it is the plan that was best on average over the other
    seeds of the place, so that the luck of a seed helps nobody. With one seed it is the best plan
    of that seed, which flatters it.
    """
    places = sorted({draw.place for draw in draws})
    found = []
    for place in places:
        here = [draw for draw in draws if draw.place == place]
        picks = [pick(draw) for draw in here]
        own = [draw.accuracies[name] for draw, name in zip(here, picks, strict=True)]
        best = [draw.accuracies[_oracle(here, draw)] for draw in here]
        found.append(
            Loss(place, float(np.mean(best) - np.mean(own)), float(np.mean(own)), tuple(picks))
        )
    return found


def over_sets(values: Sequence[Loss], of: Callable[[Loss], float]) -> metrics.Estimate:
    """Returns the mean of a quantity, each set counting the same, and Student's interval."""
    by_set: dict[str, list[float]] = {}
    for loss in values:
        by_set.setdefault(loss.place[0], []).append(of(loss))
    return metrics.mean([float(np.mean(of_set)) for of_set in by_set.values()])


def against(
    draws: Sequence[Draw], first: Pick, second: Pick
) -> dict[Place, tuple[metrics.Estimate, int]]:
    """Returns accuracy of `first` minus `second` at every place, with a 95 % interval, and seeds.

    The interval is of paired images: the plans saw the same test images, so what counts is where
    they differ. Over several seeds the images of each seed count once.
    """
    found = {}
    for place in sorted({draw.place for draw in draws}):
        here = [draw for draw in draws if draw.place == place]
        steps = np.concatenate(
            [draw.right[first(draw)].astype(float) - draw.right[second(draw)] for draw in here]
        )
        # The same test images come with every seed: a cluster an image, not an image a seed.
        by_image = steps.reshape(len(here), -1).mean(axis=0)
        error = float(by_image.std(ddof=1)) / math.sqrt(by_image.size)
        value = float(by_image.mean())
        found[place] = (
            metrics.Estimate(value, value - metrics.Z * error, value + metrics.Z * error),
            len(here),
        )
    return found


def advised(
    draws: Sequence[Draw], learnt: Mapping[str, experience.Experience], *, race: bool = False
) -> Pick:
    """Returns the policy of the advisor, which knows nothing of the set that it advises on.

    Args:
        draws: The study; a plan that was not run there cannot be chosen.
        learnt: Set to the experience of the others.
        race: Whether plan and runner-up compete by cross-validation, where their errors are known.
    """

    def pick(draw: Draw) -> str:
        learned = learnt[draw.place[0]]
        order = advisor.ordered(_gains(draw, learned), draw.evidence, learned)
        if race and len(order) > 1 and all(name in draw.errors for name in order[:2]):
            first, second = (draw.errors[name].astype(float) for name in order[:2])
            return order[1] if choosing.choose_point(np.stack([second, first])) == 0 else order[0]
        return order[0]

    return pick


def confidences(
    draws: Sequence[Draw], learnt: Mapping[str, experience.Experience]
) -> list[tuple[float, bool]]:
    """Returns for every draw how sure the advisor was, and whether its plan was within a point."""
    said = []
    for draw in draws:
        learned = learnt[draw.place[0]]
        gains = _gains(draw, learned)
        chosen = advisor.ordered(gains, draw.evidence, learned)[0]
        best = max(draw.accuracies.values())
        said.append(
            (
                learned.confidence(gains, chosen),
                draw.accuracies[chosen] >= best - experience.CLOSE,
            )
        )
    return said


def always(plan: str) -> Pick:
    """Returns the policy that takes one plan whatever the images."""
    return lambda draw: plan


def best_fixed(draws: Sequence[Draw]) -> Pick:
    """Returns the policy that takes, for each set, the one plan that was best on the other sets."""
    chosen = {}
    for name in {draw.place[0] for draw in draws}:
        others = [draw for draw in draws if draw.place[0] != name]
        chosen[name] = max(
            shared(draws), key=lambda plan: np.mean([d.accuracies[plan] for d in others])
        )
    return lambda draw: chosen[draw.place[0]]


def by_number(draws: Sequence[Draw]) -> Pick:
    """Returns the policy that looks at the number of labels alone: the best plan elsewhere."""
    chosen = {}
    for name, number in {draw.place for draw in draws}:
        others = [d for d in draws if d.place[0] != name and d.place[1] == number]
        chosen[name, number] = max(
            shared(others), key=lambda plan: np.mean([d.accuracies[plan] for d in others])
        )
    return lambda draw: chosen[draw.place]


def shared(draws: Sequence[Draw]) -> list[str]:
    """Returns the plans that were run on every draw."""
    common = set.intersection(*(set(draw.accuracies) for draw in draws))
    return [name for name in candidates.CANDIDATES if name in common]


def _gains(draw: Draw, learned: experience.Experience) -> dict[str, float]:
    return {
        name: gain for name, gain in learned.gains(draw.evidence).items() if name in draw.accuracies
    }


def _oracle(here: Sequence[Draw], draw: Draw) -> str:
    others = [other for other in here if other.seed != draw.seed] or [draw]
    plans = shared([*others, draw])
    return max(plans, key=lambda plan: np.mean([other.accuracies[plan] for other in others]))


def _evidence(values: Mapping[str, Any]) -> Evidence:
    similarity = values["similarity"]
    known = {field.name for field in dataclasses.fields(Evidence)}
    kept = {name: value for name, value in values.items() if name in known}
    return Evidence(**kept | {"similarity": metrics.Estimate(**similarity) if similarity else None})
