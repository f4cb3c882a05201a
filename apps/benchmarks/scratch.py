"""The suite `scratch`: what the bundled network is worth, against training from random weights.

    finetune-kit benchmark scratch --data_root=photo_sets

Both train the same architecture on the same images for as many epochs, each at a rate of its own,
chosen on development images (`cases.develop`) by number of labels and size of the images, as is
whether and how the bundled network's BatchNorm is trained, which random weights need anyway; then
every set's test images are scored once a draw. Every finished run is a row; the same command does
what is missing. `--image_size=64` compares on sets whose originals have as many pixels: there,
`auto` looks at twice the default size. `--augment=shift` shows no mirrored images, as `auto` does
where they would be others.
"""

import dataclasses
import functools
import hashlib
import importlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from apps import demo, flags, pretrain
from apps.benchmarks import bundled, cases, cell, markdown, records, sharing, trained
from finetune_kit import checks, console, metrics
from finetune_kit.backbones import catalogue
from finetune_kit.strategy import candidates
from recipes import settings

EPOCHS = 100  # of both: three times what fine-tuning takes, since random weights need them
SCRATCH, BUNDLED = "from_scratch", "probe_then_finetune"
Setting = tuple[float, str]  # rate, and one of `BATCH_NORM`
TRAINED, ANEW = "trainable", "anew"
# How BatchNorm is treated: "" is what the recipe does unless told.
BATCH_NORM: dict[str, dict[str, str]] = {
    "": {},
    TRAINED: {"batch_norm": "trainable"},
    ANEW: {"batch_norm": "trainable", "batch_norm_statistics": "target"},
}
SHOWN = {
    "": "",
    TRAINED: ", with BatchNorm",
    ANEW: ", with BatchNorm, whose statistics are measured anew first",
}
# Of the bundled network, the default of its size and that of the bold plans.
TRIED: dict[str, tuple[Setting, ...]] = {
    SCRATCH: ((3e-4, ""), (1e-3, ""), (3e-3, "")),
    BUNDLED: ((3e-4, ""), (1e-3, ""), (1e-3, TRAINED), (1e-3, ANEW)),
}
DIGITS = "digits"  # written from scikit-learn, beside the sets of the folder
SIZE = catalogue.image_size(catalogue.BUNDLED)  # of rows that say none
AUGMENT = "light"  # of rows that say none
Place = tuple[str, int]  # augmentation, and size: what is compared only with its like
ENOUGH = 50  # originals by which a set's size is told


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark scratch`."""

    data_root: str = settings.option(
        "Folder of the sets, each a folder; empty only writes the page from the rows.", ""
    )
    sets: str = settings.option("Names of sets, with commas; empty is all.", "")
    per_class: str = settings.option("Labelled images a class, with commas.", "5,20")
    image_size: int = settings.option("Side of the images in pixels.", SIZE, low=SIZE)
    augment: str = settings.option(
        "Strength of the augmentation.", AUGMENT, choices=settings.AUGMENTATIONS
    )
    tuned_on: str = settings.option(
        "Sets whose development images choose the rates, with commas; empty is all.", ""
    )
    seeds: int = settings.option("Draws of the images.", 3, low=2)
    weights: str = settings.option("Of the bundled network; empty are those that ship.", "")
    rows: str = settings.option("Where finished runs are kept.", "docs/results/scratch.jsonl")
    output: str = settings.option("The page.", "docs/bundled-backbone.md")
    workdir: str = settings.option("Where images go; may be deleted.", "runs/benchmark")
    workers: int = settings.option("Runs that are made at a time, on equal cores.", 1, low=1)

    def __post_init__(self) -> None:
        settings.check_options(self)
        settings.check_weights(self.weights)
        catalogue.image_size(catalogue.BUNDLED, self.image_size)
        for number in bundled.numbers(self.per_class):
            checks.in_range("per_class", number, 2)
        if self.data_root:
            known = (*cases.sets_in(self.data_root), DIGITS)
            for flag in ("sets", "tuned_on"):
                for name in cell.listed(getattr(self, flag)):
                    checks.one_of(flag, name, known)

    @property
    def names(self) -> tuple[str, ...]:
        """The sets; at a larger size than the default, those whose originals have the pixels."""
        named = cell.listed(self.sets) or (*cases.sets_in(self.data_root), DIGITS)
        if self.image_size == SIZE:
            return named
        return tuple(name for name in named if _original(self, name) >= self.image_size)

    @property
    def tuned(self) -> tuple[str, ...]:
        """The sets whose development images choose the rates."""
        return cell.listed(self.tuned_on) or self.names


def main(argv: list[str]) -> int:
    """Measures what has no row, and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark scratch")
    flags.refuse_words("benchmark scratch", words)
    if config.data_root:
        measure(config)
    bundled.write_page(config.output, scratch=config.rows)
    return 0


def measure(config: Config) -> None:
    """Adds the rows of all runs that have none: first those that choose the rate."""
    done = {_key(row) for row in records.load_lines(config.rows)}
    _add_rows(config, "Rates", [run for run in _tuning(config) if _key(run) not in done])
    own = [row for row in records.load_lines(config.rows)
           if row["weights"] in ("", _digest(config.weights))]  # fmt: skip
    best = chosen(_at(own, (config.augment, config.image_size)))
    _add_rows(config, "Runs", [run for run in _runs(config, best) if _key(run) not in done])


def _add_rows(config: Config, title: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Makes runs, each a row as soon as it is over."""
    jobs = [(run, _case(config, run)) for run in runs]
    with console.progress(title, len(jobs)) as bar:
        for row in sharing.shared(functools.partial(_row, config), jobs, config.workers):
            records.append_lines(config.rows, [row])
            bar.advance()


def chosen(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], Setting]:
    """Returns recipe and labels a class to the setting that is best on development images.

    It has the highest mean accuracy over the sets, of those that all settings were tried on.

    Args:
        rows: Of one size and augmentation.
    """
    found: dict[tuple[str, int, Setting], dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "tuning":
            key = (row["recipe"], row["per_class"], _setting(row))
            found.setdefault(key, {})[row["data"]] = row["accuracy"]

    def mean(key: tuple[str, int, Setting]) -> float:
        own = [found[other] for other in found if other[:2] == key[:2]]
        return float(np.mean([found[key][name] for name in set.intersection(*map(set, own))]))

    ranked = sorted(found, key=mean)
    # Of each recipe and number of labels the last one stays, which is the best.
    return {(recipe, number): setting for recipe, number, setting in ranked}


def _setting(row: Mapping[str, Any]) -> Setting:
    return row["rate"], row.get("batch_norm", "")


def _tuning(config: Config) -> Iterator[dict[str, Any]]:
    for recipe, settings_tried in TRIED.items():
        for number in bundled.numbers(config.per_class):
            for name in config.tuned:
                for setting in settings_tried:
                    yield _run(config, "tuning", recipe, name, number, 0, setting)


def _runs(config: Config, best: Mapping[tuple[str, int], Setting]) -> Iterator[dict[str, Any]]:
    for seed in range(config.seeds):
        for number in bundled.numbers(config.per_class):
            for name in config.names:
                for recipe in TRIED:
                    yield _run(config, "run", recipe, name, number, seed, best[recipe, number])


def _run(
    config: Config, kind: str, recipe: str, name: str, number: int, seed: int, setting: Setting
) -> dict[str, Any]:
    # Rows of other weights than these say nothing about them.
    weights = "" if recipe == SCRATCH else _digest(config.weights)
    rate, batch_norm = setting
    return {"kind": kind, "recipe": recipe, "weights": weights, "data": name,
            "image_size": config.image_size, "per_class": number, "seed": seed, "rate": rate,
            **({"batch_norm": batch_norm} if batch_norm else {}),
            **({"augment": config.augment} if config.augment != AUGMENT else {})}  # fmt: skip


@functools.cache
def _digest(weights: str) -> str:
    """Returns eight hexadecimal digits that stand for a file of weights, or for those that ship."""
    from finetune_kit.backbones import network

    path = pathlib.Path(weights) if weights else network.FILES / pretrain.WEIGHTS
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def _case(config: Config, run: Mapping[str, Any]) -> pathlib.Path:
    """Writes the images of a run, unless another has, and returns their folder."""
    name, number, seed = (run[k] for k in ("data", "per_class", "seed"))
    draw = cases.develop if run["kind"] == "tuning" else cases.draw
    case = draw(_folder(config, name), per_class=number, seed=seed)
    slug = f"scratch-{run['kind']}-{name}-{number}-{seed}-{case.digest}"
    return cases.write(case, pathlib.Path(config.workdir) / "cases" / slug)


def _row(config: Config, job: tuple[Mapping[str, Any], pathlib.Path]) -> dict[str, Any]:
    """Trains, scores and returns the row of a run on the images in a folder."""
    from recipes import loading

    run, folder = job
    recipe = run["recipe"]
    method = importlib.import_module(f"recipes.{recipe}")
    settled = method.Config(
        data=str(folder), workdir="unused", per_class=run["per_class"],
        cross_validate=False, seed=run["seed"],
        backbone=catalogue.BUNDLED, image_size=config.image_size,
        weights="none" if recipe == SCRATCH else config.weights,
        learning_rate=run["rate"], epochs=EPOCHS, augment=config.augment,
        **BATCH_NORM[run.get("batch_norm", "")],
        head_stages=1 if recipe == SCRATCH else candidates.DEEP,
    )  # fmt: skip
    return {**run, **trained.score(method, loading.load(settled)), **records.stamp()}


def _folder(config: Config, name: str) -> pathlib.Path:
    """Returns the folder of a set; the digits are written first."""
    if name != DIGITS:
        return pathlib.Path(config.data_root) / name
    folder = pathlib.Path(config.workdir) / "cases" / DIGITS
    if not folder.is_dir():
        demo.write_digits(folder)
    return folder


def _original(config: Config, name: str) -> float:
    """Returns the median short side of a set's originals in pixels."""
    from PIL import Image

    sides = []
    for path, _ in cases.draw(_folder(config, name), per_class=0, seed=0).test[:ENOUGH]:
        with Image.open(path) as image:
            sides.append(min(image.size))
    return float(np.median(sides))


def section(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the tables of the suite, a function of its rows alone; "" without runs.

    Of several weights, the rows of the last count; of several settings, those of the best.
    """
    last = [line["weights"] for line in lines if line["recipe"] == BUNDLED][-1:]
    lines = _at_best([x for x in lines if x["recipe"] == SCRATCH or x["weights"] in last])
    known = sorted({_place(line) for line in lines if line["kind"] == "run"})
    parts = [part for place in known for part in _at_place(_at(lines, place), place)]
    if not parts:
        return ""
    return "\n\n".join(
        [
            "## Against training from scratch",
            f"The same architecture on the same images for {EPOCHS} epochs: from random weights "
            f"(`{SCRATCH}`), and from the bundled ones (`{BUNDLED}`, with a head on the last "
            f"{candidates.DEEP} stages), each at its own rate, the best on development images. "
            "Where it was tried, they also say whether the bundled network's BatchNorm is trained, "
            "and from which statistics; from scratch it is. Accuracy in per cent on the test "
            "images; the difference is paired by draw, with Student's 95 % interval.",
            *parts,
            *_as_auto([line for line in lines if _place(line)[0] == AUGMENT]),
            markdown.machines(lines),
        ]
    )


def _at_best(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows without runs of other settings than those that were chosen."""
    best = {place: chosen(_at(lines, place)) for place in {_place(line) for line in lines}}
    return [
        line for line in lines
        if line["kind"] != "run"
        or _setting(line) == best[_place(line)].get((line["recipe"], line["per_class"]))
    ]  # fmt: skip


def _at_place(lines: Sequence[Mapping[str, Any]], place: Place) -> list[str]:
    """Returns the tables of a size and an augmentation, one for every number of labels."""
    augment, size = place
    runs, best = [line for line in lines if line["kind"] == "run"], chosen(lines)
    has = "" if size == SIZE else ", sets whose originals have as many pixels"
    views = "" if augment == AUGMENT else f", augmentation `{augment}`"
    parts = []
    for number in sorted({run["per_class"] for run in runs}):
        own = [run for run in runs if run["per_class"] == number]
        (scratch, _), (tuned, batch_norm) = (best[recipe, number] for recipe in TRIED)
        title = (
            f"{number} labelled images a class at {size} px{has}{views}; rates {scratch:g} and "
            f"{tuned:g}{SHOWN[batch_norm]}:"
        )
        gaps, cells = _compared(own)
        if cells:
            headings = ["set", "from scratch", "bundled", "difference, points"]
            parts += [title, markdown.grid(headings, cells), _summary(gaps)]
    return parts


def _as_auto(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence for every number of labels with several sizes: each set at its largest."""
    runs = [line for line in lines if line["kind"] == "run"]
    parts = []
    for number in sorted({run["per_class"] for run in runs if _size(run) != SIZE}):
        own = [run for run in runs if run["per_class"] == number]
        gaps: dict[str, metrics.Estimate] = {}
        for size in sorted({_size(run) for run in own}):
            gaps |= _compared(_at(own, (AUGMENT, size)))[0]
        gains = [_by_size(own, recipe) for recipe in (BUNDLED, SCRATCH)]
        parts.append(
            f"{number} labelled images a class, each set at the size that `auto` takes, the "
            f"larger one where the originals have the pixels. {_summary(gaps)} By the larger size "
            f"and what was chosen there the bundled network gains {gains[0]:+.1f} points on "
            f"average of the sets that were seen at both, training from scratch {gains[1]:+.1f}."
        )
    return parts


def _by_size(runs: Sequence[Mapping[str, Any]], recipe: str) -> float:
    """Returns what a recipe gains by the larger size on average of the sets with both, points."""
    found: dict[str, dict[int, list[float]]] = {}
    for run in runs:
        if run["recipe"] == recipe:
            found.setdefault(run["data"], {}).setdefault(_size(run), []).append(run["accuracy"])
    both = [of_set for of_set in found.values() if len(of_set) > 1]
    gains = [np.mean(of_set[max(of_set)]) - np.mean(of_set[min(of_set)]) for of_set in both]
    return 100 * float(np.mean(gains)) if gains else 0.0


def _compared(
    runs: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, metrics.Estimate], list[list[str]]]:
    """Returns by how much the bundled network is ahead, set by set, and the lines of a table."""
    by_set: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        of_set = by_set.setdefault(run["data"], {SCRATCH: {}, BUNDLED: {}})
        of_set[run["recipe"]][run["seed"]] = run["accuracy"]
    gaps, lines = {}, []
    for name, found in sorted(by_set.items()):
        seeds = sorted(found[SCRATCH].keys() & found[BUNDLED].keys())
        scratch, tuned = ([found[r][seed] for seed in seeds] for r in (SCRATCH, BUNDLED))
        if len(seeds) < 2:
            continue
        gaps[name] = metrics.paired_difference(tuned, scratch)
        lines.append([name, *(f"{100 * np.mean(values):.1f}" for values in (scratch, tuned)),
                      markdown.percent(gaps[name], signed=True)])  # fmt: skip
    return gaps, lines


def _summary(gaps: Mapping[str, metrics.Estimate]) -> str:
    """Returns on how many sets the bundled network is ahead, and by how much."""
    photos = [gap.value for name, gap in gaps.items() if name != DIGITS]
    text = f"Ahead on {_ahead([gap.value for gap in gaps.values()])}"
    return (
        f"{text}; without {DIGITS}, on {_ahead(photos)}." if len(photos) < len(gaps) else f"{text}."
    )


def _ahead(gaps: Sequence[float]) -> str:
    points = 100 * float(np.mean(gaps)) if gaps else 0.0
    return f"{sum(gap > 0 for gap in gaps)} of {len(gaps)} sets, by {points:.1f} points on average"


def _size(row: Mapping[str, Any]) -> int:
    return int(row.get("image_size", SIZE))


def _place(row: Mapping[str, Any]) -> Place:
    return row.get("augment", AUGMENT), _size(row)


def _at(rows: Sequence[Mapping[str, Any]], place: Place) -> list[Mapping[str, Any]]:
    return [row for row in rows if _place(row) == place]


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("kind", "recipe", "weights", "data", "per_class", "seed")
    return (*(row[name] for name in names), *_setting(row), *_place(row))
