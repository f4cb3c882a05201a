"""What is known before a plan is chosen: how much there is to learn from, and how near it lies."""

import dataclasses
import math

import numpy as np

from finetune_kit import checks, metrics

# Labelled images a class, and in all, below which there are few, little or medium; what is above is
# plenty. Where transfer regularisers stop paying on CUB-200 (You et al., 2020, "Co-Tuning", table
# 1), VTAB's 1,000 images (Zhai et al., 2020, section 2), and BiT's smallest schedule
# (Kolesnikov et al., 2020, section 3.3).
AMOUNTS = {"few": (10, 100), "little": (50, 1_000), "medium": (500, 20_000)}
SMALL_CLASS = 20.0  # percentile of the class sizes that stands for them: small classes decide
# Bands of similarity and of task fit, both in [0, 1]. Provisional: they name a case of the source
# text in words; what is chosen follows from `experience`.
SIMILAR, DISSIMILAR, FITTING = 0.75, 0.6, 0.6
CASES = {
    ("little", "similar"): "tune the last layers",
    ("much", "similar"): "tune more layers, up to the whole network",
    ("much", "dissimilar"): "tune many layers, up to the whole network",
    ("little", "dissimilar"): "first the last layers, then the whole network, jointly with the "
    "nearest source images",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """Figures about images and backbone, from which a plan follows.

    Attributes:
        images: Labelled images to train on.
        per_class: 20th percentile of the class sizes.
        classes: C.
        parameters: Parameters of the backbone.
        pretrained: Whether the backbone has learnt anything.
        source_classes: How many classes it has learnt to tell apart; None if unknown.
        similarity: In [0, 1], 1 as near as the source itself; None if unknown.
        shift: Where the images depart: "input", "middle", "semantic", "none" or "unknown".
        fit: Accuracy of a linear probe on the last stage, cross-validated, between chance (0) and
            perfect (1); None if it could not be measured.
        deep_fit: The same on the concatenated stages that a multi-depth head sees.

    Raises:
        ConfigError: A count below its least value.
    """

    images: int
    per_class: float
    classes: int
    parameters: int = 0
    pretrained: bool = True
    source_classes: int | None = None
    similarity: metrics.Estimate | None = None
    shift: str = "unknown"
    fit: float | None = None
    deep_fit: float | None = None

    def __post_init__(self) -> None:
        checks.in_range("images", self.images, 1)
        checks.in_range("classes", self.classes, 2)

    @property
    def amount(self) -> str:
        """Returns "few", "little", "medium" or "plenty"."""
        for name, (each, together) in AMOUNTS.items():
            if self.per_class < each or self.images < together:
                return name
        return "plenty"

    @property
    def nearness(self) -> str:
        """Returns "similar", "middle", "dissimilar" or "unknown".

        Similar is what looks like the source, and what the source's features separate already:
        flowers look like few other photos, and are told apart by the features all the same.
        """
        if self.fit is not None and self.fit >= FITTING:
            return "similar"
        if self.similarity is None:
            return "unknown" if self.fit is None else "middle"
        if self.similarity.value >= SIMILAR:
            return "similar"
        return "dissimilar" if self.similarity.value < DISSIMILAR else "middle"

    @property
    def case(self) -> tuple[str, str]:
        """Returns which of the source text's cases this is (S12), and what the text then does.

        The second is "" where the text has no case: between similar and dissimilar, or where
        nothing is known of the source.
        """
        amount = "little" if self.amount in ("few", "little") else "much"
        return f"{amount} data, {self.nearness}", CASES.get((amount, self.nearness), "")

    def to_dict(self) -> dict[str, object]:
        """Returns the figures, with amount, nearness and case, as JSON types."""
        return dataclasses.asdict(self) | {
            "amount": self.amount,
            "nearness": self.nearness,
            "case": self.case[0],
        }


def small_class(counts: np.ndarray) -> float:
    """Returns the 20th percentile of class sizes, int [C]; classes without an image are left out.

    Raises:
        ConfigError: No class has an image.
    """
    present = np.asarray(counts)[np.asarray(counts) > 0]
    if not present.size:
        raise checks.ConfigError("Evidence needs images. " + checks.received(images=0))
    value = float(np.percentile(present, SMALL_CLASS))
    return value if math.isfinite(value) else 0.0
