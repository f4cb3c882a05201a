"""Trains the bundled backbone, or one of your own, from random weights; writes its source card.

finetune-kit pretrain --data=tfds:cifar10 --workdir=runs/pretrain
finetune-kit pretrain --data=tfds:cifar10 --workdir=runs/own '--backbone=spec:32-32|64-64|128'

What it leaves in `<workdir>/bundled` is what the package ships in `finetune_kit/backbones/bundled`;
of another network, `<workdir>/backbone` holds what --weights and --source_card take.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps import flags, pretrain_arrays
from finetune_kit import checks, console, data
from finetune_kit.backbones import catalogue
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.backbones import Backbone, Classifier, SourceCard
    from finetune_kit.data import ImageData, Split
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training import Companion

WEIGHTS = "bundled.weights.h5"
FOLDER = "bundled"
# Settings that say nothing of how weights were made: places, and of weights that `pretrain-arrays`
# has trained, all that decides how to train.
PLACES = ("workdir", "data_dir", "terms", "overwrite", "resume")
TRAINING = {field.name for field in dataclasses.fields(pretrain_arrays.Training)} - {
    "backbone", "seed"
} | {"images_shown"}  # fmt: skip
OWN_FOLDER, OWN_WEIGHTS, OWN_CARD = "backbone", "backbone.weights.h5", "card.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """What is trained on, and where things are; a base of `Config`, so that these come first."""

    data: str = settings.option(
        "Source images: a folder, a .csv manifest, tfds:NAME, or drawn by fractals:CLASSESxIMAGES, "
        "textures:CLASSESxIMAGES or characters:CLASSESxIMAGES.",
        "",
    )
    also: str = settings.option("Further sources, with commas; their classes are added.", "")
    workdir: str = settings.option("Where weights, card and logs go; new or empty.", "")
    data_dir: str = settings.option("Where TensorFlow Datasets keeps its data sets.", "")
    terms: str = settings.option("Terms of use of the source images, for the card.", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(pretrain_arrays.Training, Sources):
    """Flags of `finetune-kit pretrain`.

    Raises:
        ConfigError, DataError: A value that its field does not allow.
    """

    backbone_args: str = settings.option("Arguments of the network, as in any_filters=True.", "")
    image_size: int = settings.option("Side of the input in pixels.", 32, low=32, high=128)
    validation_fraction: float = settings.option(
        "Share of the training images that chooses the best epoch.", 0.05, low=0.01, high=0.5
    )
    images_shown: int = settings.option(
        "Images shown in all, in whole passes, in the place of --epochs; 0 is by epochs.", 0, low=0
    )
    overwrite: bool = settings.option("Delete what an earlier run left in workdir.", False)
    resume: bool = settings.option("Go on with the interrupted run in workdir.", False)
    arrays: str = settings.option(
        "Write the images to train on to this .npz file, for `pretrain-arrays`, and end.", ""
    )
    weights: str = settings.option(
        "Weights that `pretrain-arrays` has trained: their card is written, nothing is trained.", ""
    )

    def __post_init__(self) -> None:
        settings.check_options(self)
        for name in ("data",) if self.arrays else ("data", "workdir"):
            if not getattr(self, name):
                raise checks.ConfigError(f"pretrain needs --{name}. Received: {name}=''")
        if self.arrays:
            pretrain_arrays.refuse_place("arrays", self.arrays, ".npz")
        settings.check_weights(self.weights)
        catalogue.image_size(self.backbone, self.image_size)
        catalogue.check_arguments(self.backbone, settings.arguments(self.backbone_args))
        for source in self.sources:
            data.check_source(source, self.data_dir or None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Where the images come from, the source that is scored on first."""
        return (self.data, *(name.strip() for name in self.also.split(",") if name.strip()))

    @property
    def folder(self) -> pathlib.Path:
        """Where weights and card go."""
        is_bundled = catalogue.canonical(self.backbone) == catalogue.BUNDLED
        return pathlib.Path(self.workdir) / (FOLDER if is_bundled else OWN_FOLDER)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="pretrain")
    flags.refuse_words("pretrain", words)
    if config.arrays:
        images = _images(config).train
        command = flags.as_command("pretrain", config, files=["arrays"], left_out=PLACES)
        pixels = images.store.batch(images.indices)
        pretrain_arrays.write(config.arrays, pixels, images.labels, command)
        console.say(f"{len(images):,} images  {config.arrays}")
        return 0
    card = run(config)
    console.say(
        f"test accuracy {card.accuracy['value']:.1%} [{card.accuracy['low']:.1%}, "
        f"{card.accuracy['high']:.1%}], n = {card.accuracy['n']}"
    )
    console.say(f"weights and card  {config.folder}")
    return 0


def run(config: Config) -> "SourceCard":
    """Trains, scores the test split once, and writes weights and card.

    Raises:
        KitError: Whatever is wrong with the images or the directory; one line each.
    """
    from finetune_kit import backbones, results, training

    results.refuse_used(config.workdir, overwrite=config.overwrite, resume=config.resume)
    images = _images(config)
    folder = results.prepare(config.workdir, overwrite=config.overwrite, resume=config.resume)
    backbone = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights=config.weights or "none",
        arguments=settings.arguments(config.backbone_args),
        seed=config.seed,
    )
    classifier = backbones.attach_head(backbone, images.num_classes, seed=config.seed)
    if config.weights:
        training.re_estimate(classifier, images.train, seed=config.seed)
    training.run(
        classifier,
        (_phase(config, classifier.groups, len(images.train)),),
        _of_the_first(config, images) if config.weights else images,
        training.Options(
            weight_decay=config.weight_decay,
            label_smoothing=config.label_smoothing,
            batch_size=config.batch_size,
            seed=config.seed,
        ),
        tensorboard_dir=folder / results.TENSORBOARD,
        checkpoints=training.CheckpointStore(folder / results.CHECKPOINTS),
        resume=config.resume,
        identity=_identity(config, images),
        companion=_rotation(config, classifier, images.train) if config.rotation else None,
    )
    if not config.weights:
        # Those of training are an average over steps in which the weights still moved.
        training.re_estimate(classifier, images.train, seed=config.seed)
    card = describe(config, classifier, images)
    _leave(config, backbone, card)
    return card


def _phase(config: Config, groups: "Sequence[str]", images: int) -> "Phase":
    """Returns what trains: everything, or of weights that have been trained the head alone."""
    from finetune_kit import strategy

    if config.weights:
        return strategy.probe(groups)
    shown = config.images_shown
    epochs = max(1, round(shown / images)) if shown else config.epochs
    tuning = strategy.Tuning(
        learning_rate=config.learning_rate,
        epochs=epochs,
        schedule=strategy.Schedule("cosine", warmup_epochs=min(1.0, epochs / 2)),
        batch_norm="trainable",
        augment=config.augment,
    )
    return strategy.everything(groups, tuning, name="from_scratch")


def _rotation(config: Config, classifier: "Classifier", train: "Split") -> "Companion":
    """Returns a second task for every image: to tell how far it is turned."""
    import numpy as np

    from finetune_kit import training
    from finetune_kit.data import rotation

    own = np.arange(len(train))
    return training.Companion(
        images=rotation.rotations(train),
        num_classes=rotation.TURNS,
        places=train.indices,
        neighbours=rotation.TURNS * own[:, None] + np.arange(rotation.TURNS),
        weight=config.rotation,
        kernel=np.zeros((classifier.features.output_shape[-1], rotation.TURNS), np.float32),
        bias=np.zeros(rotation.TURNS, np.float32),
        fingerprint="rotations",
    )


def _leave(config: Config, backbone: "Backbone", card: "SourceCard") -> None:
    """Writes weights and card: as the package ships them, or as the flags take them."""
    from finetune_kit import backbones

    config.folder.mkdir(exist_ok=True)
    if config.folder.name == FOLDER:
        backbone.model.save_weights(config.folder / WEIGHTS)
        backbones.card.write(card, config.folder)
    else:
        backbone.model.save_weights(config.folder / OWN_WEIGHTS)
        backbones.card.write_file(card, config.folder / OWN_CARD)


def _images(config: Config) -> "ImageData":
    with console.progress("Decoding") as bar:
        return data.load(
            config.sources,
            image_size=config.image_size,
            data_dir=config.data_dir or None,
            seed=config.seed,
            validation_fraction=config.validation_fraction,
            progress=bar.advance,
        )


def describe(config: Config, classifier: "Classifier", images: "ImageData") -> "SourceCard":
    """Returns the source card of a trained network.

    It is the card of the first source: of its classes and its images alone.
    What is added to train better, as fractals are, is not what a target could resemble. Moments and
    feature statistics are over train, rows of features and the null distribution from the test
    split.

    Args:
        config: What made the weights.
        classifier: The trained network.
        images: The source images, with a test split.
    """
    import numpy as np

    from finetune_kit import backbones, features, metrics, similarity

    if images.test is None:
        raise checks.DataError("A source card needs a test split. Received: none")
    first = _of_the_first(config, images)
    own, test, classes = first.train, first.test, np.unique(first.train.labels)
    guesses = classes[features.predict(classifier, test)[:, classes].argmax(axis=1)]
    right = int((guesses == test.labels).sum())
    accuracy = metrics.wilson(right, len(test)).to_dict() | {"n": len(test)}
    backbone = classifier.backbone
    observer = similarity.Observer(backbone)
    measured = similarity.describing.statistics(
        backbones.find_taps(backbone.model, backbone.stages),
        observer.observe(own),
        np.searchsorted(classes, own.labels),
        num_classes=len(classes),
        held_out=observer.observe(test),
        seed=config.seed,
    )
    counts = ", ".join(f"{len(split):,} {name}" for name, split in images.splits().items())
    return backbones.SourceCard(
        trained_on=f"{images.name} ({counts} images)",
        terms=config.terms,
        class_names=tuple(images.class_names[label] for label in classes),
        image_size=config.image_size,
        accuracy=accuracy,
        recipe=_recipe(config),
        **measured,
    )


def _of_the_first(config: Config, images: "ImageData") -> "ImageData":
    """Returns the images of the first source alone, with their labels; see `mixture.joined`."""
    if len(config.sources) == 1:
        return images
    splits = {
        name: split.take([i for i, one in enumerate(split.names) if one.startswith("0/")])
        for name, split in images.splits().items()
    }
    return dataclasses.replace(images, **splits)


def _recipe(config: Config) -> dict[str, Any]:
    """Returns the command, without places of one machine, and every setting that had a part."""
    idle = (*PLACES, "arrays", *(TRAINING if config.weights else ()))
    made = {k: v for k, v in dataclasses.asdict(config).items() if k not in idle}
    kept = dataclasses.replace(
        config, workdir="runs/pretrain", data_dir="", terms="", overwrite=False, resume=False
    )
    command = flags.as_command("pretrain", kept, files=["weights"])
    recipe = {"command": command, **made, "weights": pathlib.Path(config.weights).name}
    trained = pretrain_arrays.recorded(config.weights)
    return {**recipe, "trained": trained} if trained else recipe


def _identity(config: Config, images: "ImageData") -> dict[str, Any]:
    return {**_recipe(config), "fingerprint": images.fingerprint}


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("pretrain"))
