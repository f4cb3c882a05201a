"""Classifies files or folders of images, one row each; a bad file is a row with its error.

finetune-kit predict --model=runs/1 photo.jpg
finetune-kit predict --model=runs/1 photos/ --output=predictions.csv --top_k=3
"""

import concurrent.futures
import contextlib
import csv
import dataclasses
import io
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from apps import flags
from finetune_kit import checks, console, cores, results
from finetune_kit.data import decode, folder, listing, sizes
from finetune_kit.results import files
from recipes import settings

if TYPE_CHECKING:
    import keras

FORMATS = ("csv", "jsonl")

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit predict`."""

    model: str = settings.option("Work directory of the run whose model is used.", "")
    output: str = settings.option("File for the rows, .csv or .jsonl; - is standard output.", "-")
    format: str = settings.option(
        "How rows are written to standard output.", "csv", choices=FORMATS
    )
    top_k: int = settings.option("Classes named for each image, the likeliest first.", 1, low=1)
    batch_size: int = settings.option("Images predicted together.", 64, low=1)

    def __post_init__(self) -> None:
        settings.check_options(self)
        if not self.model:
            raise checks.ConfigError("predict needs --model=WORKDIR. Received: model=''")
        if self.output != "-":
            suffix = pathlib.Path(self.output).suffix.removeprefix(".")
            checks.one_of("the ending of --output", suffix, FORMATS)

    @property
    def kind(self) -> str:
        """Format of the rows: that of the output's ending, or of `format`."""
        return self.format if self.output == "-" else pathlib.Path(self.output).suffix[1:]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A loaded model with what is needed to ask it.

    Attributes:
        model: Raw pixels to probabilities.
        class_names: C names.
        size: Side in px, or (height, width), to which images are brought before they are stacked,
            or None for a model that takes them as they are, one at a time.
        top_k: Classes named for each image.
        channels: N of the images.
    """

    model: "keras.Model"
    class_names: Sequence[str]
    size: sizes.Size | None
    top_k: int
    channels: int = sizes.COLOURS

    def read(self, path: pathlib.Path) -> np.ndarray | str:
        """Returns the pixels of a file, uint8 [h, w, N], or why there are none."""
        if path.exists() and not path.is_file():
            return "not a regular file"  # Reading a pipe would wait for ever.
        try:
            content = path.read_bytes()
            if self.size:
                return decode.pixels(content, self.size, self.channels)
            return decode.decode(content, self.channels)
        except decode.DecodeError as error:
            return str(error)
        except OSError as error:
            return error.strerror or str(error)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="predict", positional="FILE_OR_FOLDER…")
    paths = find(words)
    model, class_names = results.load_model(config.model)
    top_k = min(config.top_k, len(class_names))
    size, channels = results.input_size(model), results.input_channels(model)
    predictor = Predictor(model, class_names, size, top_k, channels)
    failed = 0
    with _sink(config) as write, console.progress("Predicting", len(paths)) as task:
        for row in rows(predictor, paths, batch_size=config.batch_size):
            write(row)
            failed += bool(row["error"])
            task.advance()
    if failed:
        console.warn(f"{failed} of {len(paths)} files could not be read; see their rows")
    if failed == len(paths):
        raise checks.DataError(
            f"predict needs at least one readable image. Received: {len(paths)} that are not"
        )
    if config.output != "-":
        console.say(f"{len(paths)} rows in {config.output}")
    return 0


def find(words: Iterable[str]) -> list[pathlib.Path]:
    """Returns the named files and the images below the named folders, in natural order.

    Raises:
        ConfigError: Nothing is named.
        DataError: The folders hold no images.
    """
    named = [pathlib.Path(word) for word in words]
    if not named:
        raise checks.ConfigError("predict needs files or folders. Received: none")
    found: list[pathlib.Path] = []
    for path in named:
        found += _images_below(path) if path.is_dir() else [path]
    if not found:
        folders = ", ".join(str(path) for path in named)
        raise checks.DataError(f"predict needs images. Received: {folders}, which hold none")
    return found


def rows(
    predictor: Predictor, paths: Sequence[pathlib.Path], *, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Yields one row per path, in order: path, class, probability, top_k, error.

    `top_k` is a list of {"class", "probability"}; a file that cannot be read has None for class and
    probability, an empty list, and the reason as its error; other rows have None as error.
    """
    step = batch_size if predictor.size else 1
    with concurrent.futures.ThreadPoolExecutor(cores.available()) as pool:
        chunks = [paths[start : start + step] for start in range(0, len(paths), step)]
        reading = [pool.submit(predictor.read, path) for path in (chunks[0] if chunks else [])]
        for chunk, following in itertools.zip_longest(chunks, chunks[1:], fillvalue=()):
            images = [future.result() for future in reading]
            reading = [pool.submit(predictor.read, path) for path in following]
            yield from _predict(predictor, chunk, images)


def csv_row(row: Row) -> list[Any]:
    """Returns the cells of a row; each further class of `top_k` has two cells before the error."""
    further = [
        cell for entry in row["top_k"][1:] for cell in (entry["class"], entry["probability"])
    ]
    return [row["path"], row["class"], row["probability"], *further, row["error"]]


def csv_header(top_k: int) -> list[str]:
    """Returns the headings of `csv_row`."""
    further = [
        name for rank in range(2, top_k + 1) for name in (f"class_{rank}", f"probability_{rank}")
    ]
    return ["path", "class", "probability", *further, "error"]


def _images_below(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns what claims to be an image; a file that is named itself need not."""
    names = [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.suffix.casefold() in folder.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    return [root / name for name in listing.natural(names)]


def _predict(
    predictor: Predictor, paths: Sequence[pathlib.Path], images: Sequence[np.ndarray | str]
) -> Iterator[dict[str, Any]]:
    good = [image for image in images if not isinstance(image, str)]
    answers = iter(predictor.model.predict_on_batch(np.stack(good)) if good else ())
    for path, image in zip(paths, images, strict=True):
        # Bytes of a name that are no UTF-8 are shown as escapes, not as an error of the writer.
        row: dict[str, Any] = {"path": os.fsencode(path).decode("utf-8", "backslashreplace")}
        if isinstance(image, str):
            yield row | {"class": None, "probability": None, "top_k": [], "error": image}
            continue
        probabilities = next(answers)
        best = np.argsort(-probabilities, kind="stable")[: predictor.top_k]
        top = [
            {"class": predictor.class_names[i], "probability": round(float(probabilities[i]), 6)}
            for i in best
        ]
        yield row | top[0] | {"top_k": top, "error": None}


@contextlib.contextmanager
def _sink(config: Config) -> Iterator[Callable[[Row], None]]:
    """Yields what writes a row; a file appears only when all rows are in it."""
    with contextlib.ExitStack() as stack:
        if config.output == "-":
            say: Callable[[str], Any] = console.say
        else:
            temporary = stack.enter_context(files.replacing(config.output))
            file = stack.enter_context(temporary.open("w", encoding="utf-8"))
            say = lambda line: file.write(f"{line}\n")  # noqa: E731
        if config.kind == "jsonl":
            yield lambda row: say(json.dumps(row, ensure_ascii=False))
        else:
            say(_csv_line(csv_header(config.top_k)))
            width = len(csv_header(config.top_k))
            yield lambda row: say(_csv_line(_padded(csv_row(row), width)))


def _padded(cells: list[Any], width: int) -> list[Any]:
    """Returns cells with room for classes that a row lacks, before its last cell, the error."""
    return [*cells[:-1], *[None] * (width - len(cells)), cells[-1]]


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("predict"))
