"""Values are copied out of variables and put back."""

import keras
import numpy as np
import pytest

from finetune_kit.training import snapshots


def test_values_taken_do_not_follow_the_variables() -> None:
    variables = [keras.Variable(np.ones(2, "float32")), keras.Variable(np.array(3), dtype="int32")]
    kept = snapshots.take(iter(variables))
    for variable in variables:
        variable.assign(variable * 5)
    np.testing.assert_array_equal(kept[0], [1.0, 1.0])
    snapshots.put(variables, kept)
    np.testing.assert_array_equal(variables[0], [1.0, 1.0])
    assert int(variables[1]) == 3
    kept[0][:] = 7.0  # the caller's own
    np.testing.assert_array_equal(variables[0], [1.0, 1.0])


def test_values_of_other_variables_are_refused() -> None:
    variables = [keras.Variable(np.ones(2, "float32"))]
    with pytest.raises(ValueError, match="zip"):
        snapshots.put(variables, [])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.ones(3), np.array(2)], True),
        ([np.ones(3), np.array([1.0, np.nan])], False),
        ([np.array([np.inf], "float16")], False),
        ([np.array([-np.inf])], False),
        ([], True),
    ],
)
def test_finite_means_every_value(values, expected) -> None:
    assert snapshots.finite(values) is expected
