"""The suite `cache`: frozen stages run once an image, against plain Keras that runs them always.

    finetune-kit benchmark cache --data=photo_set --backbone=mobilenet_v2 --image_size=96

Both train the same stages for as many epochs on the same images, each in a process of its own, one
after the other in turn; what counts is the ratio within a turn. With `--stages=0` the head alone is
trained, and the floor is timed too: importing TensorFlow, and one pass over the training images.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import cases, markdown, methods, network, overview, peers, records
from finetune_kit import console
from recipes import settings

ARMS = ("kit", "plain", "floor")
TEST_IMAGES = 200  # tested on by both: enough to see that both have learnt
SETTINGS = ("data", "backbone", "backbone_args", "image_size", "stages", "epochs", "per_class")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(network.Network):
    """Flags of `finetune-kit benchmark cache`."""

    data: str = settings.option("A set of images: a folder, see `benchmark recipes`.", "")
    backbone: str = settings.option("Network to start from.", "mobilenet_v2")
    image_size: int = settings.option("Side of the input in pixels.", 96, low=32)
    per_class: int = settings.option("Training images a class; 0 is all.", 100, low=0)
    stages: int = settings.option("Stages that train, from the last; 0 is the head.", 1, low=0)
    epochs: int = settings.option("Passes over the training images.", 10, low=1)
    repeats: int = settings.option("Turns.", 5, low=1)
    rows: str = settings.option("Where measurements are kept.", "docs/results/cache.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where images and runs go; may be deleted.", "runs/benchmark")


def main(argv: list[str]) -> int:
    """Measures, adds a row for every turn and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark cache")
    flags.refuse_words("benchmark cache", words)
    if config.data:
        measure(config)
    overview.write(config.output, suite="cache", rows=config.rows)
    console.say(f"page  {config.output}")
    return 0


def measure(config: Config) -> None:
    """Adds a row for every turn."""
    case = cases.draw(config.data, per_class=config.per_class, seed=0, test_cap=TEST_IMAGES)
    name = f"cache-{case.name}-{config.per_class}-{case.digest}"
    folder = cases.write(case, pathlib.Path(config.workdir) / "cases" / name)
    arms = ARMS if not config.stages else ARMS[:2]
    with console.progress("Turns", config.repeats) as bar:
        for turn in range(config.repeats):
            # Who comes first in a turn changes: a machine that warms up helps nobody.
            order = arms[:: 1 if turn % 2 else -1]
            found = {arm: _run(arm, config, folder) for arm in order}
            records.append_lines(config.rows, [_row(config, case, found)])
            bar.advance()


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the suite, a function of its rows alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_title(line), []).append(line)
    table = [[title, *_cells(turns)] for title, turns in groups.items()]
    headings = ["what", "kit, s", "plain Keras, s", "plain / kit", "a training epoch, plain / kit",
                "kit / floor", "accuracy, kit and plain", "turns"]  # fmt: skip
    return "\n\n".join(
        [
            "## Frozen stages run once",
            "Whole processes, from start to report; plain Keras trains the same stages of the same "
            "network for as many epochs, the kit solves the head first. Medians over the turns; "
            "ratios are those within a turn, with the least and the greatest. The floor is a "
            "process that imports TensorFlow and runs the training images once, decoding "
            "included. Nothing is augmented, so both see the same pixels in every epoch; for the "
            "head alone, plain Keras is the first phase of its own guide, augmentation included.",
            markdown.grid(headings, table),
            markdown.machines(lines),
        ]
    )


def _cells(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    kit = np.array([turn["kit"]["process"] for turn in turns])
    plain = np.array([turn["plain"]["process"] for turn in turns])
    floors = [turn["floor"]["process"] for turn in turns if "floor" in turn]
    epochs = [
        float(np.median(turn["plain"]["epochs"][1:]) / np.median(turn["kit"]["epochs"][1:]))
        for turn in turns
        if len(turn["kit"]["epochs"]) > 1
    ]
    accuracies = [np.mean([turn[arm]["accuracy"] for turn in turns]) for arm in ARMS[:2]]
    return [
        f"{np.median(kit):.1f}",
        f"{np.median(plain):.1f}",
        _spread(plain / kit),
        _spread(epochs),
        _spread(kit[: len(floors)] / np.array(floors)) if floors else markdown.MISSING,
        ", ".join(f"{100 * value:.1f}" for value in accuracies),
        str(len(turns)),
    ]


def _spread(ratios: Any) -> str:
    return markdown.spread(ratios) if len(ratios) else markdown.MISSING


def _title(line: Mapping[str, Any]) -> str:
    opened = f"last {line['stages']} of the stages" if line["stages"] else "head alone"
    arguments = f" {line['backbone_args']}" if line["backbone_args"] else ""
    return (
        f"{line['backbone']}{arguments} at {line['image_size']} px, {line['n']} images, {opened}, "
        f"{line['epochs']} epochs"
    )


def _run(arm: str, config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Runs one program to its end and returns seconds of the process, epochs and accuracy."""
    if arm == "kit":
        return _run_kit(config, folder)
    shared = [f"--data={folder}", *_network_flags(config)]
    words = [*methods.KIT, "benchmark", "plain", *shared, f"--stages={config.stages}",
             f"--epochs={config.epochs}", "--floor" if arm == "floor" else "--nofloor"]  # fmt: skip
    if not config.stages:  # the first phase of Keras' guide
        words += ["--learning_rate=0.001", "--augment"]
    finished = peers.call(words)
    line = json.loads(next(row for row in finished.output.splitlines() if row.startswith("{")))
    kept = {name: line[name] for name in ("epochs", "accuracy") if name in line}
    return {"process": finished.seconds, **kept}


def _run_kit(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    workdir = pathlib.Path(config.workdir) / "runs" / "cache"
    recipe = ["last_stages", f"--stages={config.stages}", f"--epochs={config.epochs}",
              "--augment=none"] if config.stages else ["head_only"]  # fmt: skip
    finished = peers.call(
        [
            *methods.KIT, "finetune", *recipe, f"--data={folder}", *_network_flags(config),
            # Neither program holds images out: all of them train.
            "--per_class=1000000", "--nocross_validate", f"--workdir={workdir}", "--overwrite",
        ]
    )  # fmt: skip
    told = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
    return {
        "process": finished.seconds,
        "epochs": [row["seconds"] for row in told["history"] if row["learning_rate"] is not None],
        "accuracy": told["scores"]["test"]["accuracy"]["value"],
    }


def _network_flags(config: Config) -> list[str]:
    given = {"weights": config.weights, "backbone": config.backbone,
             "backbone_args": config.backbone_args, "image_size": config.image_size}  # fmt: skip
    return [f"--{name}={value}" for name, value in given.items() if value]


def _row(config: Config, case: cases.Case, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: getattr(config, name) for name in SETTINGS},
        "data": case.name,
        "n": len(case.train),
        **found,
        **records.stamp(),
    }
