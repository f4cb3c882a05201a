"""The page of the suite `advice`: what advice cost and gained, the losing cells included."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apps.benchmarks import advice_figures, advice_rivals, markdown, records, regret
from finetune_kit import metrics
from finetune_kit.results import files
from finetune_kit.strategy import candidates, experience

Lines = Sequence[Mapping[str, Any]]
HEAD = "head"
BINS = (0.0, 0.5, 0.7, 0.85, 1.01)  # of stated confidence


def write(lines: Lines, output: str | os.PathLike[str], peers: Sequence[records.Row] = ()) -> None:
    """Writes the page and its figures, `<page>-<name>.svg` beside it, from the rows alone.

    Args:
        lines: Rows of the study.
        output: The page.
        peers: Rows of other programs on the same images, and of whole advised runs.
    """
    path = pathlib.Path(output)
    studies = {n: draws for n, draws in regret.studies(lines).items() if _complete(draws)}
    parts = [
        "# Does the advice help?",
        _how(lines),
        *(
            _study(name, studies, path, [row for row in peers if _peer_protocol(row) == name])
            for name in studies
        ),
        _methods(studies),
        _machines(lines),
    ]
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _complete(draws: Sequence[regret.Draw]) -> bool:
    """Returns whether enough was measured to say anything: two sets with the reference."""
    return len({d.place[0] for d in draws if experience.REFERENCE in d.accuracies}) > 1


def _how(lines: Lines) -> str:
    runs = sum(line["kind"] == "run" for line in lines)
    return (
        "Written by `finetune-kit benchmark advice` from its rows "
        f"({runs} trained networks).\n\n"
        "Every candidate was trained on every draw of the images, and scored once on the set's "
        "test split. The advisor learns from the other sets only: no figure below comes from a "
        'set that its advice was learnt on, and for "network not seen" none from a network '
        "either. Regret is the accuracy of the oracle minus that of "
        "the policy; the oracle knows the test splits of the other seeds of a cell and chooses "
        "by them, so that the luck of a seed helps nobody. With a single seed it chooses by that "
        "seed itself, which flatters the oracle. Intervals are 95 %."
    )


def _peer_protocol(row: records.Row) -> str:
    return regret.title(dataclasses.asdict(row.protocol))


def _study(
    name: str,
    studies: Mapping[str, Sequence[regret.Draw]],
    path: pathlib.Path,
    peers: Sequence[records.Row],
) -> str:
    draws = studies[name]
    learnt = regret.learnt_without(draws, [d for of in studies.values() for d in of])
    policies = _policies(name, studies, learnt)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    figure = path.with_name(f"{path.stem}-{slug}.svg")
    found = {title: regret.losses(draws, pick) for title, pick in policies.items()}
    for plan in candidates.CANDIDATES:
        trained = [draw for draw in draws if plan in draw.accuracies]
        if trained:
            found[f"always {plan}"] = regret.losses(trained, regret.always(plan))
    files.write_text(figure, advice_figures.regrets(found))
    parts = [
        f"## {name}",
        _policy_table(found),
        f"![Regret by policy and number of labels]({figure.name})",
        "### Every cell",
        _cell_table(draws, found["auto"]),
        _losing(draws, policies["auto"], found["auto"]),
        advice_rivals.section(peers, draws, policies["auto"]),
        "### What was measured before training",
        _evidence_table(draws),
        "### Is the stated confidence right?",
        _confidence_table(draws, learnt),
    ]
    return "\n\n".join(part for part in parts if part)


def _policies(
    name: str,
    studies: Mapping[str, Sequence[regret.Draw]],
    learnt: Mapping[str, experience.Experience],
) -> dict[str, regret.Pick]:
    """Returns the policies that choose."""
    draws, others = studies[name], [d for n, of in studies.items() if n != name for d in of]
    own = regret.network(name)
    strangers = [d for n, of in studies.items() if regret.network(n) != own for d in of]
    policies: dict[str, regret.Pick] = {"auto": regret.advised(draws, learnt)}
    if any(draw.errors for draw in draws):
        policies["auto with a race"] = regret.advised(draws, learnt, race=True)
    if len({draw.place[0] for draw in strangers}) > 2:
        unseen = regret.learnt_without(draws, strangers)
        policies["auto, network not seen"] = regret.advised(draws, unseen)
    hidden = regret.without_similarity(draws)
    teachers = regret.without_similarity([*draws, *others])
    blind = regret.advised(hidden, regret.learnt_without(hidden, teachers))
    seen = {(draw.place, draw.seed): draw for draw in hidden}
    policies["auto, similarity hidden"] = lambda draw: blind(seen[draw.place, draw.seed])
    policies["best fixed plan of the other sets"] = regret.best_fixed(draws)
    return policies | {"number of labels only": regret.by_number(draws)}


def _policy_table(found: Mapping[str, Sequence[regret.Loss]]) -> str:
    places = {loss.place for losses in found.values() for loss in losses}
    numbers = sorted({number for _, number in places})
    headings = [
        "policy",
        "accuracy",
        "regret, points",
        *(f"at {n} a class" for n in numbers),
        "worst cell",
    ]
    rows = []
    for title, losses in found.items():
        worst = max(losses, key=lambda loss: loss.regret)
        everywhere = {loss.place for loss in losses} == places
        rows.append(
            [
                title,
                markdown.percent(
                    regret.over_sets(losses, lambda loss: loss.accuracy) if everywhere else None
                ),
                markdown.percent(
                    regret.over_sets(losses, lambda loss: loss.regret) if everywhere else None,
                    signed=True,
                ),
                *(_mean(losses, n, {name for name, m in places if m == n}) for n in numbers),
                f"{100 * worst.regret:+.1f} ({worst.place[0]}, {worst.place[1]})",
            ]
        )
    return markdown.grid(headings, rows)


def _mean(losses: Sequence[regret.Loss], per_class: int, sets: set[str]) -> str:
    """Returns the mean regret at a number of labels, a dash where a set is missing."""
    own = {loss.place[0]: loss.regret for loss in losses if loss.place[1] == per_class}
    return f"{100 * np.mean(list(own.values())):+.1f}" if set(own) == sets else markdown.MISSING


def _cell_table(draws: Sequence[regret.Draw], own: Sequence[regret.Loss]) -> str:
    plans = [p for p in candidates.CANDIDATES if any(p in d.accuracies for d in draws)]
    rows = []
    for loss in own:
        here = [draw for draw in draws if draw.place == loss.place]
        means = {
            plan: float(np.mean([d.accuracies[plan] for d in here if plan in d.accuracies]))
            for plan in plans
            if any(plan in d.accuracies for d in here)
        }
        cells = [
            markdown.MISSING
            if plan not in means
            else f"{100 * means[plan]:.1f}{' *' * (plan in loss.picks)}"
            for plan in plans
        ]
        rows.append([f"{loss.place[0]}, {loss.place[1]}", *cells, f"{100 * loss.regret:+.1f}"])
    return (
        markdown.grid(["set, labels a class", *plans, "regret"], rows)
        + "\n\nPer cent of the test images, mean over the seeds. A star marks what the advisor "
        "chose, for one seed or more."
    )


def _losing(draws: Sequence[regret.Draw], pick: regret.Pick, own: Sequence[regret.Loss]) -> str:
    """Returns the cells in which the advice loses: against the head alone, and by over a point."""
    lines = []
    if all(HEAD in draw.accuracies for draw in draws):
        for place, (gain, _) in regret.against(draws, pick, regret.always(HEAD)).items():
            if gain.value < 0:
                clear = "clearly" if gain.high < 0 else "within its interval"
                lines.append(
                    f"- {place[0]}, {place[1]} a class: below the head alone, {clear} "
                    f"({markdown.percent(gain, signed=True)} points)"
                )
    lines += [
        f"- {loss.place[0]}, {loss.place[1]} a class: regret {100 * loss.regret:.1f} points "
        f"({', '.join(dict.fromkeys(loss.picks))})"
        for loss in own
        if loss.regret > experience.CLOSE
    ]
    return "Cells that the advice loses:\n\n" + ("\n".join(lines) or "- none")


def _evidence_table(draws: Sequence[regret.Draw]) -> str:
    rows = []
    for place in sorted({draw.place for draw in draws}):
        here = [draw.evidence for draw in draws if draw.place == place]
        first = here[0]
        near = first.similarity
        rows.append(
            [
                f"{place[0]}, {place[1]}",
                markdown.MISSING if near is None
                else f"{near.value:.3f} [{near.low:.3f}, {near.high:.3f}]",
                first.shift,
                _spread([e.fit for e in here]),
                _spread([e.deep_fit for e in here]),
                first.case[0],
            ]
        )  # fmt: skip
    headings = ["set, labels a class", "similarity", "shift", "task fit", "on three stages", "case"]
    return markdown.grid(headings, rows)


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.2f}" if known else markdown.MISSING


def _confidence_table(
    draws: Sequence[regret.Draw], learnt: Mapping[str, experience.Experience]
) -> str:
    said = regret.confidences(draws, learnt)
    rows = []
    for low, high in zip(BINS, BINS[1:], strict=False):
        inside = [(stated, hit) for stated, hit in said if low <= stated < high]
        if inside:
            hits = sum(hit for _, hit in inside)
            rows.append(
                [
                    f"{100 * low:.0f} to {100 * min(high, 1):.0f} %",
                    str(len(inside)),
                    f"{100 * np.mean([stated for stated, _ in inside]):.0f} %",
                    markdown.percent(metrics.wilson(hits, len(inside))),
                ]
            )
    brier = float(np.mean([(stated - hit) ** 2 for stated, hit in said]))
    return (
        markdown.grid(["stated", "draws", "mean stated", "within a point of the best, %"], rows)
        + f"\n\nBrier score {brier:.3f}; always saying the overall rate would score "
        f"{_base_brier([hit for _, hit in said]):.3f}. The best is that of the same seed, chosen "
        "by its test split."
    )


def _base_brier(hits: Sequence[bool]) -> float:
    rate = float(np.mean(hits))
    return rate * (1 - rate)


def _methods(studies: Mapping[str, Sequence[regret.Draw]]) -> str:
    """Returns when each candidate helps: its gain over the head on the nearer and farther half."""
    draws = [draw for of in studies.values() for draw in of if HEAD in draw.accuracies]
    fits = [draw.evidence.fit for draw in draws if draw.evidence.fit is not None]
    if not fits:
        return ""
    middle = float(np.median(fits))
    sides: dict[str, Callable[[regret.Draw], bool]] = {
        f"task fit above {middle:.2f}": lambda d: (d.evidence.fit or 0.0) > middle,
        f"task fit up to {middle:.2f}": lambda d: (d.evidence.fit or 0.0) <= middle,
    }
    rows = []
    for plan, candidate in candidates.CANDIDATES.items():
        cells = [_gain([d for d in draws if of(d)], plan) for of in sides.values()]
        numbers = sorted({draw.place[1] for draw in draws})
        cells += [_gain([d for d in draws if d.place[1] == n], plan) for n in numbers]
        rows.append([f"{plan}: {candidate.title}", *cells])
    headings = ["plan", *sides, *(f"{n} a class" for n in numbers)]
    return (
        "## When each method helps\n\nGain over a head on the last stage, in points, over all "
        "networks above.\n\n" + markdown.grid(headings, rows)
    )


def _gain(draws: Sequence[regret.Draw], plan: str) -> str:
    by_set: dict[str, list[float]] = {}
    for draw in draws:
        if plan in draw.accuracies:
            gain = draw.accuracies[plan] - draw.accuracies[HEAD]
            by_set.setdefault(draw.place[0], []).append(gain)
    values = [float(np.mean(of_set)) for of_set in by_set.values()]
    if len(values) < 2:
        return markdown.MISSING
    return markdown.percent(metrics.mean(values), signed=True)


def _machines(lines: Lines) -> str:
    machines = dict.fromkeys(
        f"- {line['machine']}; "
        + ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        for line in lines
    )
    days = sorted(line["finished"][:10] for line in lines)
    seconds = sum(line.get("seconds", 0.0) for line in lines if line["kind"] != "evidence")
    return "\n".join(
        [
            "## Protocol",
            "",
            *machines,
            f"- rows of {days[0]} to {days[-1]}; {seconds / 3600:.1f} hours of training",
            f"- candidates: {json.dumps(list(candidates.CANDIDATES))}",
        ]
    )
