"""The suite `bundled`: which source images make a small network that transfers best.

    finetune-kit benchmark bundled --source=tfds:cifar10 --photos=imagenette --data_root=photo_sets

Networks of one architecture are pretrained on as many images each, then given a head, and
fine-tuned, on sets that none of them has seen. All of it is development: what is tested on here are
images to train on elsewhere, and no test image is looked at. Every finished piece is a row; the
same command does what is missing.

With `--elsewhere=FOLDER` the networks are trained on another machine: the first call leaves images
and a script there, and once the script has left the weights there, the second judges them. Networks
that go on from another's weights, or see images of two sizes, are trained in this way alone.
"""

import dataclasses
import importlib
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apps import flags, pretrain, pretrain_arrays
from apps.benchmarks import bundled_page, cases, cell, methods, peers, records, trained
from finetune_kit import checks, console, data
from finetune_kit.backbones import card, catalogue
from finetune_kit.results import files
from recipes import settings

FRACTALS, TEXTURES = "fractals:200x100", "textures:300x100"
CHARACTERS = "characters:95x200"
MORE_FRACTALS, MORE_TEXTURES = "fractals:400x60", "textures:800x50"
ROTATION = 0.3  # share of the loss that asks how far an image is turned
# Several networks share a GPU that small batches would leave idle; the rate goes with the batch.
BATCH_SIZE, LEARNING_RATE = 256, 3e-3
# Networks that go on take half of both, since they are trained. More images than `--images_shown`:
FURTHER_SHOWN, TWO_SIZES_SHOWN = 2_000_000, 4_000_000
LARGER = 64  # pixels of the larger of two sizes; half of the steps see half of it


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a network is trained on, and how.

    Attributes:
        photos: Whether photos are added.
        drawn: Sources that are drawn from formulas.
        alone: Whether these are all there is.
        rotation: Share of the loss that asks how far an image is turned.
        augment: Strength of the augmentation.
        label_smoothing: Share of each label that is spread over all classes; it costs transfer
            (Kornblith et al., 2021, "Why Do Better Loss Functions Lead to Less Transferable
            Features?", section 3).
        two_sizes: Whether images are seen at 64 px and at half of it, and not at 32 px alone.
        begins_with: The mixture whose network goes on with these images; "" begins anew.
    """

    photos: bool = False
    drawn: tuple[str, ...] = ()
    alone: bool = False
    rotation: float = 0.0
    augment: str = "light"
    label_smoothing: float = 0.0
    two_sizes: bool = False
    begins_with: str = ""

    @property
    def images(self) -> str:
        """The name of the images alone, which mixtures that train otherwise share."""
        more = {MORE_FRACTALS, MORE_TEXTURES} & set(self.drawn)
        named = {"source": not self.alone, "photos": self.photos,
                 **{source.partition(":")[0]: True for source in self.drawn},
                 "more classes": bool(more), f"{LARGER} px": self.two_sizes}  # fmt: skip
        return ", ".join(name for name, is_there in named.items() if is_there)

    @property
    def further(self) -> int:
        """How many images its network is shown in all, beyond `--images_shown`."""
        return FURTHER_SHOWN if self.begins_with else self.two_sizes * TWO_SIZES_SHOWN

    @property
    def on_arrays(self) -> bool:
        """Whether only `pretrain-arrays` can train its network."""
        return bool(self.begins_with) or self.two_sizes

    def sources(self, source: str, photos: str) -> tuple[str, ...]:
        """Returns what to train on, the source that is scored on first."""
        if self.alone:
            return self.drawn
        return (source, *((photos,) if self.photos else ()), *self.drawn)


_AT_TWO_SIZES = Mixture(augment="medium", two_sizes=True)
# The first is the mark.
MIXTURES = {
    "source": Mixture(),
    "source, rotation": Mixture(rotation=ROTATION),
    "source, fractals": Mixture(drawn=(FRACTALS,)),
    "source, fractals, rotation": Mixture(drawn=(FRACTALS,), rotation=ROTATION),
    "source, photos": Mixture(photos=True),
    "source, photos, fractals": Mixture(photos=True, drawn=(FRACTALS,)),
    "fractals": Mixture(drawn=(FRACTALS,), alone=True),
    "source, medium views": Mixture(augment="medium"),
    "source, fractals, rotation, medium views": Mixture(
        drawn=(FRACTALS,), rotation=ROTATION, augment="medium"
    ),
    "source, smoothed labels": Mixture(label_smoothing=0.1),
    "source, fractals, rotation, medium views, then textures": Mixture(
        drawn=(FRACTALS, TEXTURES),
        augment="medium",
        begins_with="source, fractals, rotation, medium views",
    ),
    "source, fractals, textures, medium views, two sizes": dataclasses.replace(
        _AT_TWO_SIZES, drawn=(FRACTALS, TEXTURES)
    ),
    "source, fractals, textures, characters, medium views, two sizes": dataclasses.replace(
        _AT_TWO_SIZES, drawn=(FRACTALS, TEXTURES, CHARACTERS)
    ),
    "source, fractals, textures, characters, more classes, medium views, two sizes": (
        dataclasses.replace(_AT_TWO_SIZES, drawn=(MORE_FRACTALS, MORE_TEXTURES, CHARACTERS))
    ),
}
RECIPES = ("head_only", "probe_then_finetune")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark bundled`."""

    source: str = settings.option(
        "Source images, as `pretrain` takes them; empty only writes the page from the rows.", ""
    )
    photos: str = settings.option("Further photos, which some mixtures have.", "")
    data_dir: str = settings.option("Where TensorFlow Datasets keeps its data sets.", "")
    data_root: str = settings.option("Folder of the sets, each a folder.", "")
    sets: str = settings.option("Names of sets that no mixture has, with commas; empty is all.", "")
    elsewhere: str = settings.option(
        "Folder of networks that another machine trains; empty trains them here.", ""
    )
    images_shown: int = settings.option("Images that each network is trained on.", 240_000, low=1)
    per_class: str = settings.option("Labelled images a class, with commas.", "5,50")
    seeds: int = settings.option("Draws of the images.", 1, low=1)
    rows: str = settings.option("Where finished pieces are kept.", "docs/results/bundled.jsonl")
    output: str = settings.option("The page.", "docs/bundled-backbone.md")
    workdir: str = settings.option("Where networks and images go.", "runs/bundled")

    def __post_init__(self) -> None:
        settings.check_options(self)
        for number in numbers(self.per_class):
            checks.in_range("per_class", number, 2)
        if not self.source:
            if self.elsewhere:
                raise checks.ConfigError("--elsewhere needs --source. Received: source=''")
            return
        for source in filter(None, (self.source, self.photos)):
            data.check_source(source, self.data_dir or None)
        known = cases.sets_in(self.data_root)
        for name in self.names:
            checks.one_of("sets", name, known)
            place = pathlib.Path(self.data_root) / name
            if self.photos and place.resolve() == pathlib.Path(self.photos).resolve():
                raise checks.ConfigError(
                    "The sets must be ones that no network has seen. Received: "
                    f"photos={self.photos!r}, which is one of them. Name the others by --sets."
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The sets to judge by."""
        return cell.listed(self.sets) or cases.sets_in(self.data_root)

    @property
    def mixtures(self) -> tuple[str, ...]:
        """The mixtures that there are sources and, to go on from, weights of."""
        return tuple(
            name for name, own in MIXTURES.items()
            if (self.photos or not own.photos) and (self.elsewhere or not own.on_arrays)
        )  # fmt: skip

    def shown(self, mixture: str) -> int:
        """Returns how many images the network of a mixture has been trained on in all."""
        return self.images_shown + MIXTURES[mixture].further


def main(argv: list[str]) -> int:
    """Trains and judges what has no row, and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark bundled")
    flags.refuse_words("benchmark bundled", words)
    if config.elsewhere and (left := _untrained(config)):
        _prepare(config, left)
        return 0
    if config.source:
        measure(config)
    write_page(config.output, tried=config.rows)
    return 0


def write_page(output: str, *, tried: str = "", scratch: str = "") -> None:
    """Writes the page from the rows of both suites, those in `results/` beside it unless named."""
    from apps.benchmarks import scratch as suite
    from finetune_kit.backbones import network

    page = pathlib.Path(output)
    rows = records.load_lines(tried or page.parent / "results" / "bundled.jsonl")
    against = records.load_lines(scratch or page.parent / "results" / "scratch.jsonl")
    own, further = card.read(network.FILES), card.further(network.FILES)
    text = bundled_page.page(rows, own, suite.section(against), further)
    page.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(page, text)
    console.say(f"page  {page}")


def numbers(text: str) -> tuple[int, ...]:
    """Returns the numbers in `5,20`.

    Raises:
        ConfigError: Something else.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise checks.ConfigError(
            "per_class must be numbers with commas. " + checks.received(per_class=text)
        ) from None


def measure(config: Config) -> None:
    """Adds a row for every network, and for every cell that it is judged by."""
    done = {_key(row) for row in records.load_lines(config.rows)}
    cells = list(_cells(config))
    with console.progress("Networks", len(config.mixtures)) as bar:
        for mixture in config.mixtures:
            weights, row = _pretrained(config, mixture)
            if _key(row) not in done:
                records.append_lines(config.rows, [{**row, **records.stamp()}])
            for one in cells:
                base = {"mixture": mixture, "images_shown": config.shown(mixture), **one}
                left = [name for name in RECIPES if _key({**base, "recipe": name}) not in done]
                for found in _judged(config, weights, one, left):
                    records.append_lines(config.rows, [{**base, **found, **records.stamp()}])
            bar.advance()


def _words(mixture: str) -> list[str]:
    """Returns the flags that `pretrain` and `pretrain-arrays` share."""
    own = MIXTURES[mixture]
    part = 2 if own.begins_with else 1
    return [
        f"--rotation={own.rotation}", f"--augment={own.augment}",
        f"--label_smoothing={own.label_smoothing}", f"--batch_size={BATCH_SIZE // part}",
        f"--learning_rate={LEARNING_RATE / part}",
    ]  # fmt: skip


def _on_arrays(config: Config, mixture: str) -> list[str]:
    """Returns the flags of `pretrain-arrays` alone."""
    own, words = MIXTURES[mixture], []
    if own.begins_with:
        words += [f"--weights={_weights_elsewhere(config, own.begins_with).name}"]
    if own.two_sizes:
        words += ["--halved=0.5"]
    return [*words, "--precision=mixed_bfloat16"] if own.on_arrays else words


def _sources(config: Config, mixture: str) -> list[str]:
    own = MIXTURES[mixture]
    first, *others = own.sources(config.source, config.photos)
    return [f"--data={first}", f"--also={','.join(others)}", f"--data_dir={config.data_dir}",
            *([f"--image_size={LARGER}"] if own.two_sizes else [])]  # fmt: skip


def _weights_elsewhere(config: Config, mixture: str) -> pathlib.Path:
    return pathlib.Path(config.elsewhere) / f"{bundled_page.slug(mixture)}{pretrain_arrays.SUFFIX}"


def _untrained(config: Config) -> list[str]:
    return [name for name in config.mixtures if not _weights_elsewhere(config, name).is_file()]


def _prepare(config: Config, mixtures: Sequence[str]) -> None:
    """Leaves images and the script that trains on them."""
    folder = pathlib.Path(config.elsewhere)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["set -e", "export KERAS_BACKEND=jax"]
    with console.progress("Mixtures", len(mixtures)) as bar:
        for mixture in mixtures:
            # Mixtures of the same images share them.
            arrays = folder / f"{bundled_page.slug(MIXTURES[mixture].images)}.npz"
            if not arrays.exists():
                words = [*_sources(config, mixture), f"--arrays={arrays}"]
                peers.call([*methods.KIT, "pretrain", *words])
            images = len(pretrain_arrays.read(str(arrays))[1])
            before = MIXTURES[mixture].begins_with
            new = config.shown(mixture) - (config.shown(before) if before else 0)
            command = ["finetune-kit", "pretrain-arrays", "--resume",
                       f"--epochs={max(1, round(new / images))}",
                       f"--arrays={arrays.name}", *_words(mixture), *_on_arrays(config, mixture),
                       f"--output={_weights_elsewhere(config, mixture).name}"]  # fmt: skip
            lines.append(shlex.join(command))
            bar.advance()
    script = folder / "train.sh"
    files.write_text(script, "\n".join(lines) + "\n")
    console.say(f"run in a copy of {folder}, then bring the weights back: sh {script.name}")


def _pretrained(config: Config, mixture: str) -> tuple[pathlib.Path, dict[str, Any]]:
    """Trains the network of a mixture unless it has been, and returns its weights and its row."""
    row = {"mixture": mixture, "images_shown": config.shown(mixture), "data": "source"}
    if config.elsewhere:
        return _weights_elsewhere(config, mixture), {**row, "trained": "arrays"}
    workdir = pathlib.Path(config.workdir) / f"{bundled_page.slug(mixture)}-{config.images_shown}"
    folder = workdir / pretrain.FOLDER
    if card.read(folder) is None:
        words = [
            *_sources(config, mixture), *_words(mixture),
            f"--images_shown={config.images_shown}", f"--workdir={workdir}",
            "--resume" if workdir.is_dir() else "--noresume",
        ]  # fmt: skip
        peers.call([*methods.KIT, "pretrain", *words])
    made = card.read(folder)
    if made is None:
        raise checks.WeightsError(f"pretrain must leave a card. Received: none in {str(folder)!r}")
    own = made.accuracy["value"]
    return folder / pretrain.WEIGHTS, {**row, "trained": "images", "accuracy": own}


def _cells(config: Config) -> Iterator[dict[str, Any]]:
    """Yields what the networks are judged by, the first draw first."""
    for seed in range(config.seeds):
        for per_class in numbers(config.per_class):
            for name in config.names:
                yield {"data": name, "per_class": per_class, "seed": seed}


def _judged(
    config: Config, weights: pathlib.Path, one: Mapping[str, Any], recipes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yields the accuracy of each recipe on development images of a set."""
    from recipes import loading

    name, per_class, seed = one["data"], one["per_class"], one["seed"]
    case = cases.develop(pathlib.Path(config.data_root) / name, per_class=per_class, seed=seed)
    folder = pathlib.Path(config.workdir) / "cases" / f"{name}-{per_class}-{seed}-{case.digest}"
    for recipe in recipes:
        method = importlib.import_module(f"recipes.{recipe}")
        settled = method.Config(
            data=str(cases.write(case, folder)), workdir="unused", per_class=per_class,
            cross_validate=False, seed=seed, backbone=catalogue.BUNDLED, weights=str(weights),
        )  # fmt: skip
        yield {"recipe": recipe, **trained.score(method, loading.load(settled))}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("mixture", "images_shown", "data", "per_class", "seed", "recipe")
    return tuple(row.get(name) for name in names)
