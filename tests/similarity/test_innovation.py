"""What arises at each tap, against BatchNorm by the batch's own statistics in NumPy."""

import keras
import numpy as np
import pytest

from finetune_kit.similarity import innovation, moments, observing, types
from tests.similarity import nets


def by_hand(backbone, pixels):
    """Returns the inputs of both BatchNorm layers, the first one normalising by the batch."""
    model = backbone.model
    before = nets.layer_by_layer(model, pixels)["one"]
    gamma, beta, _, _ = model.get_layer("one_bn").get_weights()
    mean, variance = before.mean(axis=(0, 1, 2)), before.var(axis=(0, 1, 2))
    x = np.maximum(gamma * (before - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    n, side, _, channels = x.shape
    x = x.reshape(n, side // 2, 2, side // 2, 2, channels).max(axis=(2, 4))
    kernel, bias = (np.asarray(w, np.float64) for w in model.get_layer("two").get_weights())
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return before, np.einsum("nhwcij,ijcf->nhwf", windows, kernel) + bias


def expected(backbone, pixels):
    """Returns the debiased D of both taps."""
    known = moments.sources(backbone)
    return {
        name: moments.debiased(
            observing.Seen(name, "", x.mean(axis=(1, 2)), x.var(axis=(1, 2))), known[name]
        )
        for name, x in zip(("one_bn", "two_bn"), by_hand(backbone, pixels), strict=True)
    }


def found(backbone, pixels, **options):
    return innovation.innovations(
        backbone, nets.split(pixels), moments.sources(backbone), **options
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_later_taps_see_what_earlier_layers_put_right(dropout) -> None:
    backbone, pixels = nets.backbone(dropout=dropout), nets.images(20)
    ours, theirs = found(backbone, pixels), expected(backbone, pixels)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_no_variable_changes_and_frozen_layers_count_the_same() -> None:
    backbone, pixels = nets.backbone(), nets.images(20)
    before = [np.array(v) for v in backbone.model.variables]
    learning = found(backbone, pixels)
    for layer in backbone.model.layers:
        layer.trainable = False
    frozen = found(backbone, pixels)
    for value, old in zip(backbone.model.variables, before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert frozen == pytest.approx(learning, rel=1e-4)


def test_an_inherited_shift_is_taken_out() -> None:
    backbone = nets.backbone()
    source = nets.images(200, seed=1)
    observer = observing.Observer(backbone)
    for tap in observer.observe(nets.split(source)).seen:
        mean, variance = tap.pooled()
        gamma, beta, _, _ = backbone.model.get_layer(tap.tap).get_weights()
        backbone.model.get_layer(tap.tap).set_weights([gamma, beta, mean, variance])
    known = moments.sources(backbone)
    dark = (0.2 * nets.images(200, seed=2)).astype(np.uint8)
    seen = observer.observe(nets.split(dark))
    inherited = {tap.tap: moments.debiased(tap, known[tap.tap]) for tap in seen.seen}
    new = found(backbone, dark)
    assert new["one_bn"] == pytest.approx(inherited["one_bn"], rel=1e-3)
    assert inherited["two_bn"] > 0.1 and new["two_bn"] < 0.1 * inherited["two_bn"]


def test_batches_are_even_and_mixed_and_no_more_than_256_images(monkeypatch) -> None:
    sizes, drawn = [], []

    def note(split, *, batch_size):
        sizes.append(batch_size)
        drawn.append(split.names)
        return batches(split, batch_size=batch_size)

    batches = innovation.data.evaluation_batches
    monkeypatch.setattr(innovation.data, "evaluation_batches", note, raising=False)
    backbone = nets.backbone()
    for n in (65, 300):
        found(backbone, nets.images(n, seed=n), seed=4)
    assert sizes == [33, 64] and [len(names) for names in drawn] == [65, 256]
    assert list(drawn[0]) != sorted(drawn[0], key=int) and set(drawn[0]) == set(map(str, range(65)))


def test_without_batch_norm_nothing_can_tell() -> None:
    backbone = nets.backbone(batch_norm=False)
    assert innovation.innovations(backbone, nets.split(nets.images(4)), {}) is None


def test_a_layer_without_scale_or_offset() -> None:
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(
        pixels, keras.layers.BatchNormalization(scale=False, center=False, name="bn")(pixels)
    )
    normalise = innovation._with_batch_statistics(model.get_layer("bn"))
    x = nets.images(5, side=8).astype(np.float32)
    centred = (x - x.mean(axis=(0, 1, 2))) / np.sqrt(x.var(axis=(0, 1, 2)) + 1e-3)
    np.testing.assert_allclose(np.array(normalise(x)), centred, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("new", "where"),
    [
        ((0.6, 0.2, 0.2), "input"),
        ((0.5, 0.3, 0.2), "middle"),
        ((0.3, 0.3, 0.4), "semantic"),
        ((0.0, 1.0, 0.0), "middle"),
        ((-0.5, -0.1, 0.3), "semantic"),
        ((-0.5, 0.0, -0.3), "none"),
    ],
)
def test_where_most_of_it_arises_names_the_shift(new, where) -> None:
    taps = {str(i): value for i, value in enumerate(new)}
    assert innovation.shift(("stem", "stage_1", "stage_2"), taps) == where
    assert where in types.SHIFTS


def test_a_stage_of_many_taps_counts_once() -> None:
    stages = ("stem", *["stage_1"] * 9, "stage_2")
    values = (0.7, *[0.2] * 9, 0.1)
    taps = {str(i): value for i, value in enumerate(values)}
    assert innovation.shift(stages, taps) == "input"
