"""What is known of how far images are from those that a backbone was trained on."""

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_kit.metrics import Estimate

INPUT, MIDDLE, SEMANTIC, NONE, UNKNOWN = SHIFTS = ("input", "middle", "semantic", "none", "unknown")


@dataclasses.dataclass(frozen=True)
class Depth:
    """What one tap of the network says.

    Attributes:
        tap: The BatchNorm layer whose input is looked at, or the stage whose end is.
        stage: The stage that it belongs to.
        distance: W of this tap with a 95 % interval, in standard deviations of the source.
        innovation: The part of the distance that arises here and not before, in the same unit;
            None where nothing can tell.
    """

    tap: str
    stage: str
    distance: "Estimate"
    innovation: float | None = None


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How near images are to the source of a backbone.

    Plain values throughout: `json.dumps(dataclasses.asdict(similarity))` writes it.

    Attributes:
        value: 1 is as near as images of the source itself, 0 as far as noise; with a 95 %
            interval. None where nothing is known of the source. Values of different networks
            are not comparable.
        distance: W over all taps with a 95 % interval, in standard deviations of the source.
        profile: The taps from input to output; empty where nothing is known.
        shift: Where the distance arises, one of `SHIFTS`: at the input (colour, contrast, noise),
            in the middle, or late (what is shown); "none" within what chance alone shows.
        feature_distance: Name ("frechet" or "kid") and value of the distance between the pooled
            features; None where the source card has none.
        null: W that 95 % of as large samples of the source stay below; 0 where it is unknown.
        noise: W of uniform noise; 0 where nothing is known.
        images: Number of images that were looked at.
        notes: What a person must know, a sentence each.
    """

    value: "Estimate | None"
    distance: "Estimate | None"
    profile: tuple[Depth, ...]
    shift: str
    feature_distance: tuple[str, float] | None
    null: float
    noise: float
    images: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class StageFit:
    """How well the features of one stage, or of several together, separate the classes.

    Attributes:
        stage: Name of the stage, or `probing.ALL` or `probing.LAST_THREE`.
        knn: Leave-one-out accuracy of nearest neighbours, in [0, 1]; None if fewer than
            two classes have two images.
        probe: Cross-validated accuracy of a linear probe with a 95 % interval; None in the
            same case.
        logme: LogME, nats an image and class; comparable between stages and networks on the same
            images alone.
        h_score: Regularised H-score, in [0, 1].
    """

    stage: str
    knn: float | None
    probe: "Estimate | None"
    logme: float
    h_score: float


@dataclasses.dataclass(frozen=True)
class TaskFit:
    """How well the features of a backbone separate the classes, depth by depth.

    Plain values throughout: `json.dumps(dataclasses.asdict(fit))` writes it.

    Attributes:
        stages: The stages from input to output.
        best: Name of the stage of the most accurate probe; the last one unless another is more
            accurate by more than one standard error of the difference, image by image.
        last: The last stage, which a plain head sees.
        last_three: The last three stages together.
        concatenated: All stages together.
        chance: Share of the commonest class: what guessing reaches.
        images: Number of images that were looked at.
        leep: LEEP in nats; None without a source head.
        nce: NCE in nats; None without a source head.
        static_prior: What is known of the network without a look at the images, in words.
        warning: What a person must know before believing the figures.
    """

    stages: tuple[StageFit, ...]
    best: str
    last: StageFit
    last_three: StageFit
    concatenated: StageFit
    chance: float
    images: int
    leep: float | None = None
    nce: float | None = None
    static_prior: str | None = None
    warning: str = ""

    def above_chance(self, stage: StageFit) -> float | None:
        """Returns a probe's accuracy with chance at 0 and perfection at 1; below 0 is worse."""
        if stage.probe is None:
            return None
        return (stage.probe.value - self.chance) / (1 - self.chance)

    @property
    def fit(self) -> float | None:
        """The last stage's probe above chance, at most 1; None if it could not be measured."""
        return self.above_chance(self.last)

    @property
    def specificity(self) -> float | None:
        """Accuracy that the last stage has lost against the best one, at least 0.

        Where it is large, the late layers are specific to the source (Yosinski et al., 2014, "How
        transferable are features in deep neural networks?").
        """
        best = next(stage for stage in self.stages if stage.stage == self.best)
        if best.probe is None or self.last.probe is None:
            return None
        return best.probe.value - self.last.probe.value
