"""Schedules of the strategy room as Keras' own learning-rate schedules, in units of epochs."""

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from finetune_kit import checks
from finetune_kit.strategy import schedules


@keras.saving.register_keras_serializable("finetune_kit")
class Constant(LearningRateSchedule):
    """The same rate at every epoch."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def __call__(self, step: Any) -> Any:
        """Returns the rate, float32 []."""
        return keras.ops.convert_to_tensor(self.learning_rate, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"learning_rate": self.learning_rate}


@keras.saving.register_keras_serializable("finetune_kit")
class Warmup(LearningRateSchedule):
    """Rises linearly from 0 to a peak, then follows a schedule that starts there.

    Goyal et al., 2017, "Accurate, Large Minibatch SGD", section 2.2.
    """

    def __init__(self, peak: float, epochs: float, then: LearningRateSchedule) -> None:
        self.peak, self.epochs, self.then = peak, epochs, then

    def __call__(self, step: Any) -> Any:
        """Returns the rate at `step` epochs, float32 []."""
        step = keras.ops.cast(step, "float32")
        rising = self.peak * step / self.epochs
        after = self.then(keras.ops.maximum(step - self.epochs, 0.0))
        return keras.ops.where(step < self.epochs, rising, after)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        then = keras.saving.serialize_keras_object(self.then)
        return {"peak": self.peak, "epochs": self.epochs, "then": then}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Warmup":
        """Rebuilds the schedule from `get_config`."""
        then = keras.saving.deserialize_keras_object(config["then"])
        return cls(config["peak"], config["epochs"], then)


def keras_schedule(
    schedule: schedules.Schedule, *, peak: float, epochs: float
) -> LearningRateSchedule:
    """Returns a schedule that is called with epochs, whole or not, counted from 0.

    Args:
        schedule: Its shape.
        peak: Largest rate.
        epochs: Length of the phase, the warm-up included.

    Raises:
        ConfigError: The warm-up is not shorter than the phase.
    """
    if schedule.warmup_epochs >= epochs:
        raise checks.ConfigError(
            "A warm-up must be shorter than its phase. "
            + checks.received(warmup_epochs=schedule.warmup_epochs, epochs=epochs)
        )
    shape = _shape(schedule, peak, epochs - schedule.warmup_epochs)
    return Warmup(peak, schedule.warmup_epochs, shape) if schedule.warmup_epochs else shape


def _shape(schedule: schedules.Schedule, peak: float, epochs: float) -> LearningRateSchedule:
    made = keras.optimizers.schedules
    if schedule.name == "step":
        return made.ExponentialDecay(peak, schedule.halve_every, 0.5, staircase=True)
    if schedule.name == "exponential":
        return made.ExponentialDecay(peak, 1, schedule.decay, staircase=True)
    if schedule.name == "fractional":
        return made.InverseTimeDecay(peak, 1, schedule.k, staircase=True)
    if schedule.name == "cosine":
        return made.CosineDecay(peak, epochs)
    return Constant(peak)
