"""The baselines: fine-tuning as the Keras transfer-learning guide teaches it, and without freezing.

    finetune-kit benchmark guide --data=photos --weights=mobilenet.weights.h5 --per_class=20

Plan `guide`: a frozen backbone called with `training=False`, average pooling, dropout and a dense
layer, fitted at 1e-3; then every layer, fitted at 1e-5. Plan `full`: every layer from a random
head at 1e-4, for as many epochs. Nothing is held out and nothing is chosen, so all that it needs
is the images. The loop is `Model.fit` as the guide has it, not the kit's: this is what the kit is
measured against.

It speaks the protocol of `--peer`: one line of JSON with what was measured.

Reference: Chollet, "Transfer learning & fine-tuning", keras.io/guides/transfer_learning (2020 to
2025), section "An end-to-end example".
"""

import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps import flags
from apps.benchmarks import cases, records
from finetune_kit import checks, console
from recipes import settings

if TYPE_CHECKING:
    import keras

PLANS = ("guide", "full")
# Phases of each plan: does the backbone train, at what rate, for how many epochs. The guide's
# rates; as many epochs as it asks for and as are enough with few images.
PHASES = {
    "guide": ((False, 1e-3, 20), (True, 1e-5, 10)),
    "full": ((True, 1e-4, 30),),
}
BATCH = 32
TEST_BATCH = 64
DROPOUT = 0.2
ROTATION = 0.1  # share of a full turn, either way


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run of a baseline."""

    data: str = settings.option("Set of images: a folder, see `benchmark recipes`.", "")
    weights: str = settings.option("imagenet, none, or a weights file.", "")
    backbone: str = settings.option("Network to start from.", "mobilenet")
    backbone_args: str = settings.option("Arguments of the network, as in alpha=0.25.", "")
    image_size: int = settings.option("Side of the input in pixels.", 128, low=32)
    per_class: int = settings.option("Training images a class; 0 is all.", 20, low=0)
    seed: int = settings.option("Draws images, head, order and augmentation.", 0, low=0)
    plan: str = settings.option("Freeze first, or train all.", "guide", choices=PLANS)

    def __post_init__(self) -> None:
        settings.check_options(self)
        if not self.data:
            raise checks.ConfigError("--data is needed: a set of images. Received: data=''")


def main(argv: list[str]) -> int:
    """Trains and prints the line of JSON; returns the exit code."""
    config, words = flags.parse(argv, Config, command="benchmark guide")
    flags.refuse_words("benchmark guide", words)
    console.say(json.dumps(run(config)))
    return 0


def run(config: Config) -> dict[str, Any]:
    """Trains by the plan and returns the line: peer, data, n, test, accuracy, seconds, device.

    `seconds` are those of `fit`, tracing included, start-up and test not.
    """
    import keras

    case = cases.draw(config.data, per_class=config.per_class, seed=config.seed)
    keras.utils.set_random_seed(config.seed)
    fed = functools.partial(batches, image_size=config.image_size, seed=config.seed)
    train = fed(case.train, training=True, augmented=True)
    model, body = _network(config, len(case.classes))
    began = time.perf_counter()
    for trains, rate, epochs in PHASES[config.plan]:
        body.trainable = trains
        model.compile(
            keras.optimizers.Adam(rate),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(train, epochs=epochs, verbose=0)
    seconds = time.perf_counter() - began
    _, accuracy = model.evaluate(fed(case.test), verbose=0)
    return {
        "peer": config.plan,
        "data": case.name,
        "per_class": config.per_class,
        "seed": config.seed,
        "n": len(case.train),
        "test": len(case.test),
        "accuracy": accuracy,
        "seconds": seconds,
        "device": records.device(),
    }


def _network(config: Config, num_classes: int) -> "tuple[keras.Model, keras.Model]":
    """Returns the classifier, pixels float32 [b, s, s, 3] in [0, 255] to logits, and its body."""
    import keras

    from finetune_kit import backbones

    body = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights=config.weights,
        arguments=settings.arguments(config.backbone_args),
        seed=config.seed,
    ).model
    keras.utils.set_random_seed(config.seed)  # of the head and its dropout
    pixels = keras.Input((config.image_size, config.image_size, 3))
    # As the guide has it. In Keras 3 this does not hold BatchNorm still once the layer trains.
    maps = body(pixels, training=False)
    features = keras.layers.GlobalAveragePooling2D()(maps)
    logits = keras.layers.Dense(num_classes)(keras.layers.Dropout(DROPOUT)(features))
    return keras.Model(pixels, logits), body


def batches(
    examples: Sequence[cases.Example],
    *,
    image_size: int,
    seed: int,
    training: bool = False,
    augmented: bool = False,
) -> Any:
    """Returns batches of (float32 images [b, s, s, 3] in [0, 255], int labels [b]).

    Args:
        examples: Files and labels.
        image_size: s, pixels.
        seed: Draws order and augmentation.
        training: Whether images are kept in memory and shuffled.
        augmented: Whether they are flipped and turned as well, as the guide has it.
    """
    import keras
    import tensorflow as tf

    def decode(path: Any, label: Any) -> tuple[Any, Any]:
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        return tf.image.resize(tf.cast(image, tf.float32), (image_size, image_size)), label

    paths, labels = zip(*((str(path), label) for path, label in examples), strict=True)
    images = tf.data.Dataset.from_tensor_slices((list(paths), list(labels)))
    images = images.map(decode, num_parallel_calls=tf.data.AUTOTUNE).cache()
    if not training:
        return images.batch(TEST_BATCH).prefetch(tf.data.AUTOTUNE)
    shuffled = images.shuffle(len(examples), seed=seed).batch(BATCH)
    if not augmented:
        return shuffled.prefetch(tf.data.AUTOTUNE)
    flip = keras.layers.RandomFlip("horizontal", seed=seed)
    # Another seed than the flip's: with the same, flipped images would all turn the same way.
    turn = keras.layers.RandomRotation(ROTATION, seed=seed + 1)
    # Augmented behind the cache, where the guide's page does it before: that would show the pixels
    # of the first epoch for ever, and the baseline is meant to be a good one.
    return shuffled.map(
        lambda batch, label: (turn(flip(batch, training=True), training=True), label),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)
