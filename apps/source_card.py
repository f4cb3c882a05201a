"""Writes what a network sees of its source, so that images can be compared with it.

finetune-kit source-card --backbone=vgg16 --data=imagenet_sample --output=vgg16.npz
finetune-kit finetune auto --backbone=vgg16 --source_card=vgg16.npz --data=photos --workdir=runs/1

A few hundred images of the source are enough. Networks with BatchNorm remember theirs, and need no
card; one makes the comparison sharper, and adds what chance shows and the distance of the features.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from apps import flags
from finetune_kit import checks, console, data
from finetune_kit.backbones import catalogue
from finetune_kit.data import audit, folder, listing, sizes, store, types
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.backbones import Backbone, SourceCard
    from finetune_kit.data import Pool

MIN_IMAGES = 40  # of a half of which two samples of 10, the smallest null distribution, can differ
SUFFIX = ".npz"
CACHE_MB, MAX_BAD = 2048, 0.01  # as `data.load` has them


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images of the source.

    Attributes:
        name: The source as the user gave it.
        images: Those that are looked at.
        class_names: C names; empty without labels.
        listed: Images that the source offers.
    """

    name: str
    images: "types.Split"
    class_names: tuple[str, ...]
    listed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit source-card`.

    Raises:
        ConfigError, DataError, WeightsError: A value that its field does not allow.
    """

    data: str = settings.option("Source images: a folder, a .csv manifest, or tfds:NAME.", "")
    output: str = settings.option("File for the card, ending in .npz.", "")
    data_dir: str = settings.option("Where TensorFlow Datasets keeps its data sets.", "")
    limit: int = settings.option("Most images that are looked at; 0 is all.", 2000, low=0)
    terms: str = settings.option("Terms of use of the source images.", "")
    backbone: str = settings.option("Network; `finetune-kit backbones` lists all.", "bundled")
    weights: str = settings.option(
        "imagenet or a weights file; empty is the bundled file, or imagenet.", ""
    )
    preprocessing: str = settings.option(
        "What a .keras or hub: model expects; empty is raw values from 0 to 255, or its own.", "",
        choices=("", *catalogue.PREPROCESSING),
    )  # fmt: skip
    backbone_args: str = settings.option("Arguments of the network, as in alpha=0.25.", "")
    image_size: sizes.Size = settings.size_option()
    seed: int = settings.option("Decides who is in the sample and in its halves.", 0, low=0)
    overwrite: bool = settings.option("Replace a file that is there.", False)

    def __post_init__(self) -> None:
        settings.check_options(self)
        for name in ("data", "output"):
            if not getattr(self, name):
                raise checks.ConfigError(f"source-card needs --{name}. Received: {name}=''")
        if not self.output.endswith(SUFFIX):
            raise checks.ConfigError(
                f"--output must end in {SUFFIX}. " + checks.received(output=self.output)
            )
        if os.path.exists(self.output) and not self.overwrite:
            raise checks.ConfigError(
                f"--output must not exist. Received: {self.output!r}, which does. Choose another, "
                "or --overwrite."
            )
        if self.weights == "none":
            raise checks.WeightsError(
                "A source card needs trained weights. Received: weights='none'"
            )
        catalogue.check_arguments(self.backbone, settings.arguments(self.backbone_args))
        catalogue.image_size(self.backbone, self.image_size)
        catalogue.refuse_unfit(
            self.backbone, weights=self.weights, preprocessing=self.preprocessing
        )
        if not _is_flat(self.data):
            data.check_source(self.data, self.data_dir or None)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="source-card")
    flags.refuse_words("source-card", words)
    card = run(config)
    console.say(f"{len(card.moments)} taps, {card.feature_mean.size} features, {card.trained_on}")
    console.say(f"card  {config.output}")
    return 0


def run(config: Config) -> "SourceCard":
    """Looks at the images once and writes the card.

    Raises:
        KitError: Whatever is wrong with images, weights or the file; one line each.
    """
    from finetune_kit import backbones
    from finetune_kit.results import files
    from recipes import loading

    size = catalogue.image_size(config.backbone, config.image_size)
    sample = _sample(config, size)
    backbone = backbones.load(
        config.backbone,
        image_size=size,
        weights=config.weights,
        arguments=settings.arguments(config.backbone_args),
        seed=config.seed,
        preprocessing=config.preprocessing,
    )
    loading.say_keys(backbone)
    card = describe(config, backbone, sample)
    with files.replacing(config.output, suffix=SUFFIX) as temporary:
        backbones.card.write_file(card, temporary)
    return card


def describe(config: Config, backbone: "Backbone", sample: "Sample") -> "SourceCard":
    """Returns the card of a network, as it stands, over a sample of its source."""
    from finetune_kit import backbones, similarity

    with console.progress("Looking", len(sample.images)) as bar:
        seen = similarity.observe(backbone, sample.images, progress=bar.advance)
    labelled = bool(sample.class_names)
    measured = similarity.describing.statistics(
        backbones.find_taps(backbone.model, backbone.stages),
        seen,
        sample.images.labels if labelled else None,
        num_classes=len(sample.class_names),
        seed=config.seed,
    )
    return backbones.SourceCard(
        trained_on=f"{sample.name} ({len(sample.images):,} of {sample.listed:,} images)",
        terms=config.terms,
        class_names=sample.class_names,
        image_size=backbone.image_size,
        accuracy={},
        recipe=_recipe(config),
        **measured,
    )


def _sample(config: Config, size: sizes.Size) -> Sample:
    with console.progress("Decoding") as bar:
        if _is_flat(config.data):
            sample = _unlabelled(config, size, bar.advance)
        else:
            pool = data.load_pool(
                config.data,
                image_size=size,
                limit=config.limit,
                data_dir=config.data_dir or None,
                seed=config.seed,
                progress=bar.advance,
            )
            sample = Sample(pool.name, pool.images, _present(pool), pool.listed)
    if len(sample.images) < MIN_IMAGES:
        raise checks.DataError(
            f"A source card needs at least {MIN_IMAGES} images. "
            + checks.received(data=config.data, images=len(sample.images))
        )
    return sample


def _present(pool: "Pool") -> tuple[str, ...]:
    """Returns the class names, or none if a class has no image in the sample."""
    counts = pool.images.counts(len(pool.class_names))
    return pool.class_names if counts.all() else ()


def _is_flat(source: str) -> bool:
    """Returns whether a source is a folder without folders, so that its images have no labels."""
    if not os.path.isdir(source):
        return False
    return not any(x.is_dir() and not x.name.startswith(".") for x in os.scandir(source))


def _unlabelled(config: Config, size: sizes.Size, progress: Callable[[int], None]) -> Sample:
    names = [x.name for x in os.scandir(config.data) if x.name.lower().endswith(folder.SUFFIXES)]
    listed = len(names)
    order = np.random.default_rng(config.seed).permutation(listed)
    names = [listing.natural(names)[i] for i in np.sort(order[: config.limit or listed])]
    n = len(names)
    reader = folder.FileReader(tuple(os.path.join(config.data, name) for name in names))
    found = listing.Listing(tuple(names), ("",) * n, ("",) * n, reader, ("",))
    decoded = audit.decode_all(found, size, cache_mb=CACHE_MB, progress=progress)
    audit.refuse_bad(decoded.bad, n, MAX_BAD)
    pixels = store.PixelStore(reader, size, cache=decoded.cache)
    images = types.Split(pixels, np.arange(n), np.zeros(n, np.int64), found.names)
    return Sample(config.data, images.take(decoded.good), (), listed)


def _recipe(config: Config) -> dict[str, Any]:
    """Returns the command, without places of one machine, and every setting."""
    hidden = ("output", "data_dir", "terms", "overwrite")
    words = [w for w in flags.as_words(config) if w.lstrip("-").partition("=")[0] not in hidden]
    command = ["finetune-kit", "source-card", *words, f"--output=card{SUFFIX}"]
    made = dataclasses.asdict(config)
    return {
        "command": shlex.join(command),
        **{name: value for name, value in made.items() if name not in hidden},
    }


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("source-card"))
