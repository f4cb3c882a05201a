"""Optimizers by name, with Keras' constants or those of the source text (S9). No TensorFlow.

The preset "source" holds the text's constants in the corrected formulas: Adagrad sums from zero
(Keras starts at 0.1), and RMSProp's global rate of 1, which belongs to Adadelta, is not followed
(docs/source-rules.md lists the errata).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_kit import checks

PRESETS = ("keras", "source")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer that can be asked for by name.

    Attributes:
        constructor: Its class in `keras.optimizers`.
        keras: Arguments that make the name what it says, Keras' defaults otherwise.
        source: Arguments of the source text, or None where the text does not have it.
    """

    constructor: str
    keras: Mapping[str, Any]
    source: Mapping[str, Any] | None = None


OPTIMIZERS = {
    # Robbins & Monro, 1951.
    "sgd": Entry("SGD", {}, {}),
    # Polyak, 1964; 0.9 is the text's.
    "momentum": Entry("SGD", {"momentum": 0.9}, {"momentum": 0.9}),
    # Sutskever et al., 2013, section 2.
    "nesterov": Entry("SGD", {"momentum": 0.9, "nesterov": True}),
    # Duchi et al., 2011; the text sums from zero.
    "adagrad": Entry("Adagrad", {}, {"initial_accumulator_value": 0.0, "epsilon": 1e-6}),
    # Hinton, 2012, lecture 6e.
    "rmsprop": Entry("RMSprop", {}, {"rho": 0.9, "epsilon": 1e-6}),
    # Kingma & Ba, 2015, algorithm 1.
    "adam": Entry("Adam", {}, {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}),
    # Loshchilov & Hutter, 2019, algorithm 2.
    "adamw": Entry("AdamW", {}),
    # Dozat, 2016.
    "nadam": Entry("Nadam", {}),
    # Kingma & Ba, 2015, section 7.1.
    "adamax": Entry("Adamax", {}),
    # Chen et al., 2023, algorithm 2.
    "lion": Entry("Lion", {}),
    # You et al., 2020, algorithm 2.
    "lamb": Entry("Lamb", {}),
    # Shazeer & Stern, 2018, algorithm 5.
    "adafactor": Entry("Adafactor", {}),
    # Zeiler, 2012, algorithm 1.
    "adadelta": Entry("Adadelta", {}),
}


def arguments(name: str, preset: str) -> Mapping[str, Any]:
    """Returns the constructor's arguments for a name and a preset.

    Raises:
        ConfigError: An unknown name or preset, or the text does not have the optimizer.
    """
    checks.one_of("optimizer", name, OPTIMIZERS)
    checks.one_of("preset", preset, PRESETS)
    if preset == "keras":
        return OPTIMIZERS[name].keras
    found = OPTIMIZERS[name].source
    if found is None:
        described = ", ".join(key for key, entry in OPTIMIZERS.items() if entry.source is not None)
        raise checks.ConfigError(
            f"The preset 'source' has {described}. " + checks.received(optimizer=name)
        )
    return found
