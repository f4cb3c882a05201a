"""Published accuracies: every network has one, and a few by hand from the published tables."""

import pytest

from finetune_kit import checks
from finetune_kit.backbones import catalogue, published


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ResNet50", 0.749),
        ("vgg19", 0.713),
        ("xception", 0.790),
        ("EfficientNetV2L", 0.857),
        ("convnext_xlarge", 0.867),
        ("mobilenet", 0.704),
        ("mobilenet_v2", 0.713),
        ("mobilenet_v3_large", 0.756),
    ],
)
def test_a_network_as_it_is(name, expected) -> None:
    assert published.top1(name) == pytest.approx(expected, abs=1e-9)
    assert published.top1(name, arguments={}) == published.top1(name)


@pytest.mark.parametrize(
    ("name", "alpha", "side", "expected"),
    [
        ("mobilenet", 0.25, 128, 0.415),
        ("mobilenet", 0.5, 160, 0.591),
        ("mobilenet", 1, 128, 0.652),
        ("mobilenet_v2", 1.4, 224, 0.750),
        ("mobilenet_v2", 0.35, 96, 0.455),
        ("mobilenet_v3_small", 0.75, 224, 0.654),
        ("mobilenet", 1.0, 224, 0.704),
        ("mobilenet", 0.25, 96, None),
        ("mobilenet", 0.33, 224, None),
    ],
)
def test_a_mobilenet_of_another_width_or_side(name, alpha, side, expected) -> None:
    given = published.top1(name, arguments={"alpha": alpha}, trained_at=side)
    assert given == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_every_network_but_the_bundled_one_has_an_accuracy() -> None:
    assert set(published.TOP1) == set(catalogue.ENTRIES) - {catalogue.BUNDLED}
    assert published.top1("bundled") is None
    for widths in published.BY_WIDTH.values():
        # Wider and larger is never worse.
        for (width, side), accuracy in widths.items():
            smaller = [a for (w, s), a in widths.items() if w <= width and s <= side]
            assert max(smaller) == accuracy


def test_what_is_not_known_of() -> None:
    assert published.top1("mobilenet", arguments={"depth_multiplier": 2}) is None
    with pytest.raises(checks.ConfigError, match="Did you mean resnet50"):
        published.top1("resnet5")
