"""Which of two sizes is taken, on recognised images that are built by hand."""

import numpy as np
import pytest

from finetune_kit.strategy import resolution


@pytest.mark.parametrize(
    ("near", "far", "size"), [(50, 60, 64), (50, 50, 64), (50, 49, 64), (90, 60, 32)]
)
def test_the_larger_size_is_left_only_if_it_is_clearly_worse(near, far, size) -> None:
    recognised = (np.arange(100) < near, np.arange(100) < far)
    chosen = resolution.choose(32, 64, recognised, original=96)
    assert chosen.size == size
    assert chosen.reason.startswith(f"{size} px; the originals have 96 px")
    assert f"{far}.0 % at 64 px, {near}.0 % at 32 px" in chosen.reason
    assert ("may be chance" in chosen.reason) == (far < near and size == 64)


def test_without_a_held_out_image_the_rule_holds() -> None:
    chosen = resolution.choose(32, 64, None, original=96)
    assert chosen.size == 64 and "more pixels usually help" in chosen.reason
