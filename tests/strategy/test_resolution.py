"""Which of two sizes is taken, on recognised images that are built by hand."""

import numpy as np
import pytest

from finetune_kit.strategy import resolution


def hits(right: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < right


@pytest.mark.parametrize(
    ("near", "far", "size"),
    [
        (50, 60, 64),
        (50, 50, 64),
        # All of those that the smaller size misses are missed by the larger one too, so that k
        # images fewer are k ones among zeros: mean k/n, deviation near its root.
        (50, 47, 64),  # -0.03, 1.96 standard errors are 0.033
        (50, 45, 32),  # -0.05, 0.043
        (90, 60, 32),
    ],
)
def test_the_larger_size_is_left_only_if_it_is_clearly_worse(near, far, size) -> None:
    chosen = resolution.choose(32, 64, (hits(near), hits(far)), original=96)
    assert chosen.size == size
    assert chosen.reason.startswith(f"{size} px; the originals have 96 px")
    assert f"{far}.0 % at 64 px, {near}.0 % at 32 px" in chosen.reason


def test_differences_are_paired() -> None:
    # 45 against 50 of 100, clear where the five are lost and none is won; here 30 are lost and 25
    # won, which happens by chance.
    near, far = hits(50), np.arange(100) < 20
    far[50:75] = True
    assert far.sum() == 45
    assert resolution.choose(32, 64, (near, far), original=96).size == 64


def test_without_a_held_out_image_the_rule_holds() -> None:
    chosen = resolution.choose(32, 64, None, original=96)
    assert chosen.size == 64 and "more pixels usually help" in chosen.reason
