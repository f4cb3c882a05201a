"""Sizes: one side or two, however they are written."""

import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.data import sizes


@pytest.mark.parametrize(
    ("size", "pair", "canonical", "text"),
    [
        (32, (32, 32), 32, "32"),
        ((32, 32), (32, 32), 32, "32"),
        ([32, 32], (32, 32), 32, "32"),
        ((96, 128), (96, 128), (96, 128), "96x128"),
        ([96, 128], (96, 128), (96, 128), "96x128"),
        ((np.int64(5), np.int32(1)), (5, 1), (5, 1), "5x1"),
        (np.int64(7), (7, 7), 7, "7"),
    ],
)
def test_a_size_is_a_side_or_height_and_width(size, pair, canonical, text) -> None:
    assert sizes.sides(size) == pair and sizes.shape(size) == (*pair, 3)
    found = sizes.canonical(size)
    assert found == canonical and type(found) is type(canonical)
    assert sizes.shown(size) == text and sizes.parse(text) == canonical


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (3,), (1, 2, 3), "96x128", 1.5, (1, 2.5), None])
def test_anything_else_is_refused(size) -> None:
    with pytest.raises(checks.ConfigError, match="a side in pixels, or .height, width.*Received"):
        sizes.canonical(size)


def test_squares_are_read_as_their_side() -> None:
    assert sizes.parse("32x32") == sizes.parse(" 32 ") == 32
    assert (sizes.parse("0"), sizes.parse("-1")) == (
        0,
        -1,
    )  # whether they will do is not known here
    with pytest.raises(checks.ConfigError, match=r"Received: image_size=\(0, 32\)"):
        sizes.parse("0x32")


@pytest.mark.parametrize(
    "text", ["", "x", "32x", "x32", "1x2x3", "3.5", "a", "32X48", "32,48", "1x-2"]
)
def test_what_is_no_size_is_a_line(text) -> None:
    with pytest.raises(
        checks.ConfigError, match="look like 96, or like 96x128 .*Received: image_s"
    ):
        sizes.parse(text)
