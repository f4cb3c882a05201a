"""Which source images are near: against histograms, distances and neighbours made by hand."""

import keras
import numpy as np
import pytest
import scipy.special

from finetune_kit import backbones, checks, data, similarity
from finetune_kit.backbones import building, types
from finetune_kit.similarity import selecting
from tests.training import squares

BINS = 5


def maps(n, side, channels, seed=0):
    """Returns what a layer might answer: half of it silent, as behind a ReLU."""
    return np.random.default_rng(seed).normal(size=(n, side, side, channels)).clip(0).astype("f4")


def layers(n, seed=0):
    return [maps(n, 8, 3, seed), maps(n, 4, 6, seed + 100)]


@pytest.fixture(scope="module")
def edges():
    return selecting.edges_of([layers(30, seed=9)], bins=BINS)


@pytest.fixture(scope="module")
def rows(edges):
    """Descriptors of 7 target and 40 source images."""
    return tuple(selecting.descriptors(layers(n, seed=n), edges) for n in (7, 40))


def shares(image, own):
    """Returns one channel's histogram of one image, by NumPy."""
    counts, _ = np.histogram(image, np.r_[-np.inf, own, np.inf])
    return counts / image.size


def test_every_bin_of_a_channel_holds_equally_many_answers() -> None:
    values = np.random.default_rng(0).normal([0, 5], [1, 9], (20, 16, 16, 2)).astype("f4")
    (found,) = selecting.edges_of([[values[:8]], [values[8:]]], bins=16)
    assert found.shape == (2, 15)
    for channel in range(2):
        counts = 5120 * shares(values[..., channel], found[channel])
        np.testing.assert_allclose(counts, 320, atol=1)


def test_edges_are_those_of_their_layer(edges) -> None:
    assert [layer.shape for layer in edges] == [(3, BINS - 1), (6, BINS - 1)]
    other = layers(30, seed=9)[1][..., 4]
    expected = np.percentile(other, [20, 40, 60, 80])
    np.testing.assert_allclose(edges[1][4], expected, rtol=1e-5)


def test_large_maps_are_looked_at_here_and_there() -> None:
    values = np.random.default_rng(0).normal(size=(4, 80, 80, 2)).astype("f4")
    (found,) = selecting.edges_of([[values]])
    expected = scipy.special.ndtri(np.arange(1, 16) / 16)
    np.testing.assert_allclose(found, [expected, expected], atol=0.1)
    assert len(selecting._places(values)) <= 4 * selecting.EDGE_PLACES


def test_histograms_are_those_of_numpy(edges) -> None:
    answers = layers(5, seed=3)[1]
    found = selecting.histograms(answers, edges[1])
    assert found.shape == (5, 6, BINS) and found.dtype == np.float32
    for image in range(5):
        for channel in range(6):
            expected = shares(answers[image, :, :, channel], edges[1][channel])
            np.testing.assert_allclose(found[image, channel], expected, atol=1e-7)


def test_an_answer_at_an_edge_belongs_to_the_bin_above() -> None:
    answers = np.array([0.0, 1.0, 1.0, 2.0], "f4").reshape(1, 2, 2, 1)
    found = selecting.histograms(answers, np.array([[0.0, 0.0, 1.0]], "f4"))
    np.testing.assert_array_equal(found, [[[0, 0, 0.25, 0.75]]])


def test_the_product_of_two_descriptors_is_the_coefficient_of_bhattacharyya(edges) -> None:
    answers = layers(4, seed=5)
    found = selecting.descriptors(answers, edges)
    assert found.shape == (4, (3 + 6) * BINS)
    np.testing.assert_allclose((found**2).sum(axis=1), 1, rtol=1e-5)
    for a in range(4):
        for b in range(4):
            by_layer = [
                np.mean([
                    np.sqrt(shares(x[a, ..., c], e[c]) * shares(x[b, ..., c], e[c])).sum()
                    for c in range(len(e))
                ])
                for x, e in zip(answers, edges, strict=True)
            ]  # fmt: skip
            assert found[a] @ found[b] == pytest.approx(np.mean(by_layer), abs=1e-5)


def by_force(target, source, distance):
    """Returns the order of the source images, nearest first, pair by pair."""
    table = [[distance(t.astype(float), s.astype(float)) for s in source] for t in target]
    return np.argsort(table, axis=1)


def hellinger(p, q):
    return np.sqrt(((p - q) ** 2).sum() / 2)


def divergence(p, q):
    p, q = p**2 + 2.2e-16, q**2 + 2.2e-16
    return (scipy.special.rel_entr(p, q) + scipy.special.rel_entr(q, p)).sum() / 2


@pytest.mark.parametrize(("name", "distance"), [("hellinger", hellinger), ("kl", divergence)])
def test_neighbours_are_those_that_comparing_every_pair_finds(rows, name, distance) -> None:
    target, source = rows
    expected = by_force(target, source, distance)
    found = selecting.select(target, source, neighbours=12, distance=name)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected[:, :12])


def test_the_two_distances_are_not_the_same(rows) -> None:
    found = [selecting.select(*rows, neighbours=12, distance=d) for d in selecting.DISTANCES]
    assert not np.array_equal(*found)


@pytest.mark.parametrize("size", [1, 7, 39, 40])
@pytest.mark.parametrize("distance", selecting.DISTANCES)
def test_batches_give_what_the_whole_gives(rows, size, distance) -> None:
    target, source = rows
    stream = (source[start : start + size] for start in range(0, 40, size))
    found = selecting.select(target, stream, neighbours=9, distance=distance)
    np.testing.assert_array_equal(
        found, selecting.select(target, source, neighbours=9, distance=distance)
    )


def test_of_equal_images_the_first_come_first() -> None:
    source = np.eye(3, dtype="f4")[[2, 0, 1, 0, 0]]
    target = np.eye(3, dtype="f4")[[0]]
    for batches in (source, [source[:3], source[3:]]):
        assert selecting.select(target, batches, neighbours=4).tolist() == [[1, 3, 4, 0]]


def test_what_cannot_be_selected(rows) -> None:
    with pytest.raises(checks.ConfigError, match=r"neighbours must lie in \[1, 40\]. .*=41"):
        selecting.select(*rows, neighbours=41)
    with pytest.raises(checks.ConfigError, match="distance must be one of hellinger, kl"):
        selecting.select(*rows, neighbours=1, distance="emd")


@pytest.fixture(scope="module")
def backbone():
    keras.utils.set_random_seed(0)
    model = building.build("4|6|8", 32, any_filters=True)
    return types.Backbone(
        name="small", model=model, stages=backbones.find_stages(model), image_size=32, weights=""
    )


def split(pixels):
    labels = np.arange(len(pixels)) % 2
    source = data.Arrays(pixels.astype(np.uint8), labels, class_names=("a", "b"))
    return data.load_pool(source, image_size=pixels.shape[1]).images


def textures(n, seed=0):
    """Returns noise of a strength, colour and grain of its own for every image."""
    generator = np.random.default_rng(seed)
    grains = [generator.normal(size=(32 // g, 32 // g, 3)).repeat(g, 0).repeat(g, 1)
              for g in generator.choice([1, 2, 4, 8], n)]  # fmt: skip
    mean = generator.uniform(60, 190, (n, 1, 1, 3))
    return (mean + generator.uniform(5, 60, (n, 1, 1, 1)) * np.stack(grains)).clip(0, 255)


def test_the_filter_bank_is_the_first_two_stages(backbone) -> None:
    assert len(backbone.stages) == 3
    pixels = textures(2).astype("f4")
    found = selecting.filter_bank(backbone).predict(pixels, verbose=0)
    whole = keras.Model(backbone.model.inputs[0], [s.output for s in backbone.stages])
    for ours, theirs in zip(found, whole.predict(pixels, verbose=0)[:2], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("distance", selecting.DISTANCES)
def test_copies_of_the_target_are_found_among_others(backbone, distance, monkeypatch) -> None:
    monkeypatch.setattr(selecting, "BATCH", 16)
    target = textures(12, seed=1)
    places = np.random.default_rng(2).permutation(80)[:12]
    source = textures(80, seed=3)
    source[places] = target
    seen = []
    found = similarity.nearest(
        backbone, split(target), split(source), neighbours=3, distance=distance,
        progress=seen.append,
    )  # fmt: skip
    assert found.shape == (12, 3)
    np.testing.assert_array_equal(found[:, 0], places)
    assert sum(seen) == 92


def test_near_are_images_of_the_same_colour_and_grain(backbone) -> None:
    target, source = textures(6, seed=1), textures(60, seed=4)
    source[:30] = np.repeat(target, 5, axis=0) + np.random.default_rng(5).normal(
        0, 2, (30, 32, 32, 3)
    )
    found = similarity.nearest(backbone, split(target), split(source.clip(0, 255)), neighbours=5)
    own = found // 5 == np.arange(6)[:, None]
    assert own.mean() > 0.8  # at random, a twelfth


def test_more_neighbours_than_there_are_images(backbone) -> None:
    with pytest.raises(checks.ConfigError, match=r"neighbours must lie in \[1, 4\]. .*=5"):
        similarity.nearest(backbone, split(textures(2)), split(textures(4)), neighbours=5)


def test_the_control_differs_in_likeness_alone() -> None:
    chosen = np.random.default_rng(0).integers(0, 40, (30, 6))
    found = similarity.at_random(chosen, 1000, seed=1)
    # A map from images to other images, one to one: who stands beside whom is as before.
    pairs = set(zip(chosen.ravel().tolist(), found.ravel().tolist(), strict=True))
    assert len(pairs) == len(np.unique(chosen)) == len(np.unique(found))
    assert found.shape == chosen.shape and found.min() >= 0 and found.max() < 1000
    assert found.max() > 500 and not np.array_equal(
        found, similarity.at_random(chosen, 1000, seed=2)
    )
    np.testing.assert_array_equal(found, similarity.at_random(chosen, 1000, seed=1))


def test_a_network_of_one_stage_has_one_layer_of_filters() -> None:
    classifier = squares.classifier()
    one = types.Backbone(
        name="one", model=classifier.backbone.model, stages=classifier.backbone.stages[:1],
        image_size=16, weights="",
    )  # fmt: skip
    images = data.load_pool(squares.images(4), image_size=16).images
    found = similarity.nearest(one, images, images, neighbours=2)
    assert found[:, 0].tolist() == list(range(12))
