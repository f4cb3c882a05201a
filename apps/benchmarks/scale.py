"""The suite `scale`: memory and time of streaming, however many images there are.

    finetune-kit benchmark scale

Folders of ten thousand and of a hundred thousand small JPEGs, made by formula, are listed, checked
and split by `data.load` and then streamed once by `data.batches`, with nothing kept in memory: all
that a run does with images before a network sees them. There is no network, whose memory does not
know how many images there are. Each in a process of its own, in turn. Writing the images takes half
a minute, a turn of both sizes one or two.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import input as input_suite
from apps.benchmarks import markdown, overview, pictures, records
from finetune_kit import checks, console, cores
from recipes import settings

COLUMNS = ("peak", "base", "load", "stream", "processor")
LIMIT = 1.1  # growth from the smallest set to the largest that the kit promises to stay within


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark scale`."""

    sizes: str = settings.option("Numbers of images.", "10000,100000")
    image_size: int = settings.option("Side to which they are brought, pixels.", 64, low=1)
    batch_size: int = settings.option("Images a batch.", 32, low=1)
    augment: str = settings.option(
        "Strength of the augmentation.", "light", choices=settings.AUGMENTATIONS
    )
    repeats: int = settings.option("Turns; 0 writes the page alone.", 5, low=0)
    rows: str = settings.option("Where measurements are kept.", "docs/results/scale.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where the images go; may be deleted.", "runs/benchmark")

    def __post_init__(self) -> None:
        settings.check_options(self)
        self.numbers()

    def numbers(self) -> list[int]:
        """Returns `sizes` as numbers.

        Raises:
            ConfigError: Not at least two growing numbers from 100 on, with commas.
        """
        parts = self.sizes.split(",")
        found = [int(part) for part in parts if part.strip().isdecimal()]
        if len(found) < max(2, len(parts)) or found != sorted(set(found)) or found[0] < 100:
            raise checks.ConfigError(
                "--sizes needs growing numbers of at least 100, as in 10000,100000. "
                + checks.received(sizes=self.sizes)
            )
        return found


def main(argv: list[str]) -> int:
    """Measures, adds a row for every size and turn and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark scale")
    flags.refuse_words("benchmark scale", words)
    measure(config)
    overview.write(config.output, suite="scale", rows=config.rows)
    console.say(f"page  {config.output}")
    return 0


def measure(config: Config) -> None:
    """Adds a row for every turn."""
    numbers = config.numbers() if config.repeats else []
    folders = {
        number: pictures.write_tiny(pathlib.Path(config.workdir) / f"tiny-{number}", number)
        for number in numbers
    }
    with console.progress("Runs", config.repeats * len(folders)) as bar:
        for turn in range(config.repeats):
            runs = {}
            # Who comes first changes: what the machine does meanwhile falls on all.
            for number in numbers[:: 1 if turn % 2 else -1]:
                runs[number] = _run(config, folders[number])
                bar.advance()
            records.append_lines(config.rows, [_row(config, [runs[number] for number in numbers])])


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the suite, a function of its rows alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_title(line), []).append(line)
    headings = ["images", "memory, MiB", "of it before", "listing and checking, µs an image",
                "streaming, µs an image", "processor, µs an image", "turns"]  # fmt: skip
    parts = []
    for title, turns in groups.items():
        sizes = [_cells([turn["runs"][i] for turn in turns]) for i in range(len(turns[0]["runs"]))]
        parts += [f"{title}:", markdown.grid(headings, [*sizes, _growth(turns)])]
    return "\n\n".join(
        [
            "## Any number of images",
            f"Small JPEGs of {pictures.TINY} x {pictures.TINY} pixels are listed, decoded, hashed "
            "and split, and then streamed once, with no pixels kept in memory and no network. "
            "Memory is the most that the process had, and what it had when TensorFlow was "
            "imported. Medians over the turns; growth is from the fewest to the most images, the "
            f"median of those within a turn with the least and the greatest. Promised: {LIMIT:g} "
            "at most.",
            *parts,
            markdown.machines(lines),
        ]
    )


def _cells(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    medians = (np.median([run[name] for run in runs]) for name in COLUMNS)
    return [f"{runs[0]['images']:,}", *(f"{value:,.0f}" for value in medians), str(len(runs))]


def _growth(turns: Sequence[Mapping[str, Any]]) -> list[str]:
    def ratio(name: str) -> str:
        return markdown.spread([turn["runs"][-1][name] / turn["runs"][0][name] for turn in turns])

    return ["growth", *(ratio(name) if name != "base" else "" for name in COLUMNS), str(len(turns))]


def _title(line: Mapping[str, Any]) -> str:
    sizes = " and ".join(f"{run['images']:,}" for run in line["runs"])
    return (
        f"{sizes} images at {line['image_size']} px, batches of {line['batch_size']}, "
        f"{line['augment']}, {line['cores']}"
    )


def _run(config: Config, folder: pathlib.Path) -> dict[str, Any]:
    """Streams a folder in a process of its own: MiB, and microseconds an image."""
    line = input_suite.call(
        {
            "data": folder,
            "image_size": config.image_size,
            "batch_size": config.batch_size,
            "augment": config.augment,
            "cache_mb": 0,
            "epochs": 1,
        }
    )
    return {
        "images": line["loaded"],
        "peak": line["peak"],
        "base": line["base"],
        "load": 1e6 * line["load"] / line["loaded"],
        "stream": 1e6 * (line["seconds"][0] - line["load"]) / line["images"][0],
        "processor": 1e6 * line["processor"][0] / line["loaded"],
    }


def _row(config: Config, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "augment": config.augment,
        "cores": cores.described(),
        "runs": list(runs),
        **records.stamp(),
    }
