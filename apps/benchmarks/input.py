"""The suite `input`: from files to batches, against the way that Keras' tutorials write.

    finetune-kit benchmark input

Photos of 500 x 375 pixels, made by formula, go through the kit's pipeline, through the peer's and
through a bare decoder, each in a process of its own, one after the other in turn; what counts is
the ratio within a turn. The first epoch has all that comes before it: the kit has decoded, hashed
and split every image by then. Writing the photos takes two minutes, a turn half a one.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apps import flags
from apps.benchmarks import markdown, methods, overview, peers, pictures, records
from finetune_kit import console, cores
from recipes import settings

ARMS = ("kit", "keras", "floor")
SETTINGS = ("images", "image_size", "batch_size", "augment", "epochs")
FIRST, LATER = 1.5, 1.2  # how many times as fast as the peer the kit promises to be


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark input`."""

    images: int = settings.option("Photos; they are made by formula.", 2000, low=20)
    image_size: int = settings.option("Side to which they are brought, pixels.", 128, low=1)
    batch_size: int = settings.option("Images a batch.", 32, low=1)
    augment: str = settings.option(
        "The kit's augmentation; the peer's is that of light.", "light", choices=("light",)
    )
    epochs: int = settings.option("Passes over the photos, the first included.", 5, low=2)
    repeats: int = settings.option("Turns; 0 writes the page alone.", 7, low=0)
    rows: str = settings.option("Where measurements are kept.", "docs/results/input.jsonl")
    output: str = settings.option("The page.", "docs/benchmarks.md")
    workdir: str = settings.option("Where the photos go; may be deleted.", "runs/benchmark")

    def __post_init__(self) -> None:
        settings.check_options(self)


def main(argv: list[str]) -> int:
    """Measures, adds a row for every turn and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark input")
    flags.refuse_words("benchmark input", words)
    measure(config)
    overview.write(config.output, suite="input", rows=config.rows)
    console.say(f"page  {config.output}")
    return 0


def measure(config: Config) -> None:
    """Adds a row for every turn."""
    if not config.repeats:
        return
    folder = pathlib.Path(config.workdir) / f"photos-{config.images}"
    pictures.write_photos(folder, config.images)
    with console.progress("Turns", config.repeats) as bar:
        for turn in range(config.repeats):
            # Each comes first, second and last in turn: what the machine does meanwhile, and what
            # it has read before, falls on all.
            order = ARMS[turn % len(ARMS) :] + ARMS[: turn % len(ARMS)]
            found = {arm: feed(folder, config, arm) for arm in order}
            records.append_lines(config.rows, [_row(config, found)])
            bar.advance()


def feed(folder: pathlib.Path, config: Config, arm: str) -> dict[str, Any]:
    """Runs one program in a process of its own and returns its line; see `feed.run`."""
    flags_of = {"data": folder, "program": arm, "image_size": config.image_size,
                "batch_size": config.batch_size, "epochs": config.epochs,
                "augment": config.augment}  # fmt: skip
    return call(flags_of)


def call(values: Mapping[str, Any]) -> dict[str, Any]:
    """Runs `benchmark feed` with flags of these values and returns the line that it prints."""
    words = [f"--{name}={value}" for name, value in values.items()]
    output = peers.call([*methods.KIT, "benchmark", "feed", *words]).output
    line: dict[str, Any] = json.loads(next(x for x in output.splitlines() if x.startswith("{")))
    return line


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of the suite, a function of its rows alone."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_title(line), []).append(line)
    table = [cells for title, turns in groups.items() for cells in _cells(title, turns)]
    headings = ["what", "kit, ms an image", "Keras, ms an image", "Keras / kit", "bare decoder",
                "turns"]  # fmt: skip
    return "\n\n".join(
        [
            "## From files to batches",
            "Photos of 500 x 375 pixels, made by formula, JPEG of quality 90. Keras: "
            "`image_dataset_from_directory`, `cache`, `shuffle`, then `RandomFlip` and "
            "`RandomTranslation` in `map`, `prefetch`. The first epoch has everything from the "
            "list of files on; in it the kit has also hashed, checked and split the images. Bare "
            "decoder: libjpeg alone on all cores, every image in full. Medians over the turns; "
            "ratios are those within a turn, with the least and the greatest. "
            f"Promised: {FIRST:g} times as fast in the first epoch, {LATER:g} in later ones.",
            markdown.grid(headings, table),
            markdown.machines(lines),
        ]
    )


def _cells(title: str, turns: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns two lines of the table: the first epoch and the later ones."""
    first = {arm: np.array([turn[arm]["seconds"][0] for turn in turns]) for arm in ARMS}
    later = {arm: np.array([np.median(turn[arm]["seconds"][1:]) for turn in turns])
             for arm in ARMS[:2]}  # fmt: skip
    n = turns[0]["images"]
    return [
        [
            f"{title}, {name}",
            *(f"{1000 * np.median(of[arm]) / n:.3f}" for arm in ARMS[:2]),
            markdown.spread(of["keras"] / of["kit"]),
            f"{1000 * np.median(of['floor']) / n:.3f}" if "floor" in of else markdown.MISSING,
            str(len(turns)),
        ]
        for name, of in (("first epoch", first), ("later epochs", later))
    ]


def _title(line: Mapping[str, Any]) -> str:
    return (
        f"{line['images']:,} photos at {line['image_size']} px, batches of {line['batch_size']}, "
        f"{line['augment']}, {line['cores']}"
    )


def _row(config: Config, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: getattr(config, name) for name in SETTINGS},
        "cores": cores.described(),
        **found,
        **records.stamp(),
    }
