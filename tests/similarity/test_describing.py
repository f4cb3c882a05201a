"""The measured part of a source card, against the images and features themselves."""

import numpy as np
import pytest

from finetune_kit import backbones, similarity
from finetune_kit.similarity import calibration, moments
from tests.similarity import nets


@pytest.fixture(scope="module")
def seen():
    """Returns (taps, what is seen of 90 images, their labels)."""
    backbone = nets.backbone()
    found = backbones.find_taps(backbone.model, backbone.stages)
    pixels = nets.images(90)
    return (
        found,
        similarity.observe(backbone, nets.split(pixels)),
        np.arange(90) % 3,
        nets.layer_by_layer(backbone.model, pixels),
    )


def test_moments_are_those_of_all_positions_of_all_images(seen) -> None:
    _, observed, _, outputs = seen
    measured = similarity.describing.source_moments(observed)
    for tap, layer in (("one_bn", "one"), ("two_bn", "two")):
        x = outputs[layer].reshape(-1, outputs[layer].shape[-1])
        np.testing.assert_allclose(measured[tap][0], x.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(measured[tap][1], x.var(axis=0), rtol=1e-4)


def test_features_are_those_of_the_last_stage(seen) -> None:
    taps, observed, labels, outputs = seen
    found = similarity.describing.statistics(taps, observed, labels, num_classes=3)
    rows = outputs["two_pool"].mean(axis=(1, 2))
    np.testing.assert_allclose(found["feature_mean"], rows.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["feature_covariance"], np.cov(rows.T), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["prototypes"][2], rows[labels == 2].mean(axis=0), rtol=1e-4)
    assert found["features"].dtype == np.float16
    np.testing.assert_allclose(found["features"], rows, rtol=2e-3, atol=1e-4)
    unlabelled = similarity.describing.statistics(taps, observed, None)
    assert unlabelled["prototypes"] is None


def test_rows_and_null_come_from_held_out_images(seen, monkeypatch) -> None:
    taps, observed, labels, _ = seen
    monkeypatch.setattr("finetune_kit.backbones.card.MAX_ROWS", 7)
    train, held = observed.take(np.arange(60)), observed.take(np.arange(60, 90))
    found = similarity.describing.statistics(
        taps, train, labels[:60], num_classes=3, held_out=held, seed=5
    )
    theirs = {tuple(row) for row in held.pooled_features.astype(np.float16)}
    assert len(found["features"]) == 7 and {tuple(row) for row in found["features"]} <= theirs
    known = moments.from_moments(taps, similarity.describing.source_moments(train))
    assert found["null_quantiles"] == calibration.null_quantiles(held, known, seed=5)


def test_without_held_out_images_one_half_is_compared_with_the_other(seen, monkeypatch) -> None:
    taps, observed, _, _ = seen
    given = []
    monkeypatch.setattr(
        calibration, "null_quantiles", lambda others, known, seed: given.append((others, known))
    )
    similarity.describing.statistics(taps, observed, None)
    ((others, known),) = given
    rows = {tuple(row) for row in others.seen[0].means}
    rest = [i for i, row in enumerate(observed.seen[0].means) if tuple(row) not in rows]
    assert len(others) == len(rest) == 45
    expected = similarity.describing.source_moments(observed.take(np.array(rest)))
    for tap, (mean, variance) in expected.items():
        np.testing.assert_allclose(known[tap].mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(known[tap].variance, variance, rtol=1e-5)


def test_features_beyond_half_precision_keep_their_own(seen) -> None:
    rows = np.array([[7e4, 1.0]], np.float32)
    kept = similarity.describing._compact(rows)
    assert kept.dtype == np.float32 and kept[0, 0] == 7e4
