"""The fields that recipes share. A field is a flag, a notebook argument and a line of the report.

Importing this module and making a `Config` import no TensorFlow, so that a bad value is reported
at once.
"""

import ast
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from finetune_kit import checks, data, strategy
from finetune_kit.backbones import catalogue, kinds
from finetune_kit.data import sizes
from finetune_kit.strategy import candidates, phases, plans, schedules
from finetune_kit.training import options, presets

AUGMENTATIONS = tuple(data.LEVELS)
OPTIMIZERS = tuple(presets.OPTIMIZERS)
AUTO = plans.AUTO
CANDIDATES = tuple(candidates.CANDIDATES)


def option(
    text: str,
    default: Any,
    *,
    choices: Sequence[str] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Returns a dataclass field with what a flag needs to know.

    Args:
        text: One sentence, shown by `--help`.
        default: Value if nothing is given; its type is the field's.
        choices: The values that are allowed, for a string.
        low, high: The range that is allowed, for a number, ends included.
    """
    return dataclasses.field(
        default=default, metadata={"help": text, "choices": choices, "low": low, "high": high}
    )


def size_option(zero: str = "is the network's default") -> Any:
    """Returns a field for the size of the images, a `Size`, that a flag reads and writes as 96x128.

    Where images have to be square, an `option` for their side takes its place.

    Args:
        zero: What 0 means.
    """
    text = f"Side of the input in pixels, or HEIGHTxWIDTH, as 96x128; 0 {zero}."
    rule = {"help": text, "choices": None, "low": 0, "high": None}
    return dataclasses.field(
        default=0, metadata={**rule, "parse": sizes.parse, "write": sizes.shown}
    )


def check_options(config: Any) -> None:
    """Raises `ConfigError` unless every field that an option made has a value that is allowed."""
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata
        if rule.get("choices"):
            checks.one_of(field.name, value, rule["choices"])
        if rule.get("parse"):
            value = min(sizes.sides(value))
        if rule.get("low") is not None or rule.get("high") is not None:
            low, high = rule.get("low"), rule.get("high")
            checks.in_range(
                field.name,
                value,
                -float("inf") if low is None else low,
                float("inf") if high is None else high,
            )


def arguments(text: str) -> dict[str, Any]:
    """Returns the keyword arguments in `alpha=0.25,dropout=0.1`.

    Raises:
        ConfigError: Not of the form name=value,name=value.
    """
    parts = [part for part in text.split(",") if part.strip()]
    pairs = [part.partition("=") for part in parts]
    if any(not name.strip().isidentifier() or not value for name, _, value in pairs):
        raise checks.ConfigError(
            "backbone_args must look like alpha=0.25,dropout=0.1. "
            + checks.received(backbone_args=text)
        )
    return {name.strip(): _literal(value.strip()) for name, _, value in pairs}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where images are, and what the backbone is: all that it takes to look at them.

    Raises:
        ConfigError: A value that its field does not allow.
        DataError: `data` is no source of images.
        WeightsError: `weights` or `source_card` is no file.
    """

    data: str = option("Images: a folder, a .csv manifest, or tfds:NAME.", "")
    data_dir: str = option("Where TensorFlow Datasets keeps its data sets.", "")
    per_class: int = option("Whole label budget a class; 0 uses every image.", 0, low=0)
    test_fraction: float = option(
        "Share of the images to test on, where the source has no test split.", 0.2,
        low=0.01, high=0.9,
    )  # fmt: skip
    validation_fraction: float = option(
        "Share of the images to choose by, where the source has none.", 0.15, low=0.01, high=0.9
    )
    max_bad_fraction: float = option(
        "Largest share of unreadable images that are left out instead of stopping.", 0.01,
        low=0.0, high=1.0,
    )  # fmt: skip
    cache_mb: int = option("Memory for decoded images in MiB; beyond it they stream.", 2048, low=0)
    cache_dir: str = option(
        "Where decoded images that do not fit into memory are kept; empty decodes them again for "
        "every batch.",
        "",
    )
    backbone: str = option(
        "Network to start from; `finetune-kit backbones` lists all. Or a .keras file, or "
        "hub:PRESET.",
        "bundled",
    )
    weights: str = option(
        "imagenet, none, or a file: .weights.h5, .h5, .keras, or .safetensors of torchvision or "
        "timm; empty is the bundled file, a .keras backbone's own, or imagenet.",
        "",
    )
    min_loaded: float = option(
        "Smallest share of the network's parameters that a weights file must give.",
        catalogue.MIN_LOADED,
        low=0.0, high=1.0,
    )  # fmt: skip
    preprocessing: str = option(
        "What a .keras or hub: model expects; empty is raw values from 0 to 255, or its own.", "",
        choices=("", *catalogue.PREPROCESSING),
    )  # fmt: skip
    dense_top: str = option(
        "Hidden dense layers behind the features, as VGG has: left out, or kept as convolutions.",
        catalogue.DENSE_TOPS[0],
        choices=catalogue.DENSE_TOPS,
    )
    backbone_args: str = option("Arguments of the network, as in alpha=0.25.", "")
    source_card: str = option(
        "What `finetune-kit source-card` wrote for the network; empty is the bundled card.", ""
    )
    image_size: sizes.Size = size_option()
    channels: int = option(
        "Channels of the images: 1 is grey, 2 grey and alpha, 4 RGB and alpha, any other number "
        "that of .npy files; 0 is RGB.", 0, low=0, high=sizes.MOST_CHANNELS,
    )  # fmt: skip
    head_stages: int = option("Last stages whose features the head sees; 0 is all.", 1, low=0)
    batch_norm_statistics: str = option(
        "Moving statistics of BatchNorm: the weights' own, or measured anew on the images; auto is "
        "anew where all of it trains.",
        "source",
        choices=options.STATISTICS,
    )
    precision: str = option("Numbers to compute with.", "float32", choices=catalogue.PRECISIONS)
    batch_size: int = option("Images a step.", 32, low=1)
    seed: int = option("Decides splits, order, augmentation and random weights.", 0, low=0)

    def __post_init__(self) -> None:
        check_options(self)
        catalogue.image_size(self.backbone, self.image_size)
        catalogue.refuse_unfit(
            self.backbone, weights=self.weights, preprocessing=self.preprocessing,
            channels=self.channels or sizes.COLOURS,
        )  # fmt: skip
        catalogue.check_arguments(self.backbone, self.arguments())
        _needed("data", self.data, "a folder of images")
        data.check_source(self.data, self.data_dir or None)
        if os.path.exists(self.cache_dir) and not os.path.isdir(self.cache_dir):
            raise checks.ConfigError(
                "--cache_dir needs a folder. "
                f"Received: cache_dir={self.cache_dir!r}, which is none."
            )
        check_weights(self.weights)
        if self.dense_top == catalogue.KEPT:
            catalogue.refuse_small(self.backbone, self.image_size)
            if self.channels not in (0, sizes.COLOURS) and not catalogue.is_own(self.backbone):
                raise checks.ConfigError(
                    "Dense layers of a network of the catalogue are kept for RGB images alone. "
                    + checks.received(dense_top=self.dense_top, channels=self.channels)
                )
        if self.source_card and self.dense_top == catalogue.KEPT:
            raise checks.ConfigError(
                "A source card is of a network without its dense layers. Received: "
                f"source_card={self.source_card!r}, dense_top={self.dense_top!r}. Leave one out."
            )
        if self.source_card and not pathlib.Path(self.source_card).is_file():
            raise checks.WeightsError(
                "--source_card needs a file. "
                f"Received: source_card={self.source_card!r}, which does not exist."
            )

    def arguments(self) -> dict[str, Any]:
        """Returns `backbone_args` as keyword arguments."""
        return arguments(self.backbone_args)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Source):
    """Where results go, besides where images are and what the backbone is."""

    workdir: str = option("Where model, report and logs go; new or empty.", "")
    cross_validate: bool = option(
        "Cross-validate a label budget to choose where training ends; else it ends as planned.",
        True,
    )
    overwrite: bool = option("Delete what an earlier run left in workdir.", False)
    resume: bool = option("Go on with the interrupted run in workdir.", False)
    tensorboard: bool = option("Write logs for TensorBoard.", True)

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise checks.ConfigError(
                "Either --overwrite or --resume. Received: both, which ask for opposites"
            )
        super().__post_init__()
        _needed("workdir", self.workdir, "where results go")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the layers that train are trained."""

    epochs: int = option("Passes over the images; 0 chooses by their number.", 0, low=0)
    learning_rate: float = option(
        "Peak learning rate; 0 chooses by optimizer and network.", 0.0, low=0.0, high=100.0
    )
    optimizer: str = option("Any of Keras' optimizers.", "adamw", choices=OPTIMIZERS)
    preset: str = option(
        "Constants of the optimizer: Keras', or the source text's.", "keras",
        choices=presets.PRESETS,
    )  # fmt: skip
    schedule: str = option("How the rate falls over epochs.", "cosine", choices=schedules.NAMES)
    warmup_epochs: float = option(
        "Epochs in which the rate rises from 0, before any schedule.", 1.0, low=0.0
    )
    halve_every: int = option("Epochs between halvings, for schedule=step.", 5, low=1)
    decay: float = option("Factor an epoch, for schedule=exponential.", 0.9, low=1e-6, high=1.0)
    decay_k: float = option("k in lr0 / (1 + k t), for schedule=fractional.", 0.5, low=0.0)
    weight_decay: float = option("Decoupled weight decay.", 0.01, low=0.0, high=1.0)
    augment: str = option("Strength of the augmentation.", "light", choices=AUGMENTATIONS)
    views: int = option(
        "Augmented views an image, so that frozen stages run once a view; 0 draws new ones "
        "every epoch.", 0, low=0,
    )  # fmt: skip
    keep_activations: bool = option(
        "Keep what frozen stages make of an image, where it stays the same over epochs.", True
    )
    batch_norm: str = option(
        "Whether BatchNorm layers of trained stages learn.", "frozen",
        choices=phases.BATCH_NORM,
    )  # fmt: skip
    label_smoothing: float = option(
        "Share of each label that is spread over all classes.", 0.0, low=0.0, high=0.9
    )
    dropout: float = option("Share of features that the head misses.", 0.0, low=0.0, high=0.9)
    clip_norm: float = option("Largest norm of the gradient; 0 is no limit.", 1.0, low=0.0)
    ema: float = option("Momentum of averaged weights; 0 keeps none.", 0.0, low=0.0, high=0.9999)
    l2_sp: float = option(
        "Pull of the backbone to its pretrained weights (L2-SP); 0 is none.", 0.0, low=0.0
    )
    wise: float = option(
        "Share of the way from the probe to the fine-tuned weights (WiSE-FT); 1 is all.", 1.0,
        low=options.LEAST_WISE, high=1.0,
    )  # fmt: skip
    imbalance: str = option(
        "Against unequal classes: weights by class, or even sampling.",
        "none",
        choices=options.IMBALANCE,
    )
    patience: int = option("Epochs without improvement before stopping; 0 is never.", 0, low=0)
    guard: bool = option("Restart at a tenth of the rate if the loss explodes at the start.", True)

    def tuning(self) -> "strategy.Tuning":
        """Returns what the phases of a recipe share.

        The warm-up never takes more than half of the epochs.
        """
        schedule = schedules.Schedule(
            self.schedule,
            warmup_epochs=min(self.warmup_epochs, self.epochs / 2),
            halve_every=self.halve_every,
            decay=self.decay,
            k=self.decay_k,
        )
        return strategy.Tuning(
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            schedule=schedule,
            batch_norm=self.batch_norm,
            augment=self.augment,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices(Training):
    """What the advisor is told: nothing, unless a flag is given."""

    plan: str = option("The plan, whatever the advice.", AUTO, choices=(AUTO, *CANDIDATES))
    race: bool = option(
        "Let the plan and its runner-up compete by cross-validation before training.", False
    )
    image_size: sizes.Size = size_option("is as advised")
    augment: str = option(
        "Strength of the augmentation; auto is light, or shift where mirrored images are others.",
        AUTO, choices=(AUTO, *AUGMENTATIONS),
    )  # fmt: skip
    batch_norm: str = option(
        "Whether BatchNorm layers of trained stages learn; auto as the plan has it.", AUTO,
        choices=(AUTO, *phases.BATCH_NORM),
    )  # fmt: skip
    batch_norm_statistics: str = option(
        "Moving statistics of BatchNorm: the weights' own, or measured anew on the images; auto is "
        "anew where all of it trains.", AUTO, choices=options.STATISTICS,
    )  # fmt: skip
    time_budget: str = option(
        "Time for the whole run, as in 90s or 5m; shortens the plan. Empty is no limit.", ""
    )
    head_stages: int = option(
        "Last stages whose features the head sees; 0 is all, -1 as advised.", -1, low=-1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuningSettings(Settings, Training):
    """Where images and results are, and how the layers that train are trained."""


def seconds(text: str) -> float:
    """Returns the seconds in `90s`, `5m`, `1h30m` or `90`; 0 for "".

    Raises:
        ConfigError: No such length of time.
    """
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
    if found is None:
        raise checks.ConfigError(
            "A time must look like 90s, 5m or 1h30m. " + checks.received(time_budget=text)
        )
    parts = zip(found.groups(), (3600.0, 60.0, 1.0), strict=True)
    return sum(float(number) * unit for number, unit in parts if number)


def check_weights(weights: str) -> None:
    """Raises a `KitError` unless `weights` is "", imagenet, none or a file that can be read."""
    if weights not in ("", "imagenet", "none") and not pathlib.Path(weights).is_file():
        raise checks.WeightsError(
            "--weights needs imagenet, none or a weights file. Received: "
            f"weights={weights!r}, which does not exist."
        )
    kinds.refuse_unreadable(weights)


def _needed(name: str, value: str, what: str) -> None:
    if not value:
        raise checks.ConfigError(f"--{name} is needed: {what}. Received: {name}=''")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
