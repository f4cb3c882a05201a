"""One run of a way from files to batches, for the suites `input` and `scale`.

    finetune-kit benchmark feed --data=photos --program=kit

Nothing is trained: every batch is made and thrown away. `kit` is `data.load` and `data.batches`;
`keras` is what Keras' guides and tutorials write; `floor` decodes every JPEG with libjpeg on all
cores and does nothing else. It prints one line of JSON. The clock starts when everything has been
imported, so that start-up is nobody's.

Reference: Chollet, "Image classification from scratch", keras.io/examples/vision (2020 to 2025),
with the cache in front of what is random.
"""

import concurrent.futures
import dataclasses
import io
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from apps import flags
from finetune_kit import checks, console, cores, data
from recipes import settings

EVERY = 10**9  # a label budget that no class exhausts: all images train, and none is held out
SHUFFLED = 1000  # images that the peer draws from
SHIFT = 0.1  # share of the side; as `light` has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run of an input pipeline."""

    data: str = settings.option("Folder of images; one with train/ and test/ for keras.", "")
    program: str = settings.option(
        "Who makes the batches.", "kit", choices=("kit", "keras", "floor")
    )
    image_size: int = settings.option("Side of the images in pixels.", 128, low=1)
    batch_size: int = settings.option("Images a batch.", 32, low=1)
    epochs: int = settings.option("Passes over the images.", 4, low=1)
    augment: str = settings.option(
        "Strength of the kit's augmentation.", "light", choices=settings.AUGMENTATIONS
    )
    cache_mb: int = settings.option("Memory for the kit's decoded images in MiB.", 2048, low=0)

    def __post_init__(self) -> None:
        settings.check_options(self)
        if not os.path.isdir(self.data):
            raise checks.DataError(f"--data needs a folder. {checks.received(data=self.data)}")


def main(argv: list[str]) -> int:
    """Makes the batches and prints the line of JSON; returns the exit code."""
    config, words = flags.parse(argv, Config, command="benchmark feed")
    flags.refuse_words("benchmark feed", words)
    console.say(json.dumps(run(config)))
    return 0


def run(config: Config) -> dict[str, Any]:
    """Returns the line.

    program; images: of each epoch; seconds, processor: of each epoch, wall clock and processor
    time, the first with all that comes before it; load: seconds of the kit's pass that decodes
    every image once; base, peak: MiB of memory before the clock starts and at most.
    """
    programs: dict[str, Callable[[Config, dict[str, Any]], Iterator[int]]] = {
        "kit": _kit,
        "keras": _keras,
        "floor": _floor,
    }
    if config.program != "floor":
        import keras  # noqa: F401
        import tensorflow  # noqa: F401

        from finetune_kit.data import pipeline  # noqa: F401
    line: dict[str, Any] = {"program": config.program, "base": _peak()}
    rows = []
    wall, processor = time.perf_counter(), time.process_time()
    for images in programs[config.program](config, line):
        rows.append((images, time.perf_counter() - wall, time.process_time() - processor))
        wall, processor = time.perf_counter(), time.process_time()
    for name, values in zip(
        ("images", "seconds", "processor"), zip(*rows, strict=True), strict=True
    ):
        line[name] = list(values)
    return line | {"peak": _peak()}


def _kit(config: Config, line: dict[str, Any]) -> Iterator[int]:
    """Yields the number of images at the end of every epoch, and notes what loading took."""
    images = data.load(
        config.data,
        image_size=config.image_size,
        per_class=EVERY,
        hold_out=False,
        cache_mb=config.cache_mb,
    )
    line |= {"load": images.audit.seconds, "loaded": images.audit.decoded}
    stream = data.batches(
        images.train,
        num_classes=images.num_classes,
        batch_size=config.batch_size,
        seed=0,
        epochs=config.epochs,
        augmentation=config.augment,
    )
    steps = data.steps_per_epoch(len(images.train), config.batch_size)
    seen = 0
    for step, (_, labels) in enumerate(stream, start=1):
        seen += len(labels)
        if step % steps == 0:
            yield seen
            seen = 0


def _keras(config: Config, line: dict[str, Any]) -> Iterator[int]:
    """Yields as `_kit` does."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    side = (config.image_size, config.image_size)
    images = keras.utils.image_dataset_from_directory(
        os.path.join(config.data, "train"),
        image_size=side,
        batch_size=config.batch_size,
        verbose=False,
    )
    flip = keras.layers.RandomFlip("horizontal")
    shift = keras.layers.RandomTranslation(SHIFT, SHIFT)

    def augment(pixels: Any, labels: Any) -> tuple[Any, Any]:
        return shift(flip(pixels, training=True), training=True), labels

    stream = images.cache().shuffle(SHUFFLED).map(augment, num_parallel_calls=tf.data.AUTOTUNE)
    stream = stream.prefetch(tf.data.AUTOTUNE)
    for _ in range(config.epochs):
        yield sum(len(labels) for _, labels in stream)


def _floor(config: Config, line: dict[str, Any]) -> Iterator[int]:
    """Yields the number of images once they are decoded, in full and for nothing."""
    paths = sorted((pathlib.Path(config.data) / "train").rglob("*.jpg"))

    def decode(path: pathlib.Path) -> None:
        Image.open(io.BytesIO(path.read_bytes())).load()

    with concurrent.futures.ThreadPoolExecutor(cores.available()) as pool:
        for _ in pool.map(decode, paths):
            pass
    yield len(paths)


def _peak() -> float:
    """Returns the most memory that this process has had so far, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
