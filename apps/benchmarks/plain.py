"""The peer of the suite `cache`: plain Keras with the same stages open.

    finetune-kit benchmark plain --data=case --stages=1 --epochs=10

A user's program: decode, cache, shuffle and batch with tf.data; freeze the first layers; `compile`
and `fit`. BatchNorm is held still by its own flag, as the kit does it, so that both train the same
weights. It prints one line of JSON.
"""

import dataclasses
import functools
import json
import pathlib
import time
from typing import TYPE_CHECKING, Any

from apps import flags
from apps.benchmarks import cases, guide, records
from finetune_kit import checks, console
from recipes import settings

if TYPE_CHECKING:
    import keras

RATE = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run of plain Keras."""

    data: str = settings.option("A set of images: a folder, see `benchmark recipes`.", "")
    weights: str = settings.option("imagenet, none, or a weights file.", "")
    backbone: str = settings.option("Network to start from.", "mobilenet_v2")
    backbone_args: str = settings.option("Arguments of the network, as in alpha=0.25.", "")
    image_size: int = settings.option("Side of the input in pixels.", 128, low=32)
    stages: int = settings.option("Stages that train, from the last; 0 is the head alone.", 1)
    epochs: int = settings.option("Passes over the training images.", 10, low=1)
    learning_rate: float = settings.option("Rate of Adam.", RATE, low=0.0, high=1.0)
    augment: bool = settings.option("Flips and turns, as Keras' guide has them.", False)
    floor: bool = settings.option("One pass over the training images, and no more.", False)
    seed: int = settings.option("Draws head, order and augmentation.", 0, low=0)

    def __post_init__(self) -> None:
        settings.check_options(self)
        if not pathlib.Path(self.data).is_dir() or not self.data:
            raise checks.DataError(f"--data needs a folder. {checks.received(data=self.data)}")


def main(argv: list[str]) -> int:
    """Trains and prints the line of JSON; returns the exit code."""
    config, words = flags.parse(argv, Config, command="benchmark plain")
    flags.refuse_words("benchmark plain", words)
    console.say(json.dumps(run(config)))
    return 0


def run(config: Config) -> dict[str, Any]:
    """Trains and returns the line: peer, n, test, accuracy, seconds of `fit` and of each epoch.

    The floor is a line with the seconds of one forward pass.
    """
    import keras

    keras.utils.set_random_seed(config.seed)
    folder = pathlib.Path(config.data)
    case = cases.draw(folder, per_class=0, seed=config.seed)
    model = _network(config, len(case.classes))
    clock = _clock()
    fed = functools.partial(guide.batches, image_size=config.image_size, seed=config.seed)
    began = time.perf_counter()
    if config.floor:
        model.predict(fed(case.train).map(lambda images, label: images), verbose=0)
        return {"peer": "floor", "n": len(case.train), "seconds": time.perf_counter() - began}
    train = fed(case.train, training=True, augmented=config.augment)
    model.fit(train, epochs=config.epochs, verbose=0, callbacks=[clock])
    seconds = time.perf_counter() - began
    _, accuracy = model.evaluate(fed(case.test), verbose=0)
    return {
        "peer": "plain",
        "n": len(case.train),
        "test": len(case.test),
        "accuracy": accuracy,
        "seconds": seconds,
        "epochs": clock.seconds,
        "device": records.device(),
    }


def _clock() -> Any:
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []
            self._began = 0.0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._began = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.seconds.append(time.perf_counter() - self._began)

    return Clock()


def _network(config: Config, num_classes: int) -> "keras.Model":
    """Returns the compiled classifier with the last stages and the head open."""
    import keras

    from finetune_kit import backbones

    backbone = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights=config.weights,
        arguments=settings.arguments(config.backbone_args),
        seed=config.seed,
    )
    body = backbone.model
    count = len(backbone.stages) - config.stages
    frozen = {name for stage in backbone.stages[:count] for name in stage.layers}
    for layer in body.layers:
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer.name not in frozen and not norm
    features = keras.layers.GlobalAveragePooling2D()(body.outputs[0])
    model = keras.Model(body.inputs[0], keras.layers.Dense(num_classes)(features))
    model.compile(
        keras.optimizers.Adam(config.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
