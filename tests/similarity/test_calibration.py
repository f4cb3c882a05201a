"""The scale from 0 to 1: its ends, the null distribution drawn again, and the same noise always."""

import dataclasses
import math

import keras
import numpy as np
import pytest

from finetune_kit import backbones, metrics, similarity
from finetune_kit.backbones import graphs
from finetune_kit.similarity import calibration, moments
from tests.similarity import nets, test_moments


def test_the_scale_ends_at_the_null_and_at_noise() -> None:
    def scaled(value):
        return calibration.similarity(
            metrics.Estimate(value, value - 0.2, value + 0.35), null=0.3, noise=1.3
        )

    # 0.3, 0.4 and 0.5 are the sides of a right-angled triangle.
    middle = scaled(0.5)
    assert middle.value == pytest.approx(1 - 0.4 / math.sqrt(1.3**2 - 0.3**2))
    assert middle.high == 1.0 and middle.low == pytest.approx(1 - math.sqrt(0.6325 / 1.6))
    assert (scaled(0.2).value, scaled(0.2).high) == (1.0, 1.0)
    assert (scaled(1.5).value, scaled(1.5).low) == (0.0, 0.0)


def test_the_number_of_images_hardly_moves_what_is_far() -> None:
    few, many = (
        calibration.similarity(metrics.Estimate(0.4, 0.4, 0.4), null=null, noise=0.8).value
        for null in (0.05, 0.02)
    )
    assert few == pytest.approx(0.5, abs=0.005) and many == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (10, 0.3), (100, 0.1), (5000, 0.1),
        (round(math.sqrt(1000)), 0.2),  # half-way between 1 and 2 in decades
        (5, 0.3 * math.sqrt(2)),
    ],
)  # fmt: skip
def test_the_null_is_read_at_the_number_of_images(images, expected) -> None:
    assert calibration.null({100: 0.1, 10: 0.3}, images) == pytest.approx(expected, rel=0.01)


def test_without_quantiles_the_null_is_0() -> None:
    assert calibration.null({}, 30) == 0.0


def test_null_quantiles_are_those_of_samples_of_the_source() -> None:
    source = test_moments.population()
    held = test_moments.observation(test_moments.sample(700, seed=8))
    found = calibration.null_quantiles(held, {"a": source}, seed=1)
    assert list(found) == [10, 25, 50, 100, 300]
    for n in (10, 50):
        fresh = [
            moments.debiased(test_moments.sample(n, seed=9000 + i), source) for i in range(600)
        ]
        expected = math.sqrt(np.quantile(fresh, 0.95))
        assert found[n] == pytest.approx(expected, rel=0.2)
    assert found[10] > found[50] > found[300] >= 0


def test_samples_larger_than_half_are_not_drawn() -> None:
    held = test_moments.observation(test_moments.sample(99, seed=8))
    found = calibration.null_quantiles(held, {"a": test_moments.population()})
    assert list(found) == [10, 25]


@pytest.mark.parametrize("size", [(nets.SIDE, nets.SIDE), (nets.SIDE, 24)])
def test_noise_is_the_same_at_every_call_and_far(size) -> None:
    backbone = nets.backbone()
    model = graphs.rebuilt(backbone.model, keras.Input((*size, 3)))
    stages = backbones.find_stages(model)
    backbone = dataclasses.replace(backbone, model=model, stages=stages, image_size=size)
    observer, known = similarity.Observer(backbone), moments.sources(backbone)
    first, second = (calibration.noise(observer, known) for _ in range(2))
    assert first == second
    pixels = np.random.default_rng(5).integers(0, 256, (400, *size, 3))
    other = moments.distance(observer.observe(nets.split(pixels)), known)
    assert first == pytest.approx(other, rel=0.02)
