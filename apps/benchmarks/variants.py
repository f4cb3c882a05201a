"""The suite `variants`: what one option changes in accuracy and time, everything else being equal.

    finetune-kit benchmark variants --data_root=photo_sets --weights=mobilenet.weights.h5

Each variant is its recipe with one option changed, trained from the same weights on the same images
as the recipe without. Rows are kept; the same command does what is missing.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import cases, markdown, network, overview, records, trained
from finetune_kit import console, metrics
from recipes import last_stages, probe_then_finetune, settings

RECIPES: dict[str, Any] = {
    "last_stages": last_stages,
    "probe_then_finetune": probe_then_finetune,
}
# Variant to what it changes of its recipe; "" is the recipe as it is.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "last_stages": {
        "": {},
        "--augment=none": {"augment": "none"},
        "--views=1": {"views": 1},
        "--views=2": {"views": 2},
        "--views=4": {"views": 4},
        "--views=8": {"views": 8},
    },
    "probe_then_finetune": {
        "": {},
        "--l2_sp=0.1": {"l2_sp": 0.1},
        "--wise=0.5": {"wise": 0.5},
        "--ema=0.95": {"ema": 0.95},
        "--batch_norm_statistics=target": {"batch_norm_statistics": "target"},
        "--head_stages=3": {"head_stages": 3},
    },
}
KEYS = ("recipe", "variant", "data", "seed", "per_class", "backbone", "backbone_args", "image_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(network.Network):
    """Flags of `finetune-kit benchmark variants`."""

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    weights: str = settings.option(
        "imagenet, none, or a weights file; empty is the bundled one.", ""
    )
    per_class: int = settings.option("Training images a class.", 20, low=2)
    seeds: int = settings.option("Draws of the images.", 3, low=1)
    rows: str = settings.option("Where measurements are kept.", "docs/results/variants.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where images go; may be deleted.", "runs/benchmark")


def main(argv: list[str]) -> int:
    """Measures what has no row and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark variants")
    flags.refuse_words("benchmark variants", words)
    left = list(missing(config, records.load_lines(config.rows))) if config.data_root else []
    with console.progress("Draws", len(left)) as bar:
        for recipe, name, seed, variants in left:
            for row in measure(config, recipe, name, seed, variants):
                records.append_lines(config.rows, [row])
            bar.advance()
    overview.write(config.output, suite="variants", rows=config.rows)
    console.say(f"page  {config.output}")
    return 0


def missing(
    config: Config, lines: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """Yields recipe, set, seed and the variants that have no row, the first seed first."""
    done = {_key(line) for line in lines}
    names = tuple(name.strip() for name in config.sets.split(",") if name.strip())
    for seed in range(config.seeds):
        for name in names or cases.sets_in(config.data_root):
            for recipe, variants in VARIANTS.items():
                base = {**_settings(config), "recipe": recipe, "data": name, "seed": seed}
                left = tuple(v for v in variants if _key({**base, "variant": v}) not in done)
                if left:
                    yield recipe, name, seed, left


def measure(
    config: Config, recipe: str, name: str, seed: int, variants: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields a row for every variant: accuracy on the test images and seconds of training."""
    from recipes import loading

    case = cases.draw(pathlib.Path(config.data_root) / name, per_class=config.per_class, seed=seed)
    folder = pathlib.Path(config.workdir) / "cases" / f"variants-{name}-{seed}-{case.digest}"
    base = RECIPES[recipe].Config(
        data=str(cases.write(case, folder)),
        workdir=str(folder.with_name(f"{folder.name}-run")),
        per_class=config.per_class,
        cross_validate=False,
        seed=seed,
        weights=config.weights,
        backbone=config.backbone,
        backbone_args=config.backbone_args,
        image_size=config.image_size,
    )
    loaded = loading.load(base)
    variables = loaded.classifier.backbone.model.variables
    before = [np.array(variable) for variable in variables]
    for variant in variants:
        changed = dataclasses.replace(loaded.config, **VARIANTS[recipe][variant])
        yield {
            **_settings(config), "recipe": recipe, "variant": variant, "data": name, "seed": seed,
            **trained.score(RECIPES[recipe], dataclasses.replace(loaded, config=changed)),
            **records.stamp(),
        }  # fmt: skip
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the suite, a function of its rows alone."""
    latest = list({_key(line): line for line in lines}.values())
    rows = [
        row
        for recipe, variants in VARIANTS.items()
        for number in sorted({line["per_class"] for line in latest})
        for variant in variants
        if variant
        if (row := _row(recipe, number, variant, latest))
    ]
    headings = ["recipe, labels a class", "option", "accuracy minus without, points",
                "seconds of training, without / with", "sets", "draws"]  # fmt: skip
    return "\n\n".join(
        [
            "## What one option changes",
            "The same recipe, images, weights and epochs, with and without the option; paired by "
            "draw, averaged by set, with Student's 95 % interval over the sets. `--views=K` shows "
            "an image in K augmented views in turn, so that what is frozen runs once a view; "
            "without, every epoch draws new ones.",
            markdown.grid(headings, rows),
            markdown.machines(lines),
        ]
    )


def _row(
    recipe: str, number: int, variant: str, lines: Sequence[Mapping[str, Any]]
) -> list[str] | None:
    """Returns the cells of a variant, None where fewer than two sets have both."""
    own = [line for line in lines if line["recipe"] == recipe and line["per_class"] == number]
    plain = {(x["data"], x["seed"]): x for x in own if not x["variant"]}
    gaps: dict[str, list[float]] = {}
    ratios = []
    for line in own:
        without = plain.get((line["data"], line["seed"]))
        if line["variant"] == variant and without is not None:
            gaps.setdefault(line["data"], []).append(line["accuracy"] - without["accuracy"])
            ratios.append(without["seconds"] / line["seconds"])
    if len(gaps) < 2:
        return None
    gap = metrics.mean([float(np.mean(of_set)) for of_set in gaps.values()])
    return [
        f"{recipe}, {number}",
        f"`{variant}`",
        markdown.percent(gap, signed=True),
        markdown.spread(ratios),
        str(len(gaps)),
        str(len(ratios)),
    ]


def _settings(config: Config) -> dict[str, Any]:
    names = ("per_class", "backbone", "backbone_args", "image_size")
    return {name: getattr(config, name) for name in names}


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in KEYS)
