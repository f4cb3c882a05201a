"""Scores a trained model on labelled images.

finetune-kit evaluate --model=runs/1
finetune-kit evaluate --model=runs/1 --data=other_photos --split=all --output=scores.json
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps import flags
from finetune_kit import checks, console, data, metrics, results
from finetune_kit.results import files
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.data.types import ImageData, Split

SPLITS = ("test", "validation", "train", "all")
# What decides who is in which split; taken from the run, so that its test split is found again.
SPLITTING = ("seed", "per_class", "test_fraction", "validation_fraction")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit evaluate`."""

    model: str = settings.option("Work directory of the run whose model is scored.", "")
    data: str = settings.option("Folder, .csv or tfds:NAME; empty is the run's own data.", "")
    data_dir: str = settings.option("Where TFDS keeps its data sets.", "")
    split: str = settings.option("Which images; all is every one.", "test", choices=SPLITS)
    batch_size: int = settings.option("Images predicted together.", 64, low=1)
    max_bad_fraction: float = settings.option(
        "Largest share of files that may be unreadable.", 0.01, low=0.0, high=1.0
    )
    output: str = settings.option("JSON file for the scores; empty writes none.", "")

    def __post_init__(self) -> None:
        settings.check_options(self)
        if not self.model:
            raise checks.ConfigError("evaluate needs --model=WORKDIR. Received: model=''")
        if self.data:
            data.check_source(self.data, self.data_dir or None)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, rest = flags.parse(argv, Config, command="evaluate")
    flags.refuse_words("evaluate", rest)
    found = run(config)
    _show(found)
    if config.output:
        files.write_json(config.output, found)
    return 0


def run(config: Config) -> dict[str, Any]:
    """Returns the scores, `{"scores": {"n": …, "accuracy": …}, …}`, and what was scored.

    Raises:
        DataError: There are no such images, or of classes that the model does not know.
        WeightsError: The model is missing or damaged.
    """
    started = time.perf_counter()
    values = results.read(config.model)
    model, class_names = results.load_model(config.model)
    with console.progress("Decoding") as task:
        images = data.load(
            image_size=results.input_size(model) or values["data"]["image_size"],
            channels=results.input_channels(model),
            max_bad_fraction=config.max_bad_fraction,
            progress=task.advance,
            **source_of(config, values.get("config", {})),
        )
    parts = chosen(images, config.split)
    labels = translate(images, parts, class_names)
    batches = [data.evaluation_batches(part, batch_size=config.batch_size) for part in parts]
    probabilities = np.concatenate([model.predict(batch, verbose=0) for batch in batches])
    return {
        "model": config.model,
        "data": images.name,
        "fingerprint": images.fingerprint,
        "split": config.split,
        "scores": metrics.score(labels, probabilities).to_dict(),
        "seconds": {"total": time.perf_counter() - started},
    }


def source_of(config: Config, trained: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `data.load` that say which images there are and how they split.

    The run's own source is split as it was in the run; other images owe nothing to its budget of
    labels and are split by its seed alone.

    Args:
        config: The flags.
        trained: The run's config, as its report has it.

    Raises:
        ConfigError: Neither the flags nor the run name a source.
    """
    source = config.data or trained.get("data")
    if not source:
        raise checks.ConfigError("evaluate needs --data=SOURCE. Received: a run that names none")
    own = source == trained.get("data") or _same_path(source, trained.get("data"))
    names = SPLITTING if own else ("seed",)
    kept = {name: trained[name] for name in names if name in trained}
    data_dir = config.data_dir or trained.get("data_dir") or None
    return {"source": source, "data_dir": data_dir} | kept


def chosen(images: "ImageData", split: str) -> "list[Split]":
    """Returns the splits to score.

    Raises:
        DataError: The data have no such split.
    """
    parts = images.splits()
    if split == "all":
        return list(parts.values())
    if split not in parts:
        raise checks.DataError(
            f"--split must be one that the data have: {', '.join(parts)}, all. "
            f"Received: split={split!r}"
        )
    return [parts[split]]


def translate(
    images: "ImageData", parts: "Sequence[Split]", class_names: Sequence[str]
) -> np.ndarray:
    """Returns the labels of the images in the model's order of classes, int64 [n].

    Raises:
        DataError: A class that the model does not know.
    """
    index = {name: position for position, name in enumerate(class_names)}
    labels = np.concatenate([part.labels for part in parts])
    used = [images.class_names[label] for label in np.unique(labels)]
    unknown = [name for name in used if name not in index]
    if unknown:
        raise checks.DataError(
            f"Images must be of the model's classes: {', '.join(class_names[:9])}"
            f"{', …' if len(class_names) > 9 else ''}. Received: {', '.join(unknown[:9])}"
        )
    table = np.array([index.get(name, -1) for name in images.class_names])
    return table[labels]


def _same_path(first: str, second: str | None) -> bool:
    return bool(second) and pathlib.Path(first).resolve() == pathlib.Path(str(second)).resolve()


def _show(found: Mapping[str, Any]) -> None:
    scores = metrics.Scores.from_dict(found["scores"])
    console.table(
        f"{found['data']}, {found['split']}: {scores.n:,} images",
        ["score", "value", "95 % interval"],
        scores.rows(),
    )


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("evaluate"))
