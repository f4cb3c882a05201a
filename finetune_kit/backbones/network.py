"""The bundled network: one line, built by the conventions of the source text (S4, S5)."""

import pathlib

import keras

from finetune_kit.backbones import building

SPECIFICATION = "32-32|64-64|128-128|256"
FILES = pathlib.Path(__file__).parent / "bundled"  # its weights and its card


def build(image_size: int) -> keras.Model:
    """Returns the network: float32 [b, s, s, 3] in [0, 255] to float32 [b, s / 8, s / 8, 256].

    Args:
        image_size: s in pixels; see `catalogue.ENTRIES` for the least and the most.
    """
    return building.build(SPECIFICATION, image_size, name="bundled")
