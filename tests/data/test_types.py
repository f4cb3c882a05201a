"""The values that carry images."""

import json

import numpy as np

from finetune_kit.data import types
from tests.data import samples


def test_taking_images_keeps_everything_of_them_together() -> None:
    split = samples.split([0, 1, 2, 1])
    assert len(split) == 4
    for positions in (np.array([3, 1]), np.array([False, True, False, True])):
        taken = split.take(positions)
        order = [3, 1] if positions.dtype != bool else [1, 3]
        assert len(taken) == 2 and taken.store is split.store
        assert taken.names == tuple(f"image {i}" for i in order)
        np.testing.assert_array_equal(taken.labels, [1, 1])
        for row, place in zip(taken.store.batch(taken.indices), order, strict=True):
            np.testing.assert_array_equal(row, samples.noise(12, 12, seed=place))
    assert len(split.take(np.array([], int))) == 0


def test_counts_hold_classes_without_an_image() -> None:
    assert samples.split([0, 2, 2]).counts(4).tolist() == [1, 0, 2, 0]


def data(**more):
    audit = types.Audit(
        listed=9,
        decoded=8,
        bad=(types.BadFile("x.png", "the file is empty"),),
        ignored={".txt": 2},
        seconds=0.5,
        warnings=("no test image of b",),
        median_side=64,
    )
    values = {
        "name": "photos",
        "class_names": ("a", "b"),
        "train": samples.split([0, 1, 1, 0, 1]),
        "validation": None,
        "test": samples.split([0, 0, 0]),
        "folds": (types.Fold(np.array([0, 1, 2]), np.array([3, 4])),),
        "image_size": 12,
        "fingerprint": "ab" * 32,
        "audit": audit,
    }
    return types.ImageData(**values | more)


def test_splits_that_do_not_exist_are_left_out() -> None:
    assert list(data().splits()) == ["train", "test"]
    assert list(data(validation=samples.split([0]), test=None).splits()) == ["train", "validation"]
    assert data().num_classes == 2


def test_the_summary_is_plain_json() -> None:
    summary = data().summary()
    assert json.loads(json.dumps(summary)) == {
        "source": "photos",
        "fingerprint": "ab" * 32,
        "image_size": 12,
        "channels": 3,
        "classes": ["a", "b"],
        "counts": {"train": {"a": 2, "b": 3}, "test": {"a": 3, "b": 0}},
        "images": {"train": 5, "test": 3},
        "folds": 1,
        "audit": {
            "listed": 9,
            "decoded": 8,
            "bad": [{"name": "x.png", "reason": "the file is empty"}],
            "ignored": {".txt": 2},
            "seconds": 0.5,
            "warnings": ["no test image of b"],
            "median_side": 64,
        },
    }
