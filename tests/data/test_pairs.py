"""Batches of two tasks: the target's rows as ever, and beside each a partner of its own."""

import collections

import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.data import levels, pairs, pipeline
from tests.data import samples

LABELS = np.array([0, 1, 2, 0, 1, 0, 0, 2, 0, 0, 1])
OTHERS = np.arange(20) % 4
# Partners of image i are 5 of the 20 others, different ones for every image.
NEIGHBOURS = (np.arange(11)[:, None] * 3 + np.arange(5)) % 20


def noise(count, first):
    return [samples.noise(12, 12, seed=first + i) for i in range(count)]


TARGET, SOURCE = noise(11, 0), noise(20, 100)


def partners(neighbours=NEIGHBOURS):
    split = samples.split(OTHERS, images=SOURCE)
    return pairs.Partners(images=split, num_classes=4, neighbours=neighbours)


def batches(*, share=0.5, target=None, beside=None, **more):
    """Returns all batches as tuples of NumPy arrays."""
    split = target or samples.split(LABELS, images=TARGET)
    values = {"num_classes": 3, "batch_size": 4, "seed": 0, "epochs": 1} | more
    epochs = values["epochs"] - values.get("first_epoch", 0)
    steps = epochs * pipeline.steps_per_epoch(len(split), values["batch_size"])
    shares = np.full(steps, share)
    stream = pairs.paired_batches(split, beside or partners(), shares=shares, **values)
    return list(stream.as_numpy_iterator())


def which(images, known):
    """Returns which of the known images each of some unchanged images is."""
    index = {image.tobytes(): i for i, image in enumerate(known)}
    return [index[image.astype(np.uint8).tobytes()] for image in images]


def seen(found):
    """Returns (image of the target, its partner) of every pair, in order."""
    halves = [np.split(images, 2) for images, *_ in found]
    return [
        pair
        for own, others in halves
        for pair in zip(which(own, TARGET), which(others, SOURCE), strict=True)
    ]


@pytest.mark.parametrize(
    ("augmentation", "sampling"),
    [("none", "natural"), ("medium", "balanced"), ("strong", "natural")],
)
def test_the_target_s_rows_are_those_that_it_has_alone(augmentation, sampling) -> None:
    options = {"augmentation": augmentation, "sampling": sampling, "epochs": 2, "seed": 3}
    split = samples.split(LABELS, images=TARGET)
    alone = pipeline.batches(split, num_classes=3, batch_size=4, **options)
    found = batches(**options)
    assert len(found) == 6
    for (images, labels), (both, both_labels, _) in zip(
        alone.as_numpy_iterator(), found, strict=True
    ):
        np.testing.assert_array_equal(both[: len(images)], images)
        np.testing.assert_array_equal(both_labels[: len(images), :3], labels)
        assert len(both) == 2 * len(images)


def test_every_image_stands_beside_a_partner_of_its_own() -> None:
    found = seen(batches(epochs=6))
    assert all(partner in NEIGHBOURS[image] for image, partner in found)
    assert sorted(image for image, _ in found) == sorted([*range(11)] * 6)


def test_labels_are_in_the_block_of_their_task() -> None:
    for batch in batches(epochs=2):
        labels, half = batch[1], len(batch[1]) // 2
        assert labels.shape == (2 * half, 7) and labels.dtype == np.float32
        assert not labels[:half, 3:].any() and not labels[half:, :3].any()
        own, others = np.transpose(seen([batch]))
        np.testing.assert_array_equal(labels[:half, :3], np.eye(3)[LABELS[own]])
        np.testing.assert_array_equal(labels[half:, 3:], np.eye(4)[OTHERS[others]])


def test_over_the_epochs_all_partners_come_equally_often() -> None:
    counts = collections.Counter(seen(batches(epochs=400)))
    drawn = [counts[image, partner] for image in range(11) for partner in NEIGHBOURS[image]]
    assert sum(drawn) == 4400
    # A binomial of 400 draws at 1/5: 80 with a deviation of 8.
    assert min(drawn) > 80 - 4 * 8 and max(drawn) < 80 + 4 * 8
    assert 6 < np.std(drawn) < 10


def test_a_partner_depends_on_seed_epoch_and_image_alone() -> None:
    whole = seen(batches(epochs=3))
    by_epoch = [dict(whole[11 * e : 11 * e + 11]) for e in range(3)]
    for size in (1, 11):
        other = seen(batches(epochs=3, batch_size=size))
        assert [dict(other[11 * e : 11 * e + 11]) for e in range(3)] == by_epoch
    assert seen(batches(epochs=3, first_epoch=1)) == whole[11:]
    assert by_epoch[0] != by_epoch[1] != by_epoch[2]
    assert dict(seen(batches(seed=1))) != by_epoch[0]


def test_an_image_that_comes_again_draws_again() -> None:
    target = samples.split([0] * 10 + [1], images=TARGET)
    again = [p for i, p in seen(batches(target=target, sampling="balanced", epochs=8)) if i == 10]
    per_epoch = [len(set(again[start : start + 5])) for start in range(0, len(again), 5)]
    # Of 5 or 6 draws from 5 partners in an epoch, 3.4 differ on average.
    assert len(again) >= 40 and np.mean(per_epoch) > 2.5


def test_a_source_image_that_comes_again_in_an_epoch_gets_another_view() -> None:
    beside = partners(np.zeros((11, 1), np.int64))
    for images, *_ in batches(beside=beside, augmentation="medium", batch_size=11):
        assert len({image.tobytes() for image in images[11:]}) == 11


def test_pairs_are_not_mirrored_together(monkeypatch) -> None:
    monkeypatch.setitem(levels.LEVELS, "light", levels.Level(flip=0.5))
    images = [samples.noise(4, 4, seed=i) for i in range(400)]
    split = samples.split(np.zeros(400, int), side=4, images=images)
    beside = pairs.Partners(split, 4, np.arange(400)[:, None])
    ((both, *_),) = batches(target=split, beside=beside, batch_size=400, augmentation="light")
    mirrored = {image[:, ::-1].tobytes() for image in images}
    own, other = np.split(np.array([i.astype(np.uint8).tobytes() in mirrored for i in both]), 2)
    assert 160 <= own.sum() <= 240 and 160 <= other.sum() <= 240
    assert 160 <= (own == other).sum() <= 240


def test_weights_give_each_task_its_share_of_the_loss() -> None:
    split = samples.split(LABELS, images=TARGET)
    shares = np.linspace(0.5, 0.0, 6)
    found = pairs.paired_batches(
        split, partners(), shares=shares, num_classes=3, batch_size=4, seed=0, epochs=2
    )
    losses = np.random.default_rng(0).uniform(1, 2, 8)
    for (_, _, weights), share in zip(found.as_numpy_iterator(), shares, strict=True):
        own, others = np.split(losses[: len(weights)], 2)
        expected = (1 - share) * own.mean() + share * others.mean()
        assert (weights * losses[: len(weights)]).mean() == pytest.approx(expected, rel=1e-6)
        assert weights.dtype == np.float32


def test_class_weights_weigh_the_target_alone() -> None:
    weights = np.array([0.5, 2.0, 7.0], np.float32)
    for _, labels, given in batches(share=0.25, class_weights=weights):
        own, others = np.split(given, 2)
        np.testing.assert_allclose(own, 1.5 * labels[: len(own), :3] @ weights, rtol=1e-6)
        np.testing.assert_allclose(others, 0.5, rtol=1e-6)


def test_shapes_are_known_before_the_first_batch() -> None:
    split = samples.split(LABELS, images=TARGET)
    images, labels, weights = pairs.paired_batches(
        split, partners(), shares=np.ones(3), num_classes=3, batch_size=4, seed=0, epochs=1
    ).element_spec
    assert images.shape.as_list() == [None, 12, 12, 3]
    assert labels.shape.as_list() == [None, 7] and weights.shape.as_list() == [None]


def test_every_image_needs_partners() -> None:
    split = samples.split(LABELS, images=TARGET)
    options = {"num_classes": 3, "batch_size": 4, "seed": 0, "epochs": 2}
    with pytest.raises(checks.ConfigError, match="row of neighbours. Received: images=11, rows=9"):
        pairs.paired_batches(split, partners(NEIGHBOURS[:9]), shares=np.ones(6), **options)
