"""What a run is told and what it tells: plain values, no TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune_kit import checks
from finetune_kit.training import presets

IMBALANCE = ("none", "weights", "sampling")
STATISTICS = ("source", "target", "auto")
LEAST_WISE = 0.01  # less is the probe itself, for the price of fine-tuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to train, whatever the phases are.

    Attributes:
        optimizer: A name of `presets.OPTIMIZERS`.
        preset: "keras" or "source" constants.
        weight_decay: Decoupled decay, at least 0.
        batch_size: Images a step.
        seed: Decides the order of the images, their augmentation and the dropout.
        label_smoothing: Share of the label in [0, 1) that goes to all classes alike (Szegedy et
            al., 2016, section 7).
        clip_norm: Largest norm of all gradients together; 0 does not clip.
        ema: Momentum in [0, 1) of the average over the weights; 0 keeps none.
        l2_sp: Strength, at least 0, of the pull of the backbone's weights to where they were at
            the start (Li et al., 2018, eq. 4); the loss of the history contains it. Weight decay
            pulls to 0 at the same time unless it is switched off.
        wise: Where in (0, 1] the weights that are scored and kept lie on the line from the probe,
            or from the start without one, to the fine-tuned ones (Wortsman et al., 2022, eq. 1);
            1 is the fine-tuned end. Training goes on from the fine-tuned ones.
        imbalance: "weights" weighs images by the inverse frequency of their class, "sampling"
            shows every class equally often.
        batch_norm_statistics: "target" measures the moving statistics of BatchNorm anew before the
            first phase, on all training images without their labels, those that a fold holds out
            included (Li et al., 2016, AdaBN); "source" keeps those of the weights; "auto" is
            "target" where BatchNorm of all pretrained stages trains, else "source".
        views: Augmented views an image in all, taken in turn from epoch to epoch; 0 draws new ones
            in every epoch. With few views, frozen stages run once a view and not once an epoch.
        keep_activations: Whether what frozen stages make of an image is kept, where it stays the
            same from epoch to epoch; it changes no result.
        patience: Epochs without a lower validation loss after which a phase ends; 0 never ends
            one early. Without a validation split it has no effect.
        guard: Whether a loss that explodes in the first steps starts the run again at a lower
            rate (S7).

    Raises:
        ConfigError: A value out of range.
    """

    optimizer: str = "adamw"
    preset: str = "keras"
    weight_decay: float = 0.01
    batch_size: int = 32
    seed: int = 0
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    ema: float = 0.0
    l2_sp: float = 0.0
    wise: float = 1.0
    imbalance: str = "none"
    batch_norm_statistics: str = "source"
    views: int = 0
    keep_activations: bool = True
    patience: int = 0
    guard: bool = True

    def __post_init__(self) -> None:
        presets.arguments(self.optimizer, self.preset)
        checks.in_range("weight_decay", self.weight_decay, 0.0)
        checks.in_range("batch_size", self.batch_size, 1)
        checks.in_range("label_smoothing", self.label_smoothing, 0.0, 1.0, open_high=True)
        checks.in_range("clip_norm", self.clip_norm, 0.0)
        checks.in_range("ema", self.ema, 0.0, 1.0, open_high=True)
        checks.in_range("l2_sp", self.l2_sp, 0.0)
        checks.in_range("wise", self.wise, LEAST_WISE, 1.0)
        checks.one_of("imbalance", self.imbalance, IMBALANCE)
        checks.one_of("batch_norm_statistics", self.batch_norm_statistics, STATISTICS)
        checks.in_range("views", self.views, 0)
        checks.in_range("patience", self.patience, 0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run led to; the weights are in the classifier.

    Attributes:
        history: One row an epoch: phase, epoch (counted over all phases from 1; a solved head is
            epoch 0), loss, accuracy, val_loss, val_accuracy (None without held-out images),
            learning_rate (at the end of the epoch), seconds. With a label budget, val_loss and
            val_accuracy are means over the folds, and the rows end where training ended.
        chosen_epoch: Epoch whose weights the classifier holds.
        planned_epochs: Sum over the phases.
        reason: One sentence on why that epoch.
        restarts: What the guard did, one sentence each.
        validation: int64 labels [n] and float32 probabilities [n, C] of held-out images at the
            chosen epoch, or None.
        seconds: Seconds by part.
        folds: With a label budget, for every fold the validation loss after each epoch.
        notes: What a reader of the report should know.
        speed: For every phase that was trained: its name, images_per_second, gflop_per_image of a
            step, gflop_per_second; after long training input_images_per_second, too, and whether
            the phase was starved.
    """

    history: tuple[Mapping[str, Any], ...]
    chosen_epoch: int
    planned_epochs: int
    reason: str
    restarts: tuple[str, ...] = ()
    validation: tuple[np.ndarray, np.ndarray] | None = None
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    folds: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()
    speed: tuple[Mapping[str, Any], ...] = ()
