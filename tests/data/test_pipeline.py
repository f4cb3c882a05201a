"""The stream of batches: complete, repeatable, the same from wherever it is joined."""

import collections
import math
import threading

import numpy as np
import pytest
from tensorflow.python.autograph.impl import api

from finetune_kit import checks
from finetune_kit.data import levels, order, pipeline
from tests.data import samples

LABELS = np.array([0, 1, 2, 0, 1, 0, 0, 2, 0, 0, 1])


def batches(split, **more):
    """Returns all training batches as tuples of NumPy arrays."""
    values = {"num_classes": 3, "batch_size": 4, "seed": 0, "epochs": 1} | more
    return list(pipeline.batches(split, **values).as_numpy_iterator())


def assert_equal(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)


def places(images, *, side=12):
    """Returns which image of `samples.split` each of some unchanged images is."""
    known = {samples.noise(side, side, seed=i).tobytes(): i for i in range(len(LABELS))}
    return [known[image.astype(np.uint8).tobytes()] for image in images]


def stacked(found, column=0):
    return np.concatenate([batch[column] for batch in found])


@pytest.mark.parametrize(("n", "size", "steps"), [(11, 4, 3), (12, 4, 3), (13, 4, 4), (1, 4, 1)])
def test_the_last_batch_of_an_epoch_may_be_smaller(n, size, steps) -> None:
    assert pipeline.steps_per_epoch(n, size) == steps == math.ceil(n / size)
    found = batches(samples.split(np.arange(n) % 3), batch_size=size, epochs=2)
    sizes = [len(images) for images, _ in found]
    assert len(sizes) == 2 * steps and sizes[:steps] == sizes[steps:] and sum(sizes) == 2 * n
    assert set(sizes[: steps - 1]) <= {size}


def test_an_epoch_holds_every_image_with_its_own_label() -> None:
    found = batches(samples.split(LABELS))
    images, labels = stacked(found), stacked(found, 1)
    assert images.dtype == np.float32 and images.shape == (11, 12, 12, 3)
    assert labels.dtype == np.float32
    seen = places(images)
    assert sorted(seen) == list(range(11)) and seen != list(range(11))
    np.testing.assert_array_equal(labels, np.eye(3)[LABELS[seen]])


@pytest.mark.parametrize("name", levels.LEVELS)
def test_height_and_width_are_known_to_every_stream(name) -> None:
    split = samples.split(LABELS, side=(8, 12))
    wanted = (None, 8, 12, 3)
    streams = [pipeline.batches(split, num_classes=3, batch_size=4, seed=0, epochs=1,
                                augmentation=name)]  # fmt: skip
    streams.append(pipeline.evaluation_batches(split))
    if not levels.LEVELS[name].mix:
        views = {"batch_size": 4, "augmentation": name, "seed": 0, "view": 1}
        streams.append(pipeline.view_batches(split, **views))
    for stream in streams:
        spec = stream.element_spec
        assert tuple((spec[0] if isinstance(spec, tuple) else spec).shape) == wanted
        images = next(iter(stream))
        images = images[0] if isinstance(images, tuple) else images
        assert tuple(images.shape[1:]) == wanted[1:]


def test_the_order_is_that_of_seed_and_epoch() -> None:
    found = batches(samples.split(LABELS), seed=5, epochs=3)
    for epoch in range(3):
        seen = places(stacked(found[3 * epoch : 3 * epoch + 3]))
        assert seen == order.epoch_order(11, seed=5, epoch=epoch).tolist()


def test_two_epochs_differ_and_seeds_do_not_add_up() -> None:
    split = samples.split(LABELS)
    first, second = batches(split, epochs=2)[:3], batches(split, epochs=2)[3:]
    other = batches(split, seed=1)
    orders = [places(stacked(part)) for part in (first, second, other)]
    assert orders[0] != orders[1] and orders[1] != orders[2] and orders[0] != orders[2]


@pytest.mark.parametrize(
    ("augmentation", "sampling"),
    [("none", "balanced"), ("light", "natural"), ("medium", "balanced"), ("strong", "natural")],
)
def test_the_same_seed_gives_the_same_pixels(augmentation, sampling) -> None:
    options = {"augmentation": augmentation, "sampling": sampling, "epochs": 2}
    split = samples.split(LABELS)
    once = batches(split, **options)
    assert_equal(once, batches(split, **options))
    assert not np.array_equal(stacked(once), stacked(batches(split, seed=1, **options)))


@pytest.mark.parametrize("augmentation", ["none", "light", "strong"])
def test_cached_and_streaming_give_equal_batches(augmentation) -> None:
    options = {"augmentation": augmentation, "epochs": 2}
    cached = batches(samples.split(LABELS), **options)
    assert_equal(cached, batches(samples.split(LABELS, cached=False), **options))


@pytest.mark.parametrize("sampling", pipeline.SAMPLINGS)
def test_the_stream_from_anywhere_is_the_tail_of_the_whole(sampling) -> None:
    options = {
        "augmentation": "strong",
        "sampling": sampling,
        "epochs": 3,
        "class_weights": np.array([1, 2, 3], np.float32),
    }
    split = samples.split(LABELS)
    whole = batches(split, **options)
    for epoch, step in ((0, 1), (1, 2), (2, 0)):
        tail = batches(split, first_epoch=epoch, first_step=step, **options)
        assert_equal(tail, whole[3 * epoch + step :])


def test_the_number_of_epochs_does_not_change_those_before() -> None:
    split = samples.split(LABELS)
    assert_equal(batches(split, epochs=1), batches(split, epochs=3)[:3])
    assert batches(split, epochs=2, first_epoch=2) == []


def test_half_of_400_images_are_mirrored(monkeypatch) -> None:
    monkeypatch.setitem(levels.LEVELS, "light", levels.Level(flip=0.5))
    images = [samples.noise(4, 4, seed=i) for i in range(400)]
    split = samples.split(np.zeros(400, int), side=4, images=images)
    seen = order.epoch_order(400, seed=0, epoch=0)
    flips = []
    for epoch in (0, 1):
        found = batches(split, batch_size=64, augmentation="light", first_epoch=epoch, epochs=2)
        seen = order.epoch_order(400, seed=0, epoch=epoch)
        own = np.stack([images[i] for i in seen])
        flipped = (stacked(found)[:400] == own[:, :, ::-1]).all(axis=(1, 2, 3))
        flips.append(flipped[np.argsort(seen)])
        assert 160 <= flipped.sum() <= 240
    # Who is mirrored changes from epoch to epoch.
    assert 120 <= (flips[0] != flips[1]).sum() <= 280


@pytest.mark.parametrize("augmentation", ["light", "medium"])
def test_a_view_does_not_depend_on_the_size_of_batches(augmentation) -> None:
    split = samples.split(LABELS)
    small = stacked(batches(split, batch_size=2, augmentation=augmentation))
    large = stacked(batches(split, batch_size=11, augmentation=augmentation))
    np.testing.assert_allclose(small, large, atol=1e-3)


def test_equal_images_get_different_views() -> None:
    same = [samples.noise(12, 12)] * 11
    found = stacked(batches(samples.split(LABELS, images=same), augmentation="medium"))
    assert len({image.tobytes() for image in found}) == 11


def test_balanced_sampling_shows_each_class_equally_often() -> None:
    split = samples.split(LABELS)
    labels = stacked(batches(split, sampling="balanced", epochs=6), 1).argmax(axis=1)
    for epoch in range(6):
        counts = collections.Counter(labels[11 * epoch : 11 * epoch + 11].tolist())
        assert sorted(counts.values()) == [3, 4, 4]


def test_an_image_that_comes_again_in_an_epoch_gets_another_view() -> None:
    split = samples.split([0] * 9 + [1])
    found = batches(split, sampling="balanced", augmentation="medium")
    images, labels = stacked(found), stacked(found, 1)
    again = images[labels[:, 1] == 1]
    assert len(again) == 5 and len({image.tobytes() for image in again}) == 5


def test_class_weights_come_with_every_image() -> None:
    weights = np.array([0.5, 2.0, 7.0], np.float32)
    found = batches(samples.split(LABELS), class_weights=weights)
    labels = stacked(found, 1).argmax(axis=1)
    given = stacked(found, 2)
    assert given.dtype == np.float32
    np.testing.assert_array_equal(given, weights[labels])


def test_a_mixed_image_weighs_what_its_parts_weigh() -> None:
    weights = np.array([0.5, 2.0, 7.0], np.float32)
    found = batches(
        samples.split(np.arange(60) % 3), class_weights=weights, augmentation="strong", batch_size=9
    )
    labels = stacked(found, 1)
    assert (labels.max(axis=1) < 1).sum() > 10
    np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(stacked(found, 2), labels @ weights, rtol=1e-5)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("size", [1, 10, 11, 12, 64])
def test_evaluation_gives_every_image_once_in_order_and_unchanged(cached, size) -> None:
    split = samples.split(LABELS, cached=cached)
    found = list(pipeline.evaluation_batches(split, batch_size=size).as_numpy_iterator())
    assert len(found) == math.ceil(11 / size)
    images = np.concatenate(found)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(
        images, np.stack([samples.noise(12, 12, seed=i) for i in range(11)])
    )


def test_evaluation_of_a_part_gives_the_part() -> None:
    part = samples.split(LABELS).take(np.array([9, 2]))
    (images,) = pipeline.evaluation_batches(part).as_numpy_iterator()
    assert places(images) == [9, 2]


def test_batches_of_a_part_hold_the_part_alone() -> None:
    part = samples.split(LABELS).take(np.array([9, 2, 4]))
    found = batches(part, epochs=2)
    assert sorted(places(stacked(found))) == [2, 2, 4, 4, 9, 9]
    np.testing.assert_array_equal(stacked(found, 1), np.eye(3)[LABELS[places(stacked(found))]])


def test_shapes_are_known_before_the_first_batch() -> None:
    split = samples.split(LABELS)
    weights = np.ones(3, np.float32)
    images, labels, each = pipeline.batches(
        split, num_classes=3, batch_size=4, seed=0, epochs=1, class_weights=weights
    ).element_spec
    assert images.shape.as_list() == [None, 12, 12, 3]
    assert labels.shape.as_list() == [None, 3] and each.shape.as_list() == [None]
    assert pipeline.evaluation_batches(split).element_spec.shape.as_list() == [None, 12, 12, 3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"augmentation": "strnog"}, "augment must be one of none, .* Did you mean 'strong'"),
        ({"sampling": "even"}, "sampling must be one of natural, balanced. Received: sampling='ev"),
        ({"batch_size": 0}, r"batch_size must lie in \[1, inf\). Received: batch_size=0"),
    ],
)
def test_arguments_that_no_batch_can_be_made_of(options, words) -> None:
    with pytest.raises(checks.ConfigError, match=words):
        batches(samples.split(LABELS), **options)


def test_batches_are_decoded_ahead_while_one_is_used() -> None:
    ahead = threading.Event()
    split = samples.split(np.zeros(12, int), cached=False)
    decode, done = split.store.batch, []

    def spy(indices):
        done.append(len(indices))
        if len(done) > 1:
            ahead.set()
        return decode(indices)

    split.store.batch = spy
    stream = iter(pipeline.batches(split, num_classes=1, batch_size=4, seed=0, epochs=1))
    next(stream)  # and while this one is used, nobody asks for the next
    assert ahead.wait(timeout=30)


def test_nothing_is_rewritten_before_it_is_traced(monkeypatch) -> None:
    # AutoGraph takes longer than all else that a stream needs.
    rewritten, convert = [], api._convert_actual
    monkeypatch.setattr(api, "_convert_actual", lambda f, c: rewritten.append(f) or convert(f, c))
    split = samples.split(LABELS)
    for augmentation in levels.LEVELS:
        batches(split, augmentation=augmentation)
    list(pipeline.evaluation_batches(split))
    assert rewritten == []


def test_evaluation_needs_a_batch_size() -> None:
    with pytest.raises(checks.ConfigError, match=r"batch_size must lie in \[1, inf\)"):
        pipeline.evaluation_batches(samples.split(LABELS), batch_size=0)
