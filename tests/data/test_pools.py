"""A sample of a source: who is in it, what is read for it, what it says of itself."""

import os
import pathlib

import numpy as np
import pytest

from finetune_kit import checks, data
from finetune_kit.data import decode, folder, pools, splits
from tests.data import samples

COUNTS = {"ant": 20, "bee": 10, "cow": 10}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return str(samples.write_folder(tmp_path_factory.mktemp("pool") / "zoo", COUNTS))


def ranked(n, seed=0):
    return splits.ranks([f"image {i}" for i in range(n)], seed=seed, salt="pool")


@pytest.mark.parametrize(("limit", "expected"), [(10, [6, 3, 1]), (20, [12, 6, 2]), (1, [1, 0, 0])])
def test_classes_keep_their_shares(limit, expected) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    kept = pools.sample(labels, ranked(100), limit)
    assert np.bincount(labels[kept], minlength=3).tolist() == expected
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_the_sample_is_the_same_for_every_order_of_listing() -> None:
    labels, rank = np.repeat([0, 1, 2], [60, 30, 10]), ranked(100)
    kept = set(pools.sample(labels, rank, 25).tolist())
    shuffle = np.random.default_rng(1).permutation(100)
    assert {int(shuffle[i]) for i in pools.sample(labels[shuffle], rank[shuffle], 25)} == kept
    assert kept != set(pools.sample(labels, ranked(100, seed=1), 25).tolist())


def test_a_sample_of_more_than_there_is_is_all() -> None:
    labels = np.array([2, 0, 0, 2])
    assert pools.sample(labels, ranked(4), 9).tolist() == [0, 1, 2, 3]


def test_images_come_with_their_pixels_and_labels(source) -> None:
    pool = data.load_pool(source, image_size=6, limit=12)
    assert pool.class_names == ("ant", "bee", "cow") and pool.listed == 40 and pool.bad == ()
    assert np.bincount(pool.images.labels).tolist() == [6, 3, 3]
    pixels = pool.images.store.batch(pool.images.indices)
    for image, label, name in zip(pixels, pool.images.labels, pool.images.names, strict=True):
        assert name.startswith(pool.class_names[label])
        content = (pathlib.Path(source) / name).read_bytes()
        np.testing.assert_array_equal(image, decode.resize(decode.decode(content), 6))


def test_a_sample_need_not_be_square(source) -> None:
    pool = data.load_pool(source, image_size=(5, 7), limit=4)
    assert pool.images.store.batch(pool.images.indices).shape == (4, 5, 7, 3)


def test_only_the_sample_is_read(source, monkeypatch) -> None:
    read, original, counted = [], folder.FileReader.read, []

    def spy(self, position):
        read.append(os.path.join(self.root, self.paths[position]))
        return original(self, position)

    monkeypatch.setattr(folder.FileReader, "read", spy)
    pool = data.load_pool(source, image_size=6, limit=12, progress=counted.append)
    found = {str(pathlib.Path(source) / name) for name in pool.images.names}
    assert set(read) == found and len(read) == 12 == sum(counted)


def test_without_a_limit_all_are_taken(source) -> None:
    pool = data.load_pool(source, image_size=6)
    assert len(pool.images) == 40 == len(set(pool.images.names))


def test_of_a_source_with_splits_only_the_images_to_train_on_are_taken(tmp_path) -> None:
    counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in ("a", "b")}
    pool = data.load_pool(samples.write_folder(tmp_path / "zoo", counts), image_size=6)
    assert len(pool.images) == 6 == pool.listed
    assert all(name.startswith("train/") for name in pool.images.names)


def test_streaming_gives_the_cached_pixels(source) -> None:
    cached, streamed = (data.load_pool(source, image_size=6, limit=7, cache_mb=m) for m in (9, 0))
    assert cached.images.store.cached and not streamed.images.store.cached
    np.testing.assert_array_equal(
        *(pool.images.store.batch(pool.images.indices) for pool in (cached, streamed))
    )


def test_the_fingerprint_is_that_of_the_sample(source, tmp_path) -> None:
    def fingerprint(place=source, **more):
        return data.load_pool(place, image_size=6, **more).fingerprint

    whole = fingerprint()
    assert fingerprint(seed=5) == whole
    assert len({whole, fingerprint(limit=12), fingerprint(limit=12, seed=5)}) == 3
    copy = samples.write_folder(tmp_path / "zoo", COUNTS)
    assert fingerprint(copy) == whole
    samples.write(copy / "ant" / "0.png", seed=9999)
    assert fingerprint(copy) != whole


def test_what_cannot_be_decoded_is_left_out_and_named(tmp_path) -> None:
    root = samples.write_folder(tmp_path / "zoo", COUNTS)
    samples.write(root / "bee" / "3.png", b"no image")
    pool = data.load_pool(root, image_size=6, max_bad_fraction=0.1)
    assert [file.name for file in pool.bad] == ["bee/3.png"]
    assert len(pool.images) == 39 and "bee/3.png" not in pool.images.names
    assert pool.images.labels.tolist() == [0] * 20 + [1] * 9 + [2] * 10
    with pytest.raises(checks.DataError, match="may be unreadable"):
        data.load_pool(root, image_size=6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": -1}, "limit must lie in"),
        ({"image_size": 0}, "image_size must lie in"),
        ({"max_bad_fraction": 2.0}, "max_bad_fraction must lie in"),
    ],
)
def test_arguments_that_no_pool_can_be_made_of(source, options, words) -> None:
    with pytest.raises(checks.ConfigError, match=words):
        data.load_pool(source, **{"image_size": 6, **options})
