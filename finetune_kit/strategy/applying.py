"""The only code that writes `trainable`.

Flags are written on leaf layers, BatchNorm by its own policy, and what came of it is checked: in
Keras 3 a flag on a parent may be a no-op, or may open layers that were meant to stay frozen.
"""

from collections.abc import Sequence
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
            `batch_norm` is "trainable". Where BatchNorm alone trains, its flag is set with "frozen"
            as well, and whoever fits the model has to hold the statistics.

    Raises:
        ConfigError: The multipliers do not name the classifier's groups, BatchNorm is to train
            alone and there is none, or the network shares a layer between groups or has one outside
            them, so that the plan cannot be carried out.
    """
    phases.check((phase,), classifier.groups)
    check(classifier, (phase,))
    owners = _owners(classifier)
    for layer in classifier.model._flatten_layers(include_self=True):
        # A frozen container hides the variables of layers that train.
        if not layer.trainable and list(layer._layers):
            layer.trainable = True
    planned: dict[int, str] = {}
    for layer, group in owners:
        layer.trainable = trains = _trains(layer, phase, group)
        for variable in layer._trainable_variables:
            # Keras passes over a layer whose own flag is right already.
            variable.trainable = trains
            if trains:
                planned[id(variable)] = variable.path
    _verify(classifier, planned)


def check(classifier: "Classifier", plan: Sequence[phases.Phase]) -> None:
    """Raises `ConfigError` if BatchNorm is to train alone in stages that have none."""
    for phase in plan:
        stages = [group for group in phase.trained if group != phases.HEAD]
        found = [layer for stage in stages for layer in classifier.layers_of(stage)]
        if phase.layers == "batch_norm" and not any(map(_is_batch_norm, found)):
            raise checks.ConfigError(
                "A phase that trains BatchNorm alone needs a network with BatchNorm in the stages "
                "that are open. Received: none in "
                f"{', '.join(stages) or 'no stage'} of {classifier.backbone.name!r}. Choose "
                "another network or another recipe."
            )


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
    if phase.layers == "batch_norm" and group != phases.HEAD:
        return _is_batch_norm(layer)
    return not _is_batch_norm(layer) or phase.batch_norm == "trainable"


def _is_batch_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def _owners(classifier: "Classifier") -> list[tuple[keras.layers.Layer, str]]:
    """Returns every leaf layer with its group.

    Raises:
        ConfigError: A variable belongs to two groups or to none.
    """
    owners = [(layer, g) for g in classifier.groups for layer in classifier.layers_of(g)]
    groups: dict[int, str] = {}
    for layer, group in owners:
        for variable in _own_variables(layer):
            first = groups.setdefault(id(variable), group)
            if first != group:
                raise checks.ConfigError(
                    "A layer belongs to one group, or it would have to follow two plans. Received: "
                    f"{variable.path!r} in {first} and {group}. Give each group its own layer."
                )
    outside = [
        variable.path
        for layer in classifier.model._flatten_layers()
        for variable in _own_variables(layer)
        if id(variable) not in groups
    ]
    if outside:
        raise checks.ConfigError(
            "Every layer belongs to a stage or is the head. "
            f"Received: {_some(outside)} in no group. Find the stages with `backbones.find_stages`."
        )
    return owners


def _own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer, without those of its sublayers and without seeds."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _verify(classifier: "Classifier", planned: dict[int, str]) -> None:
    """Compares what the model would train with the plan."""
    actual = {id(variable): variable.path for variable in classifier.model.trainable_variables}
    if actual.keys() != planned.keys():
        unplanned = [path for key, path in actual.items() if key not in planned]
        idle = [path for key, path in planned.items() if key not in actual]
        raise checks.ConfigError(
            "The network cannot be trained as planned. "
            f"Received: {_some(unplanned)} would train unplanned, {_some(idle)} would not train."
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:3]) or "nothing"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
