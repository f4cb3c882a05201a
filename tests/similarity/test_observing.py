"""What taps see, against the network run layer by layer and pooled in NumPy."""

import keras
import numpy as np
import pytest

from finetune_kit import checks, similarity
from finetune_kit.similarity import observing
from tests.similarity import nets

TAPS = {"one_bn": "one", "two_bn": "two"}  # tap to the layer whose output it is


@pytest.fixture(scope="module")
def backbone():
    return nets.backbone()


@pytest.mark.parametrize("batch_size", [1, 4, 9, 64])
def test_moments_are_those_of_each_image_in_order(backbone, batch_size) -> None:
    pixels = nets.images(9)
    seen = similarity.observe(backbone, nets.split(pixels), batch_size=batch_size)
    outputs = nets.layer_by_layer(backbone.model, pixels)
    assert len(seen) == 9
    assert [(tap.tap, tap.stage) for tap in seen.seen] == [
        ("one_bn", "stem"),
        ("two_bn", "stage_1"),
    ]
    for tap in seen.seen:
        x = outputs[TAPS[tap.tap]]
        assert tap.means.dtype == tap.variances.dtype == np.float32
        np.testing.assert_allclose(tap.means, x.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(tap.variances, x.var(axis=(1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(tap.squares, (x**2).mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
        mean, variance = tap.pooled()
        np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)), rtol=1e-4)


def test_features_are_the_averages_at_the_end_of_every_stage(backbone) -> None:
    pixels = nets.images(5)
    seen = similarity.observe(backbone, nets.split(pixels))
    outputs = nets.layer_by_layer(backbone.model, pixels)
    assert list(seen.features) == ["stem", "stage_1"]
    # The first pooling halves the side, so it begins the next stage.
    for stage, layer in (("stem", "one_relu"), ("stage_1", "two_pool")):
        expected = outputs[layer].mean(axis=(1, 2))
        np.testing.assert_allclose(seen.features[stage], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen.pooled_features, seen.features["stage_1"])


def test_without_batch_norm_the_ends_of_the_stages_are_looked_at() -> None:
    backbone, pixels = nets.backbone(batch_norm=False), nets.images(4)
    seen = similarity.observe(backbone, nets.split(pixels))
    x = nets.layer_by_layer(backbone.model, pixels)["one_relu"]
    assert [(tap.tap, tap.stage) for tap in seen.seen] == [("stem", "stem"), ("stage_1", "stage_1")]
    np.testing.assert_allclose(seen.seen[0].variances, x.var(axis=(1, 2)), rtol=1e-4, atol=1e-6)


def test_looking_leaves_the_network_as_it_was(backbone) -> None:
    before = [np.array(v) for v in backbone.model.variables]
    similarity.observe(backbone, nets.split(nets.images(6)), batch_size=4)
    for value, old in zip(backbone.model.variables, before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_a_small_spread_around_a_large_mean_is_not_lost() -> None:
    # In float32 the squares of these values agree in all their digits.
    x = 1e4 + np.random.default_rng(0).normal(size=(3, 8, 8, 2))
    for values in (x, x.reshape(3, 64, 2)):
        means, variances = observing.pool(values.astype(np.float32))
        seen = observing.Seen("tap", "stem", np.array(means), np.array(variances))
        kept = values.astype(np.float32).astype(np.float64).reshape(3, 64, 2)
        np.testing.assert_allclose(seen.variances, kept.var(axis=1), rtol=1e-3)
        np.testing.assert_allclose(seen.pooled()[1], kept.var(axis=(0, 1)), rtol=1e-2)


def test_half_precision_is_pooled_in_single() -> None:
    # 4096 values of 100: their sum is beyond float16.
    means, _ = observing.pool(keras.ops.full((1, 64, 64, 1), 100, dtype="float16"))
    assert float(means[0, 0]) == 100.0


def test_progress_adds_up_to_the_images(backbone) -> None:
    told = []
    similarity.observe(backbone, nets.split(nets.images(9)), batch_size=4, progress=told.append)
    assert told == [4, 4, 1]


def test_images_can_be_picked_afterwards(backbone) -> None:
    seen = similarity.observe(backbone, nets.split(nets.images(9)))
    some = seen.take(np.array([7, 0]))
    assert len(some) == 2
    np.testing.assert_array_equal(some.seen[1].means, seen.seen[1].means[[7, 0]])
    np.testing.assert_array_equal(some.seen[1].variances, seen.seen[1].variances[[7, 0]])
    np.testing.assert_array_equal(some.pooled_features, seen.pooled_features[[7, 0]])


def test_an_observer_looks_again_and_again(backbone) -> None:
    observer = similarity.Observer(backbone)
    assert observer.size == nets.SIDE
    for n in (5, 2):
        split = nets.split(nets.images(n, seed=n))
        ours, theirs = observer.observe(split), similarity.observe(backbone, split)
        np.testing.assert_array_equal(ours.seen[1].means, theirs.seen[1].means)


def test_a_batch_size_below_one(backbone) -> None:
    with pytest.raises(checks.ConfigError, match="batch_size must lie in"):
        similarity.observe(backbone, nets.split(nets.images(2)), batch_size=0)
