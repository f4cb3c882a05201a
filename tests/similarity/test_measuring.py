"""The whole measurement on the bundled network: order, ends, reasons, and what it is made of."""

import dataclasses
import json
import math

import numpy as np
import pytest

from finetune_kit import backbones, data, similarity
from finetune_kit.backbones import stems
from finetune_kit.data import arrays
from finetune_kit.similarity import innovation, measuring, moments, types
from tests.similarity import nets


def pixel_noise(n, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3))


@pytest.fixture(scope="module")
def backbone():
    return backbones.load("bundled")


@pytest.fixture(scope="module")
def observer(backbone):
    return similarity.Observer(backbone)


@pytest.fixture(scope="module")
def photos(backbone, observer):
    return similarity.measure(backbone, nets.split(nets.photographs(50)), observer=observer)


def test_photographs_are_nearer_than_dark_ones_and_noise_is_at_0(
    backbone, observer, photos
) -> None:
    dark = 0.1 * nets.photographs(50)  # it was trained on views of many brightnesses
    others = [
        similarity.measure(backbone, nets.split(pixels), observer=observer)
        for pixels in (dark, pixel_noise(50))
    ]
    values = [found.value.value for found in (photos, *others)]
    assert values[0] > values[1] + 0.1 > values[2] and values[2] == pytest.approx(0, abs=0.02)
    # Darkness arises at the input: there is more than twice the share of it.
    assert early_share(others[0]) > 2 * early_share(photos) > 0


def early_share(found):
    """Returns which share of what arises anywhere arises in the first stage, by taps' mean."""
    arising = {}
    for depth in found.profile:
        arising.setdefault(depth.stage, []).append(depth.innovation**2)
    means = [np.mean(values) for values in arising.values()]
    return means[0] / sum(means)


def test_it_is_made_of_its_parts(backbone, photos) -> None:
    split = nets.split(nets.photographs(50))
    seen, known = similarity.observe(backbone, split), moments.sources(backbone)
    found = moments.distances(seen, known, seed=0)
    new = innovation.innovations(backbone, split, known, seed=0)
    assert photos.distance.value == pytest.approx(found.overall.value, rel=1e-4)
    assert [depth.tap for depth in photos.profile] == list(found.taps)
    for depth in photos.profile:
        assert depth.distance.high == pytest.approx(found.taps[depth.tap].high, rel=1e-3)
        assert depth.innovation == pytest.approx(math.sqrt(max(0, new[depth.tap])), rel=1e-2)
    assert photos.images == 50 and photos.null == backbone.card.null_quantiles[50]
    share = (photos.distance.value**2 - photos.null**2) / (photos.noise**2 - photos.null**2)
    assert photos.value.value == pytest.approx(1 - math.sqrt(share))
    assert photos.feature_distance[0] == "kid" and photos.notes == ()


def test_it_can_be_written_as_json(photos) -> None:
    written = json.loads(json.dumps(dataclasses.asdict(photos), allow_nan=False))
    assert written["profile"][0]["distance"]["low"] == photos.profile[0].distance.low
    assert written["shift"] in types.SHIFTS


def test_an_observation_stands_for_the_images(backbone, observer, photos) -> None:
    split = nets.split(nets.photographs(50))
    given = similarity.measure(
        backbone, split, observation=observer.observe(split), observer=observer
    )
    assert given.distance.value == pytest.approx(photos.distance.value, rel=1e-5)
    # It is what counts, not the images: noise seen, photographs given.
    noise = observer.observe(nets.split(pixel_noise(50)))
    other = similarity.measure(backbone, split, observation=noise, observer=observer)
    assert other.value.value < 0.1 < given.value.value


def test_of_many_images_a_sample_is_looked_at(backbone, observer, monkeypatch) -> None:
    monkeypatch.setattr(measuring, "MAX_IMAGES", 20)
    split = nets.split(nets.photographs(50))
    one, same, other = (
        similarity.measure(backbone, split, seed=s, observer=observer) for s in (1, 1, 2)
    )
    assert one.images == 20 and one == same and one.distance != other.distance


def test_a_sample_of_the_source_is_as_near_as_can_be() -> None:
    backbone = nets.backbone()
    observer = similarity.Observer(backbone)
    source = observer.observe(nets.split(nets.images(400, seed=1)))
    card = similarity.describing.statistics(
        backbones.find_taps(backbone.model, backbone.stages), source, None
    )
    known = backbones.SourceCard(
        trained_on="",
        terms="",
        class_names=(),
        image_size=nets.SIDE,
        accuracy={},
        recipe={},
        **card,
    )
    backbone = dataclasses.replace(backbone, card=known)
    found = similarity.measure(backbone, nets.split(nets.images(60, seed=2)))
    assert found.value.value > 0.95 and found.shift == "none"
    assert found.null == pytest.approx(similarity.measure(
        backbone, nets.split(nets.images(60, seed=2) // 4)
    ).null)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"weights": "none"}, "random weights have no source"),
        ({"batch_norm": False}, "toy has no BatchNorm layer .* Make a source card with"),
    ],
)
def test_what_is_unknown_is_said_to_be(options, reason) -> None:
    found = similarity.measure(nets.backbone(**options), nets.split(nets.images(9)))
    assert (found.value, found.distance, found.profile, found.feature_distance) == (
        None,
        None,
        (),
        None,
    )
    assert found.shift == "unknown" and found.images == 9
    with pytest.raises(AssertionError, match=f"unknown: {reason}"):
        raise AssertionError(found.notes[0])
    json.dumps(dataclasses.asdict(found))


@pytest.mark.parametrize("n", [0, 1])
def test_one_image_is_not_enough(n) -> None:
    found = similarity.measure(nets.backbone(), nets.split(nets.images(9)[:n]))
    assert found.value is None and f"takes 2 images, there are {n}" in found.notes[0]


def test_two_images_are_enough() -> None:
    found = similarity.measure(nets.backbone(), nets.split(nets.images(2)))
    assert 0 <= found.value.low <= found.value.value <= found.value.high <= 1


def test_another_size_than_the_cards_is_told(backbone) -> None:
    larger = backbones.load("bundled", image_size=48)
    found = similarity.measure(larger, nets.split(nets.photographs(10, side=48)))
    assert any("measured at 32 px, the images are seen at 48 px" in note for note in found.notes)


def test_a_stage_is_the_root_mean_square_of_its_taps(photos) -> None:
    stages = similarity.per_stage(photos)
    assert list(stages) == ["stem", "stage_1", "stage_2", "stage_3"]
    first = [depth.distance.value for depth in photos.profile if depth.stage == "stem"]
    assert len(first) == 2
    assert stages["stem"] == pytest.approx(math.sqrt((first[0] ** 2 + first[1] ** 2) / 2))


@pytest.mark.parametrize(("channels", "words"), [(1, "1 channel."), (4, "4 channels.")])
def test_of_images_that_are_not_rgb_nothing_is_said(channels, words) -> None:
    toy = nets.backbone()
    model = stems.with_channels(toy.model, channels)
    adapted = dataclasses.replace(toy, model=model, stages=backbones.find_stages(model))
    pixels = np.random.default_rng(0).integers(0, 256, (9, nets.SIDE, nets.SIDE, channels))
    source = arrays.Arrays(pixels.astype(np.uint8), [0, 1] * 4 + [0])
    images = data.load(source, image_size=nets.SIDE, channels=channels)
    found = similarity.measure(adapted, images.train)
    assert found.value is None and found.shift == "unknown"
    assert found.notes[0].endswith(f"in RGB, and these images have {words}")
    seen = similarity.observe(adapted, images.train)
    assert np.isfinite(seen.pooled_features).all()
