"""What a phase leaves frozen from the input up: run once an image, and kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_kit import features
from finetune_kit.data import levels
from finetune_kit.strategy import costs
from finetune_kit.strategy import phases as phases_lib

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.data.types import Split
    from finetune_kit.features.activations import ActivationStore, Kept, Views
    from finetune_kit.features.cuts import Cut
    from finetune_kit.strategy.phases import Phase
    from finetune_kit.training.options import Options


class Prefixes:
    """The cuts of a run's phases, and the activations in front of them.

    Attributes:
        notes: Why a phase runs its frozen stages again and again, a sentence each.
    """

    def __init__(
        self,
        classifier: "Classifier",
        phases: "Sequence[Phase]",
        options: "Options",
        store: "ActivationStore",
    ) -> None:
        """Computes nothing yet.

        Args:
            classifier: Whose layers are cut.
            phases: In the order in which they run.
            options: Whether to keep activations, and of how many views.
            store: Where they are kept.
        """
        self._classifier, self._phases, self._options = classifier, tuple(phases), options
        self._store = store
        self._cuts: dict[int, Cut | None] = {}
        self.notes: list[str] = []

    def cut(self, index: int) -> "Cut | None":
        """Returns the cut of a phase, None where nothing can be kept or it would not pay."""
        if index not in self._cuts:
            self._cuts[index] = self._made(self._phases[index])
        return self._cuts[index]

    def train(self, index: int, split: "Split") -> "Kept | None":
        """Returns the activations that a phase trains on, None if it has to run them itself."""
        return self._kept(index, split, self._views(self._phases[index]))

    def held_out(self, index: int, split: "Split") -> "Kept | None":
        """Returns the activations by which a phase is scored: of the images as they are."""
        return self._kept(index, split, None)

    def features(self, split: "Split", *, training: bool) -> "Kept":
        """Returns the pooled features of a split, float32 [n, 1, d] by position.

        What later phases are going to need of the same images comes with them, in one pass.

        Args:
            split: n images.
            training: Whether they are trained on, in which case later phases may show other views.
        """
        plain = [
            index
            for index, phase in enumerate(self._phases)
            if not phase.solved and not (training and self._views(phase))
        ]
        cuts = [cut for cut in map(self.cut, plain) if cut is not None]
        return self._store.get(
            self._classifier.model.inputs[0],
            self._classifier.features.outputs,
            split,
            also=[tensor for cut in cuts for tensor in cut.tensors],
            whatever=True,  # a head is solved on all rows at once
        )

    def _kept(self, index: int, split: "Split", views: "Views | None") -> "Kept | None":
        cut = self.cut(index)
        if cut is None:
            return None
        try:
            return self._store.get(
                self._classifier.model.inputs[0], cut.tensors, split, views=views
            )
        except features.NoRoomError as error:
            self._cuts[index] = None
            self._say(index, f"they need {error}, for which there is no room")
            return None

    def _made(self, phase: "Phase") -> "Cut | None":
        options, frozen = self._options, _leading_frozen(phase)
        if phase.solved or not options.keep_activations or not frozen:
            return None
        if not costs.repeated_views(phase, options.views):
            return None
        return features.cut(self._classifier, frozen)

    def _views(self, phase: "Phase") -> "Views | None":
        if levels.LEVELS[phase.augment] == levels.LEVELS["none"]:
            return None
        return features.Views(phase.augment, self._options.views, self._options.seed)

    def _say(self, index: int, reason: str) -> None:
        self.notes.append(
            f"phase {self._phases[index].name!r} runs its frozen stages in every epoch: {reason}"
        )


def _leading_frozen(phase: "Phase") -> int:
    """Returns the number of stages from the input up that a phase leaves frozen."""
    count = 0
    for group, multiplier in phase.multipliers.items():
        if multiplier or group == phases_lib.HEAD:
            break
        count += 1
    return count
