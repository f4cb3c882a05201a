"""Values of variables as NumPy arrays: taken, put back, and looked at for NaN."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def take(variables: Iterable[Any]) -> list[np.ndarray]:
    """Returns copies of the values, in order."""
    # Four times as fast as `keras.ops.convert_to_numpy`, and every epoch takes all of them.
    return [np.asarray(variable.value.numpy()) for variable in variables]


def put(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    """Writes values that `take` returned for the same variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def finite(values: Iterable[np.ndarray]) -> bool:
    """Returns whether no value is NaN or infinite."""
    return all(
        bool(np.isfinite(value).all()) for value in values if np.issubdtype(value.dtype, np.inexact)
    )
