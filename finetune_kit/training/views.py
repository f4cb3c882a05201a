"""Views on a network in which its BatchNorm layers work in another way, on the same variables."""

from collections.abc import Callable
from typing import Any

import keras

from finetune_kit import checks


def rewired(model: keras.Model, replace: Callable[[Any, Any], Any]) -> keras.Model:
    """Returns a view on a network in which something else stands for each BatchNorm layer.

    Args:
        model: A flat functional model; all other layers are shared with the view.
        replace: From a BatchNorm layer and its symbolic input to its symbolic output; called once
            for every use of the layer.

    Raises:
        ConfigError: A BatchNorm layer is inside another layer, where it cannot be replaced.
    """
    if hidden := hidden_batch_norms(model):
        raise checks.ConfigError(
            "BatchNorm layers that are to work in another way must be in the graph of the network "
            f"itself. Received: {hidden[0]!r} inside another layer, and {len(hidden) - 1} more."
        )

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.BatchNormalization):
            return replace(operation, args[0])
        return operation(*args, **kwargs)

    return keras.models.clone_model(
        model, clone_function=lambda operation: operation, call_function=call
    )


def batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers of a model, at any depth, each once."""
    norms = (keras.layers.BatchNormalization,)
    return [layer for layer in model._flatten_layers() if isinstance(layer, norms)]


def hidden_batch_norms(model: keras.Model) -> list[str]:
    """Returns the names of the BatchNorm layers that are inside another layer of a model."""
    flat = {id(layer) for layer in model.layers}
    return [norm.name for norm in batch_norms(model) if id(norm) not in flat]


def held(model: keras.Model) -> keras.Model:
    """Returns a view in which BatchNorm keeps its statistics, though scale and offset may train.

    Keras knows one flag for all four: a layer that trains normalises with the batch at hand.

    Args:
        model: As for `rewired`.
    """
    return rewired(model, lambda norm, x: _Held(norm)(x))


class _Held(keras.layers.Layer):
    """A BatchNorm layer in inference mode, whatever the model around it does."""

    def __init__(self, norm: keras.layers.BatchNormalization) -> None:
        super().__init__(dtype=norm.dtype_policy)
        self.norm = norm

    def call(self, x: Any) -> Any:
        """Returns x normalised with the moving statistics."""
        return self.norm(x, training=False)
