"""Default learning rates (S10)."""

import pytest

from finetune_kit import checks
from finetune_kit.strategy import rates
from finetune_kit.training import presets

SMALL = 3_000_000


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        # S10: 1e-4 for steps that are as long as the rate.
        ("adam", 1e-4),
        ("adamw", 1e-4),
        ("nadam", 1e-4),
        ("rmsprop", 1e-4),
        ("adamax", 2e-4),  # twice Adam's: 0.002 and 0.001 in Kingma & Ba, 2015
        ("lion", 2e-5),  # Chen et al., 2023: 3 to 10 times smaller than AdamW's
        ("adagrad", 1e-3),
        ("adafactor", 1e-3),
        ("lamb", 1e-3),
        ("sgd", 0.03),
        ("momentum", 0.01),  # the larger of S7's two values
        ("nesterov", 0.01),
        ("adadelta", 0.1),
    ],
)
def test_every_family_has_its_rate(optimizer, rate) -> None:
    assert rates.default_rate(optimizer, parameters=SMALL)[0] == pytest.approx(rate, rel=1e-12)


def test_every_optimizer_that_can_be_asked_for_has_a_family() -> None:
    for name in presets.OPTIMIZERS:
        rate, reason = rates.default_rate(name, parameters=SMALL)
        assert 0 < rate < 1
        assert reason.startswith(f"{rate:g}: 0.0001 for a body that has converged on its source, ")
        assert reason.endswith("(S10)")


def test_large_bodies_take_smaller_steps() -> None:
    # VGG16's 138 million parameters; ResNet50 has half of the limit.
    assert rates.default_rate("adam", parameters=138_357_544)[0] == pytest.approx(3e-5)
    assert "138 million parameters" in rates.default_rate("adam", parameters=138_357_544)[1]
    assert rates.default_rate("adam", parameters=25_636_712)[0] == pytest.approx(1e-4)
    assert rates.default_rate("adam", parameters=50_000_000)[0] == pytest.approx(1e-4)
    assert rates.default_rate("adam", parameters=50_000_001)[0] == pytest.approx(3e-5)


def test_small_bodies_take_larger_steps() -> None:
    rate, reason = rates.default_rate("momentum", parameters=218_544)  # MobileNet 0.25
    assert rate == pytest.approx(0.03)
    assert reason.startswith("0.03: 0.0003 for a body of 0.22 million parameters")
    assert rates.default_rate("adam", parameters=999_999)[0] == pytest.approx(3e-4)
    assert rates.default_rate("adam", parameters=1_000_000)[0] == pytest.approx(1e-4)


def test_rates_are_round_numbers() -> None:
    assert rates.default_rate("lion", parameters=60_000_000) == (
        6e-06,
        "6e-06: 3e-05 for a body of 60 million parameters, which forgets at larger ones, times "
        "0.2 since every step of Lion has full length (Chen et al., 2023, section 5) (S10)",
    )


def test_unknown_optimizers_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="optimizer='adamm'. Did you mean 'adam"):
        rates.default_rate("adamm", parameters=SMALL)
