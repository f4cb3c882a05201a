"""The only code that writes `trainable`.

Flags are written on leaf layers, BatchNorm by its own policy, and what came of it is checked: in
Keras 3 a flag on a parent may be a no-op, or may open layers that were meant to stay frozen.
"""

from typing import TYPE_CHECKING

import keras

from finetune_kit import checks
from finetune_kit.strategy import phases

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier


def apply(classifier: "Classifier", phase: phases.Phase) -> None:
    """Writes which layers of a classifier train in a phase.

    A model that has been compiled must be compiled again afterwards: Keras would go on with the old
    set without a word.

    Args:
        classifier: Its layers' flags are overwritten.
        phase: A BatchNorm layer trains, and updates its statistics, only where its stage does and
            `batch_norm` is "trainable".

    Raises:
        ConfigError: The multipliers do not name the classifier's groups, or the network shares a
            layer between groups or has one outside them, so that the plan cannot be carried out.
    """
    phases.check((phase,), classifier.groups)
    for layer in classifier.model._flatten_layers(include_self=True):
        # A frozen container hides the variables of layers that train.
        if not layer.trainable and list(layer._layers):
            layer.trainable = True
    planned: set[str] = set()
    for group in classifier.groups:
        for layer in classifier.layers_of(group):
            layer.trainable = _trains(layer, phase, group)
            if layer.trainable:
                planned |= {variable.path for variable in layer._trainable_variables}
    _verify(classifier, planned)


def rates_by_path(classifier: "Classifier", phase: phases.Phase) -> dict[str, float]:
    """Returns variable path to multiplier, for every variable that trains in a phase.

    Call it after `apply`.

    Raises:
        ConfigError: Two variables that train have the same path.
    """
    rates: dict[str, float] = {}
    for group in classifier.groups:
        for layer in classifier.layers_of(group):
            if not layer.trainable:
                continue
            for variable in layer._trainable_variables:
                if variable.path in rates:
                    raise checks.ConfigError(
                        "Every variable that trains needs a path of its own. Received: "
                        f"{variable.path!r} twice. Name the layers of the network differently."
                    )
                rates[variable.path] = phase.multipliers[group]
    return rates


def _trains(layer: keras.layers.Layer, phase: phases.Phase, group: str) -> bool:
    if phase.multipliers[group] == 0.0:
        return False
    is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
    return not is_batch_norm or phase.batch_norm == "trainable"


def _verify(classifier: "Classifier", planned: set[str]) -> None:
    """Compares what the model would train with the plan."""
    actual = {variable.path for variable in classifier.model.trainable_variables}
    if actual != planned:
        raise checks.ConfigError(
            "The network cannot be divided as planned: every layer must belong to one group. "
            f"Received: {_some(actual - planned)} would train unplanned, "
            f"{_some(planned - actual)} would not train."
        )


def _some(paths: set[str]) -> str:
    shown = ", ".join(sorted(paths)[:3]) or "nothing"
    return shown + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
