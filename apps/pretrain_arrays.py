"""Trains the bundled backbone on arrays, where there is no TensorFlow: the middle of three steps.

finetune-kit pretrain --data=tfds:cifar10 --arrays=source.npz
KERAS_BACKEND=jax finetune-kit pretrain-arrays --arrays=source.npz --output=net.weights.h5
finetune-kit pretrain --data=tfds:cifar10 --weights=net.weights.h5 --workdir=runs/pretrain

The first writes the images, the last measures BatchNorm's statistics and writes the source card.
An interrupted run goes on with --resume; a finished one, on other images, with --weights. Beside
the weights, net.json says how they were trained; the card tells it.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from apps import flags
from finetune_kit import checks, console
from finetune_kit.backbones import catalogue
from recipes import settings

if TYPE_CHECKING:
    import keras

SUFFIX = ".weights.h5"
BACKUP = ".backup"  # behind the name of the output: the folder that a run goes on from
IDENTITY = "run.json"  # therein: what a run must share with it
AUGMENTATIONS = ("none", "shift", "light", "medium")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What both ways to train, on images and on arrays, are told."""

    backbone: str = settings.option(
        "Network; a specification, as in spec:32-32|64, is one of your own.", catalogue.BUNDLED
    )
    epochs: int = settings.option("Passes over the images.", 24, low=1)
    learning_rate: float = settings.option("Peak learning rate.", 2e-3, low=1e-6, high=1.0)
    weight_decay: float = settings.option("Decoupled weight decay.", 0.05, low=0.0, high=1.0)
    label_smoothing: float = settings.option(
        "Share of each label that is spread over all classes.", 0.1, low=0.0, high=0.9
    )
    batch_size: int = settings.option("Images a step.", 64, low=1)
    augment: str = settings.option(
        "Strength of the augmentation.", "light", choices=settings.AUGMENTATIONS
    )
    rotation: float = settings.option(
        "Share of the loss that asks how far an image is turned; 0 does not ask.", 0.0,
        low=0.0, high=0.9,
    )  # fmt: skip
    seed: int = settings.option("Decides weights, splits, order and augmentation.", 0, low=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """What is read and written; a base of `Config`, so that these flags come first."""

    arrays: str = settings.option("Images to train on, as `pretrain --arrays` writes them.", "")
    output: str = settings.option(f"File for the weights, ending in {SUFFIX}; new.", "")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Training, Files):
    """Flags of `finetune-kit pretrain-arrays`.

    Raises:
        ConfigError, DataError: A value that its field does not allow.
    """

    augment: str = settings.option("Strength of the augmentation.", "light", choices=AUGMENTATIONS)
    weights: str = settings.option("Weights to begin with; empty are random ones.", "")
    precision: str = settings.option(
        "Numbers to compute with.", "float32", choices=catalogue.PRECISIONS[:2]
    )
    halved: float = settings.option(
        "Share of the steps that see the images at half their side.", 0.0, low=0.0, high=1.0
    )
    resume: bool = settings.option("Go on with the interrupted run that left a backup.", False)

    def __post_init__(self) -> None:
        settings.check_options(self)
        if self.weights and not self.weights.endswith(SUFFIX):
            raise checks.ConfigError(
                f"--weights must end in {SUFFIX}, as what this command has left does. "
                + checks.received(weights=self.weights)
            )
        settings.check_weights(self.weights)
        if not pathlib.Path(self.arrays).is_file():
            raise checks.DataError(
                f"--arrays needs a file. Received: arrays={self.arrays!r}, which is none."
            )
        refuse_place("output", self.output, SUFFIX)
        if self.backbone != catalogue.BUNDLED and not catalogue.is_specified(self.backbone):
            raise checks.ConfigError(
                f"--backbone must be {catalogue.BUNDLED} or a specification. "
                + checks.received(backbone=self.backbone)
            )
        if self.backup.exists() and not self.resume:
            raise checks.ConfigError(
                "An interrupted run has left its backup; --resume goes on with it. "
                f"Received: {str(self.backup)!r}"
            )

    @property
    def backup(self) -> pathlib.Path:
        """The folder that an interrupted run goes on from."""
        return pathlib.Path(self.output + BACKUP)


def refuse_place(name: str, path: str, suffix: str) -> None:
    """Raises `ConfigError` unless a new file can be made there: training takes long."""
    file = pathlib.Path(path)
    if not path.endswith(suffix) or file.exists() or not file.parent.is_dir():
        raise checks.ConfigError(
            f"--{name} must end in {suffix}, in a folder that exists, and not exist itself. "
            f"Received: {name}={path!r}"
        )


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="pretrain-arrays")
    flags.refuse_words("pretrain-arrays", words)
    run(config)
    console.say(f"weights  {config.output}")
    return 0


def run(config: Config) -> None:
    """Trains and writes the weights.

    Raises:
        DataError: The file holds no images and labels.
    """
    from finetune_kit.data import levels
    from finetune_kit.training import on_arrays

    images, labels = read(config.arrays)
    if config.halved:
        _refuse_halving(config, images.shape[1])
    made = _made(config, len(labels))  # files may be gone when hours of training are over
    backbone = _backbone(config, images.shape[1])
    _claim(config, images, labels)
    settled = on_arrays.Settings(
        level=levels.LEVELS[config.augment],
        **{field.name: getattr(config, field.name)
           for field in dataclasses.fields(on_arrays.Settings) if field.name != "level"},
    )  # fmt: skip
    with console.progress("Epochs", config.epochs) as bar:
        on_arrays.train(
            backbone, images, labels, settled,
            backup=config.backup,
            after=lambda epochs, row: bar.advance(
                epochs, loss=row["loss"], accuracy=row["accuracy"]
            ),
        )  # fmt: skip
    backbone.save_weights(config.output)
    record(config.output).write_text(json.dumps(made, indent=1), "utf-8")
    shutil.rmtree(config.backup)


def _refuse_halving(config: Config, side: int) -> None:
    """Raises `DataError` unless the network takes images of half a side."""
    from finetune_kit.backbones import specification

    least = 2 * specification.least_side(specification.parse(_line(config)))
    if side % 2 or side < least:
        raise checks.DataError(
            f"--halved needs images of an even side of at least {least} px. "
            + checks.received(halved=config.halved, side=side)
        )


def _line(config: Config) -> str:
    """Returns the specification of the network."""
    from finetune_kit.backbones import network, specification

    is_bundled = config.backbone == catalogue.BUNDLED
    return (
        network.SPECIFICATION if is_bundled else config.backbone.removeprefix(specification.PREFIX)
    )


def _backbone(config: Config, side: int) -> "keras.Model":
    """Returns the network, with random weights or those to begin with.

    Raises:
        WeightsError: Those are of another network.
    """
    import keras

    from finetune_kit.backbones import building, loading, weights

    keras.utils.set_random_seed(config.seed)
    with loading.dtype_policy(config.precision):
        # Its name has no part in its weights.
        backbone = building.build(_line(config), side, name="bundled")
    if config.weights:
        weights.load_weights(backbone, config.weights)
    return backbone


def record(weights: str) -> pathlib.Path:
    """Returns the file beside weights that says how they were trained."""
    return pathlib.Path(weights.removesuffix(SUFFIX) + ".json")


def recorded(weights: str) -> dict[str, Any]:
    """Returns how weights were trained, {} where nothing beside them says so."""
    file = record(weights)
    return dict(json.loads(file.read_text("utf-8"))) if weights and file.is_file() else {}


def _made(config: Config, images: int) -> dict[str, Any]:
    """Returns the command, without places of one machine, and what it ran on."""
    import keras

    before = recorded(config.weights)
    return {
        "command": flags.as_command(
            "pretrain-arrays", config, files=["arrays", "output", "weights"], left_out=["resume"]
        ),
        "arrays": _drawn_by(config.arrays),
        "images": images,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        **({"before": before} if before else {}),
    }


def _claim(config: Config, images: np.ndarray, labels: np.ndarray) -> None:
    """Makes the folder of the backup, or refuses that of another run.

    Raises:
        ConfigError: A backup of other flags or images.
    """
    places = ("arrays", "output", "weights", "resume")
    begun = pathlib.Path(config.weights).read_bytes() if config.weights else b""
    identity: dict[str, Any] = {
        **{k: v for k, v in dataclasses.asdict(config).items() if k not in places},
        "images": zlib.crc32(images.tobytes()),
        "labels": zlib.crc32(labels.tobytes()),
        "weights": zlib.crc32(begun),
    }
    file = config.backup / IDENTITY
    if file.is_file():
        kept = json.loads(file.read_text("utf-8"))
        other = [name for name in identity if kept.get(name) != identity[name]]
        if other:
            raise checks.ConfigError(
                "--resume needs the images and the flags of the run that it goes on with. "
                f"Received: other {', '.join(other)}. Delete {str(config.backup)!r} to begin anew."
            )
        return
    config.backup.mkdir(exist_ok=True)
    file.write_text(json.dumps(identity), "utf-8")


def read(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [n, s, s, 3] and labels int [n] of a file of arrays.

    Raises:
        DataError: The file does not hold them.
    """
    try:
        with np.load(path) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise checks.DataError(
            f"--arrays needs a file that `pretrain --arrays` wrote. Received: {path!r}: {error}"
        ) from error
    side = images.shape[1] if images.ndim == 4 else 0
    if images.dtype != np.uint8 or images.shape != (len(labels), side, side, 3) or not side:
        raise checks.DataError(
            "--arrays needs uint8 images [n, s, s, 3] and n labels. "
            + checks.received(images=images.shape, dtype=str(images.dtype), labels=labels.shape)
        )
    return images, labels


def _drawn_by(path: str) -> str:
    """Returns the command that wrote a file of arrays, "" of one that does not say."""
    with np.load(path) as arrays:
        return str(arrays["command"]) if "command" in arrays else ""


def write(path: str, images: np.ndarray, labels: np.ndarray, command: str) -> None:
    """Writes a file of arrays.

    Args:
        path: The file.
        images: uint8 [n, s, s, 3].
        labels: int [n].
        command: What writes it, for the record of the weights that are trained on it.

    Raises:
        EnvironmentFault: It cannot be written.
    """
    try:
        np.savez(path, images=images, labels=labels, command=np.array(command))
    except OSError as error:
        raise checks.EnvironmentFault(
            f"--arrays needs a file that can be written. Received: {path!r}, {error.strerror}"
        ) from error


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("pretrain-arrays"))
