"""One forward pass of a model over batches."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from finetune_kit.data.types import Split

Progress = Callable[[int], None]  # is told of so many more images
TIMED, MORE, REPEATS = 32, 4, 3  # images of a batch that is timed, batches at most, how often


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


class Reporter(keras.callbacks.Callback):
    """Tells how many images each batch held that `run` has seen."""

    def __init__(self, images: int, batch_size: int, progress: Progress) -> None:
        super().__init__()
        self._left, self._batch_size, self._progress = images, batch_size, progress

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Tells of a batch."""
        count = min(self._batch_size, self._left)
        self._left -= count
        self._progress(count)


def timed(model: "keras.Model", split: "Split") -> tuple[float, float]:
    """Returns seconds of a forward pass an image, and seconds until it is traced.

    The difference of two numbers of images has no part of what a call costs whatever its size; the
    shortest of several calls has the least of what else the machine does.

    Args:
        model: From images float32 [b, h, w, 3] in [0, 255]; traced here, unless it was before.
        split: At least one image, decoded before the clock starts.
    """
    chosen = split.indices[np.arange(MORE * TIMED) % len(split)]
    pixels = split.store.batch(chosen).astype(np.float32)
    batches = tf.data.Dataset.from_tensor_slices(pixels.reshape(MORE, TIMED, *pixels.shape[1:]))

    def seconds(count: int) -> float:
        began = time.perf_counter()
        run(model, batches.take(count))
        return time.perf_counter() - began

    first = seconds(1)
    once, more = (min(seconds(count) for _ in range(REPEATS)) for count in (1, MORE))
    return max(more - once, 1e-6) / ((MORE - 1) * TIMED), max(first - once, 0.0)


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
