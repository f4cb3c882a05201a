"""The suite `views`: what a fixed number of augmented views costs in accuracy and saves in time.

    finetune-kit benchmark views --data_root=photo_sets --weights=mobilenet.weights.h5

Recipe `last_stages` is trained from the same weights on the same images with 1, 2, 4 and 8 views an
image, and with new ones in every epoch. Rows are kept; the same command does what is missing.
"""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import cases, markdown, overview, records
from finetune_kit import checks, console, metrics
from finetune_kit.backbones import catalogue
from finetune_kit.results import report
from recipes import last_stages, settings

FRESH = 0  # new views in every epoch
COUNTS = (FRESH, 1, 2, 4, 8)
KEYS = ("data", "seed", "views", "per_class", "backbone", "backbone_args", "image_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark views`."""

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    weights: str = settings.option("imagenet, none, or a weights file.", "")
    backbone: str = settings.option("Network to start from.", "mobilenet")
    backbone_args: str = settings.option("Its arguments, as in alpha=0.25.", "")
    image_size: int = settings.option("Side of the input in pixels.", 128, low=32)
    per_class: int = settings.option("Training images a class.", 20, low=2)
    seeds: int = settings.option("Draws of the images.", 3, low=1)
    rows: str = settings.option("Where measurements are kept.", "docs/results/views.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where images go; may be deleted.", "runs/benchmark")

    def __post_init__(self) -> None:
        settings.check_options(self)
        settings.check_weights(self.weights)
        settings.arguments(self.backbone_args)
        catalogue.image_size(self.backbone, self.image_size)


def main(argv: list[str]) -> int:
    """Measures what has no row and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark views")
    flags.refuse_words("benchmark views", words)
    left = list(missing(config, records.load_lines(config.rows))) if config.data_root else []
    with console.progress("Draws", len(left)) as bar:
        for name, seed, counts in left:
            for row in measure(config, name, seed, counts):
                records.append_lines(config.rows, [row])
            bar.advance()
    overview.write(config.output, suite="views", rows=config.rows)
    console.say(f"page  {config.output}")
    return 0


def missing(
    config: Config, lines: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Yields set, seed and numbers of views that have no row."""
    done = {_key(line) for line in lines}
    names = tuple(name.strip() for name in config.sets.split(",") if name.strip())
    for seed in range(config.seeds):
        for name in names or cases.sets_in(config.data_root):
            base = {**_settings(config), "data": name, "seed": seed}
            left = tuple(count for count in COUNTS if _key({**base, "views": count}) not in done)
            if left:
                yield name, seed, left


def measure(
    config: Config, name: str, seed: int, counts: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yields a row for every number of views: accuracy, seconds, forward passes before the cut."""
    from finetune_kit import features, training
    from recipes import jobs, loading

    case = cases.draw(pathlib.Path(config.data_root) / name, per_class=config.per_class, seed=seed)
    folder = pathlib.Path(config.workdir) / "cases" / f"views-{name}-{seed}-{case.digest}"
    recipe = last_stages.Config(
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
    loaded = loading.load(recipe)
    backbone = loaded.classifier.backbone
    before = [np.array(variable) for variable in backbone.model.variables]
    for count in counts:
        own = dataclasses.replace(loaded.config, views=count)
        classifier = loading.attach(own, backbone, loaded.images.num_classes, 1)
        store = features.ActivationStore(batch_size=own.batch_size)
        began = time.perf_counter()
        training.run(
            classifier,
            last_stages.phases(own, classifier.groups),
            loaded.images,
            jobs.training_options(own),
            activations=store,
        )
        seconds = time.perf_counter() - began
        if (test := loaded.images.test) is None:
            raise checks.DataError("A case needs test images. Received: none")
        probabilities = features.predict(classifier, test)
        yield {
            **_settings(config), "data": name, "seed": seed, "views": count,
            "accuracy": float((probabilities.argmax(axis=1) == test.labels).mean()),
            "seconds": seconds, "n": len(loaded.images.train), "epochs": own.epochs,
            "machine": records.machine(), "versions": report.versions(), "finished": records.now(),
        }  # fmt: skip
        for variable, value in zip(backbone.model.variables, before, strict=True):
            variable.assign(value)


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the suite, a function of its rows alone."""
    latest = list({_key(line): line for line in lines}.values())
    accuracies = {(line["data"], line["seed"], line["views"]): line for line in latest}
    rows = [_row(count, accuracies) for count in COUNTS if count != FRESH]
    headings = ["views", "accuracy minus fresh views, points", "seconds of training, fresh / kept",
                "sets", "draws"]  # fmt: skip
    return "\n\n".join(
        [
            "## A fixed number of views",
            "With `--views=K` an image is shown in K augmented views in turn, and what is frozen "
            "runs once a view; without, every epoch draws new ones. Recipe `last_stages`, the "
            "same images, weights and number of epochs; paired by draw, averaged by set, with "
            "Student's 95 % interval over the sets.",
            markdown.grid(headings, [row for row in rows if row]),
        ]
    )


def _row(count: int, known: Mapping[tuple[str, int, int], Mapping[str, Any]]) -> list[str]:
    """Returns the cells of a number of views, none where fewer than two sets have both."""
    gaps: dict[str, list[float]] = {}
    ratios = []
    for (name, seed, views), line in known.items():
        fresh = known.get((name, seed, FRESH))
        if views == count and fresh is not None:
            gaps.setdefault(name, []).append(line["accuracy"] - fresh["accuracy"])
            ratios.append(fresh["seconds"] / line["seconds"])
    if len(gaps) < 2:
        return []
    gap = metrics.mean([float(np.mean(of_set)) for of_set in gaps.values()])
    return [
        str(count),
        markdown.percent(gap, signed=True),
        f"{np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]",
        str(len(gaps)),
        str(len(ratios)),
    ]


def _settings(config: Config) -> dict[str, Any]:
    names = ("per_class", "backbone", "backbone_args", "image_size")
    return {name: getattr(config, name) for name in names}


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in KEYS)
