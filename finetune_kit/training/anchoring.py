"""A pull back to the pretrained weights (L2-SP), there for as long as a phase is being fitted.

Keras adds the regularizers of the variables that train to the loss when it traces a phase, and
never looks again. They are taken off afterwards, so no other phase, model or file meets them.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier

Penalty = Callable[[Any], Any]


def penalties(
    classifier: "Classifier", origin: Sequence[np.ndarray], strength: float
) -> list[tuple[Any, Penalty]]:
    """Returns (variable, penalty) for what trains in the backbone.

    The penalty is strength / 2 times the squared distance from the origin: the first term of
    equation 4 of Li, Grandvalet & Davoine (2018), "Explicit Inductive Bias for Transfer Learning
    with Convolutional Networks". The head, for which their second term stands, gets none.

    Args:
        classifier: Its flags say what trains.
        origin: Values of `classifier.model.variables` to be pulled to.
        strength: Their alpha, at least 0; with 0 nothing is returned.
    """
    if not strength:
        return []
    head = {id(variable) for variable in classifier.head.variables}
    values = {
        id(variable): value
        for variable, value in zip(classifier.model.variables, origin, strict=True)
    }
    return [
        (variable, _penalty(values[id(variable)], strength, before=variable.regularizer))
        for variable in classifier.model.trainable_variables
        if id(variable) not in head
    ]


@contextlib.contextmanager
def applied(found: Sequence[tuple[Any, Penalty]]) -> Iterator[None]:
    """Lets the penalties count for as long as it is entered."""
    before = [variable.regularizer for variable, _ in found]
    for variable, penalty in found:
        variable.regularizer = penalty
    try:
        yield
    finally:
        for (variable, _), old in zip(found, before, strict=True):
            variable.regularizer = old


def _penalty(origin: np.ndarray, strength: float, *, before: Penalty | None) -> Penalty:
    # A tensor is captured by the graph of a phase; an array would be copied into it.
    centre = keras.ops.convert_to_tensor(origin)

    def penalty(x: Any) -> Any:
        own = 0.5 * strength * keras.ops.sum(keras.ops.square(x - centre))
        return own if before is None else own + before(x)

    return penalty
