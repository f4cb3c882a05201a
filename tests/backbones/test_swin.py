"""How a map is cut into windows, against what the paper shows and brute force."""

import numpy as np
import pytest

from finetune_kit.backbones.swin import Cuts, Windows


@pytest.mark.parametrize(
    ("side", "window", "shifted", "expected"),
    [
        (8, 4, False, (4, 0, 0, 2)),
        (8, 4, True, (4, 2, 0, 2)),
        (4, 4, True, (4, 0, 0, 1)),  # one window holds the map
        (3, 4, True, (3, 0, 0, 1)),
        (10, 4, True, (4, 2, 2, 3)),
        (56, 7, True, (7, 3, 0, 8)),  # the first stage of Swin-T at 224 px
    ],
)
def test_windows_along_a_side(side, window, shifted, expected) -> None:
    found = Cuts.of(side, window=window, shifted=shifted)
    assert (found.window, found.shift, found.border, found.along) == expected


@pytest.mark.parametrize(
    ("sides", "window"),
    [((8, 8), 4), ((12, 12), 4), ((14, 14), 7), ((10, 10), 4), ((8, 14), 4), ((4, 8), 4)],
)
def test_a_shifted_window_masks_what_the_shift_brought_together(sides, window) -> None:
    windows = Windows.of(sides, window=window, shifted=True)
    mask, (high, wide) = windows.mask(), windows.window
    totals = [
        side + cuts.border for side, cuts in zip(sides, (windows.high, windows.wide), strict=True)
    ]
    assert mask.shape == (totals[0] // high * (totals[1] // wide), 1, *[high * wide] * 2)
    assert mask.dtype == np.float32
    # Where each place of the shifted map comes from: places are apart if a border lies between.
    from_y, from_x = (
        np.roll(np.arange(total), -shift)
        for total, shift in zip(totals, windows.shifts, strict=True)
    )
    for i, j in np.ndindex(totals[0] // high, totals[1] // wide):
        rows, columns = from_y[i * high :][:high], from_x[j * wide :][:wide]
        places = [(y, x) for y in rows for x in columns]
        near = np.array([[abs(a[0] - b[0]) < high and abs(a[1] - b[1]) < wide for b in places]
                         for a in places])  # fmt: skip
        own = mask[i * (totals[1] // wide) + j, 0]
        np.testing.assert_array_equal(own == 0, near)
        assert set(np.unique(own)) <= {0.0, -100.0}


@pytest.mark.parametrize(
    ("window", "table"), [((4, 4), 4), ((3, 3), 4), ((7, 7), 7), ((2, 2), 7), ((2, 4), 4)]
)
def test_offsets_of_a_smaller_window_are_among_those_of_a_larger(window, table) -> None:
    found = Windows.of(window, window=max(window), shifted=False).offsets(table)
    found = found.reshape(*window, *window)
    named = np.arange((2 * table - 1) ** 2).reshape(2 * table - 1, 2 * table - 1)
    for y, x, v, u in np.ndindex(*found.shape):
        assert found[y, x, v, u] == named[y - v + table - 1, x - u + table - 1]
