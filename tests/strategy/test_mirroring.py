"""Whether mirror images are shown, on recognised images that are built by hand."""

import numpy as np
import pytest

from finetune_kit import data
from finetune_kit.strategy import comparing, mirroring


def hits(right: int, of: int = 100) -> np.ndarray:
    return np.arange(of) < right


def test_mirrored_images_that_are_others_are_not_shown() -> None:
    assert mirroring.choose((hits(90), hits(71))).level == "shift"
    chosen = mirroring.choose((hits(90), hits(40)))
    assert chosen.level == "shift"
    assert chosen.reason == (
        "small shifts without flips: a probe recognises 40.0 % of mirrored images, 90.0 % of those "
        "as they are"
    )


@pytest.mark.parametrize(
    "recognised",
    [
        (hits(90), hits(89)),
        (hits(40), hits(60)),
        (hits(90), hits(73)),  # clear, but less than a fifth
        (hits(5), hits(3)),  # two fifths, but by chance
        (hits(0), hits(0)),
        None,
    ],
)
def test_else_they_are(recognised) -> None:
    assert mirroring.choose(recognised).level == "light"


def test_the_levels_differ_by_the_mirror_alone() -> None:
    without, with_ = (data.LEVELS[name] for name in (mirroring.WITHOUT, mirroring.WITH))
    assert without.flip == 0 < with_.flip
    assert without.shift == with_.shift and not without.resamples and not with_.resamples


@pytest.mark.parametrize(
    ("others", "own", "worse"),
    [
        (50, 50, False),
        # Whatever the second way misses the first one misses too: of k fewer among 100 the mean is
        # k/100 and the deviation near its root.
        (50, 47, False),  # -0.03; 1.96 standard errors are 0.033
        (50, 45, True),  # -0.05; 0.043
        (100, 0, True),  # without any spread
    ],
)
def test_clear_is_beyond_chance(others, own, worse) -> None:
    assert comparing.is_clearly_worse(hits(own), hits(others)) == worse


def test_differences_are_paired() -> None:
    # 45 against 50, as above, but 30 are lost and 25 won.
    own = np.arange(100) < 20
    own[50:75] = True
    assert own.sum() == 45 and not comparing.is_clearly_worse(own, hits(50))
