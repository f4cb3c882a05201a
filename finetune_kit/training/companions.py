"""Source images that train beside the target's: one body, two heads (Ge & Yu, 2017, section 3)."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from finetune_kit import checks, features
from finetune_kit.data import pairs
from finetune_kit.training import joint_loss

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split


@dataclasses.dataclass(frozen=True)
class Companion:
    """A source task, and which of its images stand beside which of the target's.

    Attributes:
        images: m source images, their labels in [0, num_classes).
        num_classes: C_s, at least 2; each has an image.
        places: int64 [n], positions in their store of the target images that have neighbours.
        neighbours: int64 [n, k], positions in `images`, one row for each of `places`.
        weight: Share in [0, 1) of the loss that is the source's, until it fades.
        kernel: float32 [d, C_s], where the source's head starts.
        bias: float32 [C_s].
        fingerprint: What a run must share with an interrupted one to go on with it.

    Raises:
        ConfigError: A weight out of range, or not one row of neighbours a target image.
    """

    images: "Split"
    num_classes: int
    places: np.ndarray
    neighbours: np.ndarray
    weight: float
    kernel: np.ndarray
    bias: np.ndarray
    fingerprint: str = ""

    def __post_init__(self) -> None:
        checks.in_range("source_weight", self.weight, 0.0, 1.0, open_high=True)
        if len(self.places) != len(self.neighbours):
            raise checks.ConfigError(
                "Every image needs a row of neighbours. "
                + checks.received(images=len(self.places), rows=len(self.neighbours))
            )

    def beside(self, split: "Split") -> pairs.Partners:
        """Returns what stands beside the images of a part of the target's.

        Raises:
            ConfigError: An image without neighbours.
        """
        rows = {int(place): row for row, place in enumerate(self.places)}
        alone = [name for name, i in zip(split.names, split.indices, strict=True) if i not in rows]
        if alone:
            raise checks.ConfigError(
                "Every image to train on needs neighbours. "
                + checks.received(without=len(alone), first=alone[0])
            )
        own = self.neighbours[[rows[int(i)] for i in split.indices]]
        return pairs.Partners(self.images, self.num_classes, own)

    def shares(self, *, epochs: range, begin: int, total: int, steps: int) -> np.ndarray:
        """Returns the source's share of the loss at every step, float32 [len(epochs) * steps].

        As `joint_loss.share` has it; as the rate, it is taken in the middle of a step.

        Args:
            epochs: Epochs of the run that are trained.
            begin: First epoch of the phase.
            total: Epochs of the phase.
            steps: Steps an epoch.
        """
        now = np.arange(len(epochs) * steps) / steps + epochs.start - begin + 0.5 / steps
        return joint_loss.share(self.weight, now / total).astype(np.float32)


def accompany(
    classifier: "Classifier",
    target: "Split",
    source: "Split",
    chosen: np.ndarray,
    *,
    weight: float,
    seed: int = 0,
    fingerprint: str = "",
) -> Companion:
    """Returns the companion of a target: the chosen source images alone, with a solved head.

    Classes of the source that no chosen image belongs to are left out. The paper also leaves out
    classes of fewer than 50 chosen images; with a small target that would leave none.

    Args:
        classifier: Gives the features that the source's head is solved on; it stays as it is.
        target: n images that will be trained on, all or in parts.
        source: Source images.
        chosen: int [n, k], positions in `source` for every image of `target`.
        weight: Share in [0, 1) of the loss that is the source's.
        seed: Draws the folds of the head's regularisation.
        fingerprint: Of the source.

    Raises:
        ConfigError: A weight out of range.
        DataError: The chosen images are of one class.
    """
    positions, neighbours = np.unique(chosen, return_inverse=True)
    images = source.take(positions)
    classes, labels = np.unique(images.labels, return_inverse=True)
    if len(classes) < 2:
        raise checks.DataError(
            "Joint training needs source images of at least 2 classes. Received: "
            f"{len(images)} chosen ones, all of one class. Choose more neighbours, or a source of "
            "more kinds of images."
        )
    images = dataclasses.replace(images, labels=labels)
    rows = features.extract(classifier, images)
    head = features.solve_head(rows, labels, num_classes=len(classes), seed=seed)
    return Companion(
        images=images,
        num_classes=len(classes),
        places=target.indices,
        neighbours=neighbours.reshape(chosen.shape),
        weight=weight,
        kernel=head.kernel,
        bias=head.bias,
        fingerprint=fingerprint,
    )
