"""A network cut in two where everything before the cut is frozen."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a classifier is cut, and what is behind it.

    Attributes:
        tensors: Symbolic, [b, …]: the end of the last stage before the cut, then the pooled
            features of earlier stages that the head sees.
        suffix: From those to logits float32 [b, C]; it shares the classifier's layers.
    """

    tensors: tuple[Any, ...]
    suffix: keras.Model


def cut(classifier: "Classifier", stages: int) -> Cut | None:
    """Returns the cut behind the first stages of a classifier, None if there can be none.

    There is none without a stage before it, and none behind a layer that draws random numbers
    (dropout, stochastic depth): what it lets through differs from step to step.

    Args:
        classifier: Its layers are shared, not copied.
        stages: Number of stages before the cut.
    """
    names = [stage.name for stage in classifier.backbone.stages]
    if not 0 < stages <= len(names):
        return None
    if stages == len(names):
        tensors = [classifier.features.outputs[0]]
    else:
        tensors = [classifier.backbone.stages[stages - 1].output]
        tensors += _pooled_before(classifier, names[: stages - 1])
    if any(layer._seed_generators for layer in layers_before(tensors)):
        return None
    inputs = tensors if len(tensors) > 1 else tensors[0]
    return Cut(tuple(tensors), keras.Model(inputs, classifier.model.outputs[0]))


def layers_before(tensors: Sequence[Any]) -> list[keras.layers.Layer]:
    """Returns the layers that lead to symbolic tensors, those within layers included, each once.

    It walks the graph; a `keras.Model` of the same would be built anew, which takes a second for a
    large network.
    """
    found: dict[int, keras.layers.Layer] = {}
    left, seen = list(tensors), set[int]()
    while left:
        operation, index, _ = left.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) in seen:
            continue
        seen.add(id(node))
        left += node.input_tensors
        found |= {id(layer): layer for layer in _layers_of(operation)}
    return list(found.values())


def _layers_of(operation: Any) -> Iterable[keras.layers.Layer]:
    if isinstance(operation, keras.layers.Layer):
        yield from operation._flatten_layers()


def _pooled_before(classifier: "Classifier", stages: list[str]) -> list[Any]:
    """Returns the pooled features of those stages, if the head sees them."""
    layers = {layer.name: layer for layer in classifier.model.layers}
    found = (layers.get(f"pooled_{name}") for name in stages)
    return [layer.output for layer in found if layer is not None]
