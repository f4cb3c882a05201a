"""One forward pass over images: what every depth of a backbone sees of each of them."""

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from finetune_kit import data
from finetune_kit.backbones import taps
from finetune_kit.features import forward

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one tap sees of n images.

    Variances and not mean squares are kept: where the mean is large against the deviation, the
    difference of two float32 squares would say nothing of it.

    Attributes:
        tap: Name of the BatchNorm layer or stage.
        stage: The stage that the tap belongs to.
        means: float32 [n, c], over the positions of each image.
        variances: float32 [n, c], over the positions of each image, around their own mean.
    """

    tap: str
    stage: str
    means: np.ndarray
    variances: np.ndarray

    @property
    def squares(self) -> np.ndarray:
        """Mean square over the positions of each image, float64 [n, c]."""
        return self.variances.astype(np.float64) + self.means.astype(np.float64) ** 2

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variance over images and positions together, each float64 [c]."""
        means = self.means.astype(np.float64)
        return means.mean(axis=0), self.variances.mean(axis=0, dtype=np.float64) + means.var(axis=0)

    def take(self, positions: np.ndarray) -> "Seen":
        """Returns what it sees of the images at `positions`, int [m] or bool [n]."""
        return dataclasses.replace(
            self, means=self.means[positions], variances=self.variances[positions]
        )


@dataclasses.dataclass(frozen=True)
class Observation:
    """What all depths of a backbone see of n images.

    Attributes:
        seen: The taps from input to output.
        features: Stage to the average-pooled features at its end, float32 [n, d].
    """

    seen: tuple[Seen, ...]
    features: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.seen[0].means)

    @property
    def pooled_features(self) -> np.ndarray:
        """The features at the end of the backbone, which a head sees, float32 [n, d]."""
        return next(reversed(self.features.values()))

    def take(self, positions: np.ndarray) -> "Observation":
        """Returns what is seen of the images at `positions`, int [m] or bool [n]."""
        return Observation(
            tuple(seen.take(positions) for seen in self.seen),
            {stage: rows[positions] for stage, rows in self.features.items()},
        )


class Observer:
    """A backbone whose depths can be looked at; its graph is traced once for all calls.

    Attributes:
        size: Side in pixels of the images that it takes, or (height, width).
    """

    def __init__(self, backbone: "Backbone") -> None:
        """Adds the pooling to the graph of a backbone, which stays as it is."""
        self.size = backbone.image_size
        self._taps = taps.find_taps(backbone.model, backbone.stages)
        self._stages = tuple(stage.name for stage in backbone.stages)
        outputs = [pool(tap.tensor) for tap in self._taps]
        ends = [stage.output for stage in backbone.stages[:-1]] + [backbone.model.outputs[0]]
        features = [pool(end)[0] for end in ends]
        self._model = keras.Model(backbone.model.inputs[0], [outputs, features])

    def observe(
        self, split: "Split", *, batch_size: int = 64, progress: forward.Progress | None = None
    ) -> Observation:
        """Returns what is seen of a split; see `observe`."""
        batches = data.evaluation_batches(split, batch_size=batch_size)
        callbacks = [forward.Reporter(len(split), batch_size, progress)] if progress else []
        return self._named(forward.run(self._model, batches, callbacks=callbacks))

    def _named(self, values: Any) -> Observation:
        moments, features = values
        return Observation(
            tuple(
                Seen(tap.name, tap.stage, means, variances)
                for tap, (means, variances) in zip(self._taps, moments, strict=True)
            ),
            dict(zip(self._stages, features, strict=True)),
        )


def observe(
    backbone: "Backbone",
    split: "Split",
    *,
    batch_size: int = 64,
    progress: forward.Progress | None = None,
) -> Observation:
    """Returns what every depth of a backbone sees of every image, in one forward pass.

    The network runs in inference mode (BatchNorm uses its moving statistics) on the images as they
    are. Only pooled values leave the graph: a few numbers a channel, not an activation.

    Args:
        backbone: Its taps are the inputs of its BatchNorm layers, or the ends of its stages where
            it has none.
        split: n >= 1 images of its side.
        batch_size: Images a forward pass; it does not change the result.
        progress: Called with the number of images that were seen since the last call.

    Raises:
        ConfigError: A batch size below 1.
    """
    return Observer(backbone).observe(split, batch_size=batch_size, progress=progress)


def pool(tensor: Any) -> tuple[Any, Any]:
    """Returns mean and variance over the positions of each image, two float32 [b, c].

    Args:
        tensor: [b, …, c], symbolic or eager, of any float type.
    """
    x = keras.ops.cast(tensor, "float32")
    mean = _average(x)
    variance = _average(keras.ops.square(x - mean))
    positions = tuple(range(1, len(x.shape) - 1))
    return keras.ops.squeeze(mean, positions), keras.ops.squeeze(variance, positions)


def _average(x: Any) -> Any:
    """Returns the mean over positions, [b, 1, …, c]."""
    if len(x.shape) == 4:
        # On a CPU ten times as fast as a reduction over two inner axes.
        return keras.ops.average_pool(x, tuple(x.shape[1:3]), strides=1, padding="valid")
    return keras.ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)), keepdims=True)
