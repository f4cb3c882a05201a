"""The main job on real images with no download: scikit-learn's handwritten digits.

finetune-kit demo
"""

import dataclasses
import pathlib
import shlex
import sys

from apps import finetune, flags
from finetune_kit import console
from finetune_kit.results import workdir
from recipes import settings

IMAGE_SIZE = 32  # pixels; the digits themselves have 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit demo`."""

    runs: str = settings.option("Folder in which demo-1, demo-2, … are made.", "runs")
    seed: int = settings.option("Decides splits, order and augmentation.", 0, low=0)

    def __post_init__(self) -> None:
        settings.check_options(self)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="demo")
    flags.refuse_words("demo", words)
    folder = workdir.next_numbered(pathlib.Path(config.runs) / "demo")
    images = write_digits(folder / "data")
    console.say(f"{images} handwritten digits of 8 x 8 pixels are in {folder / 'data'}")

    from recipes import auto

    job = auto.Config(
        data=str(folder / "data"),
        workdir=str(folder),
        image_size=IMAGE_SIZE,
        seed=config.seed,
    )
    console.say(f"running finetune-kit finetune {shlex.join(flags.as_words(job))}")
    finetune.tell(auto.run(job), job)
    return 0


def write_digits(folder: pathlib.Path) -> int:
    """Writes scikit-learn's digits as PNG files `<digit>/<number>.png`; returns their number.

    The set is the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak,
    1998, UCI repository): 1,797 images of 8 x 8 pixels with 17 levels of grey.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        grey = np.rint(pixels * (255 / 16)).astype(np.uint8)
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(path)
    return len(digits.images)


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("demo"))
