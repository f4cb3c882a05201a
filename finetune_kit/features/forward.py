"""One forward pass of a model over batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    import keras


def run(
    model: "keras.Model",
    batches: tf.data.Dataset,
    *,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
) -> Any:
    """Returns what `model.predict` returns, of a graph that is traced once.

    By itself Keras traces one graph for full batches and another for a last one that is shorter,
    and tracing takes as long as running hundreds of images.

    Args:
        model: In inference mode; its structure of outputs is returned, with float [n, …].
        batches: Elements as `predict` takes them.
        callbacks: As of `predict`.
    """
    signature = ([_of_any_length(batches.element_spec)],)
    if getattr(model.predict_function, "input_signature", None) != signature:
        model.predict_function = _step(model, signature)
    return model.predict(batches, verbose=0, callbacks=list(callbacks))


def _step(model: "keras.Model", signature: Any) -> Any:
    """Returns what `predict` calls with a list of one batch."""

    def step(data: Any) -> Any:
        return model.predict_step(data[0])

    return tf.function(
        step, input_signature=signature, autograph=False, jit_compile=model.jit_compile or None
    )


def _of_any_length(spec: Any) -> Any:
    return tf.nest.map_structure(
        lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), spec
    )
