"""The source card: features against NumPy, and the way to the disk and back."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks
from finetune_kit.backbones import card, taps
from finetune_kit.data import sizes


def example() -> backbones.SourceCard:
    generator = np.random.default_rng(2)
    return backbones.SourceCard(
        trained_on="squares",
        terms="none",
        class_names=("a", "b"),
        image_size=8,
        accuracy={"value": 0.5, "low": 0.4, "high": 0.6, "n": 90},
        recipe={"epochs": 3},
        moments={"bn": (generator.normal(size=4), generator.uniform(size=4))},
        feature_mean=generator.normal(size=5).astype(np.float32),
        feature_covariance=(1e-6 * generator.normal(size=(5, 5))).astype(np.float32),
        prototypes=generator.normal(size=(2, 5)).astype(np.float32),
        features=generator.normal(size=(9, 5)).astype(np.float16),
        null_quantiles={10: 0.2, 100: 0.05},
    )


def assert_same(one, other) -> None:
    for field in dataclasses.fields(one):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name == "moments":
            assert ours.keys() == theirs.keys()
            for pair, expected in zip(ours["bn"], theirs["bn"], strict=True):
                np.testing.assert_array_equal(pair, expected)
        else:
            np.testing.assert_array_equal(ours, theirs)
            assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def test_feature_statistics_are_numpys() -> None:
    generator = np.random.default_rng(4)
    rows, labels = generator.normal(size=(50, 6)), np.arange(50) % 3
    mean, covariance, prototypes = card.feature_statistics(rows, labels, num_classes=3)
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(covariance, centred.T @ centred / 49, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(prototypes[2], rows[2::3].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_without_labels_there_are_no_class_means() -> None:
    rows = np.random.default_rng(4).normal(size=(50, 6))
    mean, _, prototypes = card.feature_statistics(rows, None, num_classes=0)
    assert prototypes is None
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_card_comes_back_as_it_was_written(tmp_path) -> None:
    assert card.read(tmp_path) is None
    card.write(example(), tmp_path)
    assert_same(card.read(tmp_path), example())
    card.write_file(example(), tmp_path / "card.npz")
    assert_same(card.read_file(tmp_path / "card.npz"), example())


def test_a_card_of_images_that_are_not_square_comes_back(tmp_path) -> None:
    oblong = dataclasses.replace(example(), image_size=(8, 12))
    card.write_file(oblong, tmp_path / "card.npz")
    assert card.read_file(tmp_path / "card.npz").image_size == (8, 12)


def test_what_a_card_lacks_is_missing_when_it_comes_back(tmp_path) -> None:
    bare = dataclasses.replace(example(), prototypes=None, features=None, null_quantiles={})
    card.write_file(bare, tmp_path / "card.npz")
    assert_same(card.read_file(tmp_path / "card.npz"), bare)


def test_a_card_of_before_features_and_nulls_is_read(tmp_path) -> None:
    card.write(dataclasses.replace(example(), features=None), tmp_path)
    facts = json.loads((tmp_path / card.CARD).read_text(encoding="utf-8"))
    del facts["null_quantiles"]
    (tmp_path / card.CARD).write_text(json.dumps(facts), encoding="utf-8")
    found = card.read(tmp_path)
    assert found.features is None and found.null_quantiles == {}
    np.testing.assert_array_equal(found.prototypes, example().prototypes)


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_card(tmp_path, content) -> None:
    path = tmp_path / "card.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(checks.WeightsError, match="--source_card needs a file that") as caught:
        card.read_file(path)
    assert "card.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_an_archive_of_other_arrays_is_no_card(tmp_path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(checks.WeightsError, match="Received: .*other.npz"):
        card.read_file(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("channels", "features", "words"),
    [
        ({"bn": 5}, 5, "it differs at bn. Make one"),
        ({"bn": 4, "bn_2": 4}, 5, "with 2 taps .* with 1 taps and 5 features; it differs at bn_2"),
        ({"norm": 4}, 5, "it differs at norm, bn. Make"),
        ({"bn": 4}, 6, "6 features. Received: 'c.npz' with 1 taps and 5 features. Make"),
    ],
)
def test_a_card_for_another_network_is_refused(channels, features, words) -> None:
    found = [taps.Tap(n, "stem", keras.KerasTensor((None, c))) for n, c in channels.items()]
    with pytest.raises(checks.WeightsError, match=words):
        card.refuse_unfit(example(), found, features=features, path="c.npz", network="toy")


def test_a_card_for_this_network_passes() -> None:
    found = [taps.Tap("bn", "stem", keras.KerasTensor((None, 4)))]
    said = card.refuse_unfit(example(), found, features=5, path="c.npz", network="toy")
    assert said is None


def test_the_bundled_card_describes_the_bundled_weights() -> None:
    backbone = backbones.load("bundled")
    known = backbone.card
    assert known is not None and len(known.class_names) == len(known.prototypes)
    assert known.accuracy["low"] < known.accuracy["value"] < known.accuracy["high"]
    assert known.terms and known.recipe["command"].startswith("finetune-kit pretrain --data=")
    norms = {
        x.name for x in backbone.model.layers if isinstance(x, keras.layers.BatchNormalization)
    }
    assert known.moments.keys() == norms
    # BatchNorm's own statistics are of the fractals, too, which are not described.
    for name, (mean, variance) in known.moments.items():
        layer = backbone.model.get_layer(name)
        deviation = np.sqrt(variance)
        distance = np.abs(np.array(layer.moving_mean) - mean) / deviation
        assert np.median(distance) < 0.5, name
    assert known.features.shape == (512, 256) and known.features.dtype == np.float16
    # As many images of one source have one mean.
    error = np.sqrt(np.diag(known.feature_covariance) / len(known.features))
    apart = np.abs(known.features.astype(np.float64).mean(axis=0) - known.feature_mean) / error
    assert np.median(apart) < 1.5
    nulls = known.null_quantiles
    assert list(nulls) == [10, 25, 50, 100, 300]
    assert 0.2 > nulls[10] > nulls[50] > nulls[300] > 0
    text = (card_folder() / card.CARD).read_text(encoding="utf-8")
    assert "/" not in json.loads(text)["trained_on"].split(" ")[0].removeprefix("tfds:")


def test_a_card_that_was_measured_at_the_size_of_the_images_is_preferred(tmp_path) -> None:
    card.write(example(), tmp_path)
    for size in (64, (64, 96)):
        larger = dataclasses.replace(example(), image_size=size)
        card.write_file(larger, tmp_path / f"card_{sizes.shown(size)}.npz")
        assert_same(card.read(tmp_path, size), larger)
    assert_same(card.read(tmp_path, 96), example())
    assert_same(card.read(tmp_path), example())


@pytest.mark.parametrize(("size", "measured"), [(32, 32), (64, 64), (128, 32)])
def test_the_bundled_network_has_cards_of_two_sizes(size, measured) -> None:
    backbone = backbones.load("bundled", image_size=size)
    assert backbone.card.image_size == measured
    # Moments at the size are nearer to what BatchNorm remembers than chance would have it.
    layer = backbone.model.get_layer("block_1_conv_1_bn")
    mean, variance = backbone.card.moments[layer.name]
    assert np.median(np.abs(np.array(layer.moving_mean) - mean) / np.sqrt(variance)) < 0.5


def test_the_bundled_weights_and_cards_fit_into_the_wheel() -> None:
    assert (card_folder() / "bundled.weights.h5").stat().st_size > 0
    assert sum(path.stat().st_size for path in card_folder().iterdir()) <= 4 * 2**20


def card_folder():
    from finetune_kit.backbones import network

    return network.FILES
