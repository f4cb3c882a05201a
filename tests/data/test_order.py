"""Order and draws: functions of (seed, epoch, image), checked against transcriptions."""

import collections
import hashlib

import numpy as np
import pytest
import scipy.stats
import sklearn.utils

from finetune_kit.data import order


def test_an_epoch_holds_every_image_once() -> None:
    for n in (1, 2, 57):
        places = order.epoch_order(n, seed=3, epoch=4)
        assert places.dtype == np.int64
        np.testing.assert_array_equal(np.sort(places), np.arange(n))


def test_no_two_pairs_of_seed_and_epoch_share_an_order() -> None:
    orders = {
        tuple(order.epoch_order(40, seed=seed, epoch=epoch))
        for seed in range(-2, 8)
        for epoch in range(10)
    }
    assert len(orders) == 100
    # In particular, seed and epoch are hashed and not added.
    first = order.epoch_order(40, seed=0, epoch=1)
    assert not np.array_equal(first, order.epoch_order(40, seed=1, epoch=0))


def test_the_order_is_that_of_the_hash_alone() -> None:
    np.random.seed(5)
    key = int.from_bytes(hashlib.sha256(b"11:3").digest()[:16], "little")
    expected = np.random.Generator(np.random.Philox(key=key)).permutation(100)
    np.testing.assert_array_equal(order.epoch_order(100, seed=11, epoch=3), expected)


def test_orders_are_evenly_distributed() -> None:
    firsts = [order.epoch_order(5, seed=0, epoch=epoch)[0] for epoch in range(500)]
    assert scipy.stats.chisquare(np.bincount(firsts, minlength=5)).pvalue > 1e-3


def test_balanced_classes_appear_equally_often_within_one() -> None:
    labels = np.repeat([0, 1, 3], [70, 20, 7])
    for epoch in range(5):
        drawn = order.balanced_order(labels, seed=0, epoch=epoch)
        counts = collections.Counter(labels[drawn].tolist())
        assert len(drawn) == 97 and drawn.dtype == np.int64
        assert set(counts) == {0, 1, 3} and max(counts.values()) - min(counts.values()) <= 1


def test_an_image_is_drawn_again_only_after_all_of_its_class() -> None:
    labels = np.repeat([0, 1], [90, 10])
    drawn = order.balanced_order(labels, seed=1, epoch=2)
    times = np.bincount(drawn, minlength=100)
    assert times[:90].max() == 1 and times[:90].sum() == 50
    assert (times[90:] == 5).all()


def test_the_odd_image_goes_to_another_class_from_epoch_to_epoch() -> None:
    labels = np.repeat([0, 1], [6, 5])
    odd = {
        collections.Counter(labels[order.balanced_order(labels, seed=0, epoch=e)]).most_common(1)[
            0
        ][0]
        for e in range(20)
    }
    assert odd == {0, 1}


def test_balanced_orders_differ_and_repeat() -> None:
    labels = np.repeat([0, 1], [20, 5])
    first = order.balanced_order(labels, seed=0, epoch=1)
    np.testing.assert_array_equal(first, order.balanced_order(labels, seed=0, epoch=1))
    for seed, epoch in ((0, 2), (1, 0), (1, 1)):
        other = order.balanced_order(labels, seed=seed, epoch=epoch)
        assert not np.array_equal(first, other)
    # Classes are mixed and do not come one after the other.
    assert np.count_nonzero(np.diff(labels[first])) > 5


def test_occurrences_against_a_plain_loop() -> None:
    for entries in ([7, 3, 7], [], [1], [2, 2, 2], np.random.default_rng(0).integers(0, 9, 60)):
        seen = collections.Counter()
        expected = []
        for entry in map(int, entries):
            expected.append(seen[entry])
            seen[entry] += 1
        np.testing.assert_array_equal(order.occurrences(np.asarray(entries, int)), expected)


def test_draws_are_those_of_splitmix64(monkeypatch) -> None:
    # The published first outputs of the generator with state 1234567.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    digest = (1234567).to_bytes(8, "little") + bytes(24)
    monkeypatch.setattr(order, "_digest", lambda seed, epoch: digest)
    draws = order.uniforms(0, 0, np.array([0]), 5)
    expected = np.array([value >> 40 for value in published]) / 2**24
    np.testing.assert_array_equal(draws[0], expected.astype(np.float32))


def test_a_row_of_draws_is_its_images_own() -> None:
    together = order.uniforms(3, 1, np.array([5, 0, 900_000]), 21)
    for row, index in zip(together, (5, 0, 900_000), strict=True):
        np.testing.assert_array_equal(order.uniforms(3, 1, np.array([index]), 21)[0], row)
    assert order.uniforms(3, 1, np.array([], int), 21).shape == (0, 21)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0), (1, 1), (-1, 0), (10**30, 0)])
def test_draws_of_another_seed_or_epoch_are_others(seed, epoch) -> None:
    indices = np.arange(50)
    here = order.uniforms(0, 0, indices, 4)
    there = order.uniforms(seed, epoch, indices, 4)
    assert np.count_nonzero(here == there) == 0


def test_draws_are_uniform_and_independent() -> None:
    draws = order.uniforms(0, 0, np.arange(4000), 6)
    assert draws.dtype == np.float32 and draws.shape == (4000, 6)
    assert draws.min() >= 0 and draws.max() < 1
    for column in draws.T:
        assert scipy.stats.kstest(column, "uniform").pvalue > 1e-3
    correlations = np.corrcoef(draws.T)[np.triu_indices(6, 1)]
    assert np.abs(correlations).max() < 0.06
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.06


def test_the_largest_draw_stays_below_one(monkeypatch) -> None:
    top = np.full((1, 3), 2**64 - 1, np.uint64)
    monkeypatch.setattr(order, "_mix", lambda state: top)
    assert (order.uniforms(0, 0, np.array([0]), 3) < 1).all()


def test_class_weights_are_those_of_sklearn() -> None:
    labels = np.repeat([0, 1, 2], [50, 9, 1])
    expected = sklearn.utils.compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = order.class_weights(np.array([50, 9, 1]))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1, rel=1e-6)


def test_a_class_without_an_image_weighs_nothing() -> None:
    np.testing.assert_allclose(order.class_weights(np.array([6, 0, 2])), [4 / 6, 0, 2])
