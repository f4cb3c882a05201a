"""The distance of moments: closed forms, leaving one image out by hand, and simulated samples."""

import dataclasses
import math

import numpy as np
import pytest

from finetune_kit.backbones import taps
from finetune_kit.similarity import moments, observing
from tests.similarity import nets

CHANNELS = 12
FACTORS = np.random.default_rng(9).normal(size=(4, CHANNELS)) / 2


def sample(n, *, seed, shift=0.0, scale=1.0, tap="a"):
    """Returns what a tap sees of n images: correlated channels, images of unequal contrast."""
    generator = np.random.default_rng(seed)
    contrast = np.exp(generator.normal(0, 0.4, (n, 1)))
    means = contrast * (generator.normal(size=(n, 4)) @ FACTORS) * 0.6
    variances = 0.5 * contrast**2 * np.exp(generator.normal(0, 0.3, (n, CHANNELS)))
    return observing.Seen(
        tap, "stem", (scale * means + shift).astype("f4"), (scale**2 * variances).astype("f4")
    )


def population(epsilon=0.0):
    return moments.Source(*sample(400_000, seed=1).pooled(), epsilon)


@pytest.fixture(scope="module")
def source():
    return population()


def observation(*seen):
    return observing.Observation(seen, {"stem": np.zeros((len(seen[0].means), 2), np.float32)})


def plain(seen, source):
    """Returns D by its definition, without any correction."""
    mean = seen.means.astype(np.float64).mean(axis=0)
    square = (seen.variances.astype(np.float64) + seen.means.astype(np.float64) ** 2).mean(axis=0)
    known = source.variance + source.epsilon
    deviation = np.sqrt(square - mean**2 + source.epsilon)
    return np.mean((mean - source.mean) ** 2 / known + (deviation / np.sqrt(known) - 1) ** 2)


def test_of_many_images_it_is_the_closed_form(source) -> None:
    seen = sample(200_000, seed=2, shift=0.3, scale=1.5)
    moved = (1.5 * source.mean + 0.3 - source.mean) ** 2 / source.variance
    assert moments.debiased(seen, source) == pytest.approx(np.mean(moved + 0.5**2), rel=0.02)


@pytest.mark.parametrize("n", [2, 3, 11])
def test_it_is_the_jackknife_over_images(n) -> None:
    source, seen = population(epsilon=0.01), sample(n, seed=n)
    without = [plain(seen.take(np.arange(n) != i), source) for i in range(n)]
    expected = n * plain(seen, source) - (n - 1) * np.mean(without)
    assert moments.debiased(seen, source) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("n", "left"), [(5, 0.25), (10, 0.12), (25, 0.12), (50, 0.12)])
def test_small_samples_of_the_source_are_at_0_on_average(source, n, left) -> None:
    samples = [sample(n, seed=1000 + i) for i in range(1000)]
    found = np.array([moments.debiased(seen, source) for seen in samples])
    biased = np.mean([plain(seen, source) for seen in samples])
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean()) < left * biased + 3 * error
    assert biased > 10 * error  # or the test would show nothing


@pytest.mark.parametrize("n", [10, 50])
def test_the_spread_is_debiased_too(source, n) -> None:
    # All images have the source's mean: only the second term is at work, and only it is biased.
    samples = [sample(n, seed=3000 + i) for i in range(1500)]
    samples = [dataclasses.replace(x, means=np.zeros_like(x.means)) for x in samples]
    variance = sample(400_000, seed=4).variances.mean(axis=0, dtype=np.float64)
    own = moments.Source(np.zeros(CHANNELS), variance, 0.0)
    found = np.array([moments.debiased(seen, own) for seen in samples])
    biased = np.mean([plain(seen, own) for seen in samples])
    assert abs(found.mean()) < 0.1 * biased + 3 * found.std() / math.sqrt(len(found))


def test_a_channel_that_is_dead_on_both_sides_is_no_distance() -> None:
    source = moments.Source(np.zeros(2), np.array([1.0, 0.0]), 1e-3)
    seen = observing.Seen("a", "stem", np.zeros((4, 2), "f4"), np.tile([1.0, 0.0], (4, 1)))
    assert moments.debiased(seen, source) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("n", "shift", "scale"), [(5, 0, 1), (10, 0, 1), (10, 0.5, 1.3), (50, 0.15, 1.1), (50, 1, 0.6)]
)
def test_intervals_hold_the_truth(source, n, shift, scale) -> None:
    moved = scale * source.mean + shift - source.mean
    truth = math.sqrt(np.mean(moved**2 / source.variance + (scale - 1) ** 2))
    held = 0
    for i in range(200):
        seen = sample(n, seed=5000 + i, shift=shift, scale=scale)
        found = moments.distances(observation(seen), {"a": source}, seed=i).overall
        assert found.low <= found.value <= found.high
        held += found.low - 0.005 <= truth <= found.high + 0.005
    # 95 % is meant; the bootstrap of few images with heavy tails falls short by a few points.
    assert held >= 0.87 * 200


def test_intervals_narrow_with_the_root_of_the_number_of_images(source) -> None:
    def width(n):
        seen = sample(n, seed=7, shift=0.5, scale=1.3)
        found = moments.distances(observation(seen), {"a": source}).overall
        return found.high - found.low

    assert width(50) / width(3200) == pytest.approx(8, rel=0.35)


def test_the_network_is_the_root_of_the_mean_over_its_taps(source) -> None:
    first = sample(30, seed=1, shift=0.2)
    second = sample(30, seed=2, shift=1.0, scale=2.0, tap="b")
    # Nearer to its source than chance allows: D is negative, and only the whole may be clipped.
    third = sample(30, seed=3, tap="c")
    known = {"a": source, "b": source, "c": moments.Source(*third.pooled(), 0.0)}
    assert moments.debiased(third, known["c"]) < 0
    found = moments.distances(observation(first, second, third), known)
    squared = [moments.debiased(x, known[x.tap]) for x in (first, second, third)]
    assert found.overall.value == pytest.approx(math.sqrt(np.mean(squared)))
    assert moments.distance(observation(first, second, third), known) == found.overall.value
    assert list(found.taps) == ["a", "b", "c"] and found.taps["c"].value == 0.0
    assert found.taps["b"].value == pytest.approx(math.sqrt(squared[1]))


def test_the_seed_decides(source) -> None:
    seen = observation(sample(20, seed=1, shift=0.3))
    one, same, other = (moments.distances(seen, {"a": source}, seed=s) for s in (1, 1, 2))
    assert one == same and one.overall.low != other.overall.low
    assert one.overall.value == other.overall.value


def test_batch_norm_layers_remember_their_source() -> None:
    backbone = nets.backbone()
    known = moments.sources(backbone)
    assert list(known) == ["one_bn", "two_bn"]
    for name, source in known.items():
        _, _, mean, variance = backbone.model.get_layer(name).get_weights()
        np.testing.assert_allclose(source.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(source.variance, variance, rtol=1e-6)
        assert source.epsilon == 1e-3


def test_random_weights_and_networks_without_batch_norm_remember_nothing() -> None:
    assert moments.sources(nets.backbone(weights="none")) is None
    assert moments.sources(nets.backbone(batch_norm=False)) is None


def test_a_card_comes_first_and_speaks_for_any_network() -> None:
    @dataclasses.dataclass
    class Card:
        moments: dict

    given = {"one_bn": (np.ones(4), np.full(4, 2.0)), "two_bn": (np.ones(8), np.full(8, 3.0))}
    known = moments.sources(nets.backbone(card=Card(given)))
    assert known["two_bn"].variance[0] == 3.0 and known["two_bn"].epsilon == 1e-3
    ends = {"stem": (np.ones(4), np.full(4, 200.0)), "stage_1": (np.ones(8), np.full(8, 3.0))}
    known = moments.sources(nets.backbone(batch_norm=False, card=Card(ends)))
    # Without a layer to ask, epsilon keeps to the scale of the activations.
    assert known["stem"].epsilon == pytest.approx(0.2)
    assert moments.sources(nets.backbone(weights="none", card=Card(given))) is None


def test_taps_without_a_layer_are_not_remembered() -> None:
    assert moments.remembered([taps.Tap("stem", "stem", None)]) == {}
