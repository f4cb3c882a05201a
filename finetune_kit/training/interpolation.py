"""WiSE-FT: weights on the line from the probe to where fine-tuning has come."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from finetune_kit.training import snapshots


@contextlib.contextmanager
def interpolated(
    variables: Sequence[Any], start: Sequence[np.ndarray], share: float
) -> Iterator[None]:
    """Puts points of the line from `start` in the place of the values, while it is entered.

    (1 - share) * start + share * value, for every weight and statistic (Wortsman et al., 2022,
    "Robust fine-tuning of zero-shot models", eq. 1, with the probe for the zero-shot model).
    What has not moved stays as it is to the last bit.

    Args:
        variables: float32, any shapes.
        start: A value for each.
        share: Their alpha, in [0, 1]; with 1 nothing is done.
    """
    if share == 1.0:
        yield
        return
    kept = snapshots.take(variables)
    between = [a + np.float32(share) * (b - a) for a, b in zip(start, kept, strict=True)]
    snapshots.put(variables, between)
    try:
        yield
    finally:
        snapshots.put(variables, kept)
