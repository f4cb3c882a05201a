"""The page on the bundled network: how it was made, and what else was tried."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.benchmarks import markdown
from finetune_kit import metrics

if TYPE_CHECKING:
    from finetune_kit.backbones.card import SourceCard

Row = Mapping[str, Any]
PHOTOS = "photos"  # in the name of a mixture that has them
MOST_FOREGONE = 2  # points
TITLES = {"head_only": "head", "probe_then_finetune": "fine-tuned"}


def page(
    rows: Sequence[Row],
    card: "SourceCard | None",
    against: str = "",
    further: "Sequence[SourceCard]" = (),
) -> str:
    """Returns the page, a function of the rows and of the card that ships with the weights.

    Args:
        rows: Of the suite `bundled`.
        card: Of the shipped weights.
        against: The section of the suite `scratch`.
        further: The cards of other sizes that ship, too.
    """
    parts = ["# The bundled backbone"]
    if card is not None:
        parts += _made(card, further)
    parts += [against] if against else []
    judged = [row for row in rows if "recipe" in row]
    if judged:
        parts += _tried(rows, judged, card.recipe.get("weights", "") if card else "")
    return "\n\n".join(parts) + "\n"


def _made(card: "SourceCard", further: "Sequence[SourceCard]") -> list[str]:
    low, high = card.accuracy["low"], card.accuracy["high"]
    commands = [*_commands(card.recipe), *(other.recipe["command"] for other in further)]
    return [
        f"Trained on {card.trained_on} by",
        "\n".join(f"    {command}" for command in commands),
        f"It recognises {card.accuracy['value']:.1%} [{low:.1%}, {high:.1%}] of the "
        f"{card.accuracy['n']:,} test images. Terms of the source images: {card.terms}",
    ]


def _commands(recipe: Mapping[str, Any]) -> list[str]:
    """Returns what was called; of weights that were trained on arrays, the steps before, too."""
    if "trained" not in recipe:
        return [recipe["command"]]
    lines = [recipe["command"]]
    trained = recipe["trained"]
    while trained:
        command = f"KERAS_BACKEND={trained['backend']} {trained['command']}"
        lines = [*filter(None, [trained["arrays"]]), command, *lines]
        trained = trained.get("before")
    return lines


def _tried(rows: Sequence[Row], judged: Sequence[Row], weights: str) -> list[str]:
    """Returns the ablation: a line a mixture, a column a number of labels and recipe.

    Args:
        rows: All.
        judged: Those with an accuracy.
        weights: File name of those that ship.
    """
    mixtures = list(dict.fromkeys(row["mixture"] for row in judged))
    columns = sorted({(row["per_class"], row["recipe"]) for row in judged})
    cells = {
        mixture: [_by_set(judged, mixture, *column) for column in columns] for mixture in mixtures
    }
    own = {row["mixture"]: row["accuracy"] for row in rows if "recipe" not in row
           and "accuracy" in row}  # fmt: skip
    mark = mixtures[0]
    shown = {row["mixture"]: row["images_shown"] for row in judged}
    lines = [
        [
            mixture,
            f"{shown[mixture] / 1e6:.2g}",
            *([f"{100 * own[mixture]:.1f}" if mixture in own else markdown.MISSING] if own else []),
            *(_average(cell) for cell in cells[mixture]),
            markdown.MISSING
            if mixture == mark
            else markdown.percent(_gaps(cells[mixture], cells[mark]), signed=True),
        ]
        for mixture in mixtures
    ]
    sets = sorted({row["data"] for row in judged})
    headings = ["trained on", "million images", *(["own test images"] if own else []),
                *(f"{TITLES[recipe]}, {number} a class" for number, recipe in columns),
                f"minus {mark}, points"]  # fmt: skip
    return [
        "## What else was tried",
        "Networks of one architecture, each trained on so many million images in all passes, then "
        f"judged on {', '.join(sets)}, which none of them has seen: accuracy in per cent on images "
        "that are for development alone, averaged over the sets. The last column is "
        f"the mean difference to `{mark}`, all columns together, paired by set, with Student's "
        "95 % interval over the sets. Photos are of ImageNet's classes; images have 32 px, views "
        "are light and labels sharp where nothing else is said; two sizes are 64 px and 32.",
        markdown.grid(headings, lines),
        *_choice(cells, weights),
        markdown.machines(rows),
    ]


def _choice(cells: Mapping[str, Sequence[Mapping[str, float]]], weights: str) -> list[str]:
    """Returns what ships and why, where some networks have seen photos and some have not."""
    means = {mixture: np.mean([np.mean([*c.values()]) for c in own if c])
             for mixture, own in cells.items()}  # fmt: skip
    with_photos = [mixture for mixture in means if PHOTOS in mixture]
    without = [mixture for mixture in means if PHOTOS not in mixture]
    if not (with_photos and without):
        return []
    first, second = max(without, key=means.__getitem__), max(with_photos, key=means.__getitem__)
    gap = markdown.percent(_gaps(cells[second], cells[first]), signed=True)
    text = (
        f"Photos come with terms of their own, so the best network without them ships, `{first}`, "
        f"unless they gain more than {MOST_FOREGONE} points: `{second}` gains {gap}."
    )
    shipped = [mixture for mixture in without if weights.startswith(f"{slug(mixture)}.")]
    if shipped and shipped != [first]:
        ahead = markdown.percent(_gaps(cells[first], cells[shipped[0]]), signed=True)
        text += (
            f" As yet `{shipped[0]}` ships; `{first}`, which is {ahead} points ahead of it here, "
            "has still to be compared with training from scratch."
        )
    return [text]


def slug(mixture: str) -> str:
    """Returns the name of a mixture as its files have it."""
    return mixture.replace(", ", "-").replace(" ", "_")


def _by_set(rows: Sequence[Row], mixture: str, per_class: int, recipe: str) -> dict[str, float]:
    """Returns set to mean accuracy over draws."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if (row["mixture"], row["per_class"], row["recipe"]) == (mixture, per_class, recipe):
            found.setdefault(row["data"], []).append(row["accuracy"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def _average(by_set: Mapping[str, float]) -> str:
    return f"{100 * np.mean(list(by_set.values())):.1f}" if by_set else markdown.MISSING


def _gaps(
    own: Sequence[Mapping[str, float]], mark: Sequence[Mapping[str, float]]
) -> metrics.Estimate | None:
    """Returns the mean difference over columns, by set; None with fewer than two sets."""
    gaps: dict[str, list[float]] = {}
    for ours, theirs in zip(own, mark, strict=True):
        for name in ours.keys() & theirs.keys():
            gaps.setdefault(name, []).append(ours[name] - theirs[name])
    return metrics.mean([float(np.mean(g)) for g in gaps.values()]) if len(gaps) > 1 else None
