"""Where moments are taken: every BatchNorm layer once, from input to output, or ends of stages."""

import keras
import pytest

from finetune_kit import backbones
from finetune_kit.backbones import taps


@pytest.fixture(scope="module")
def mobilenet():
    return backbones.load("mobilenet", image_size=32, weights="none", arguments={"alpha": 0.25})


def test_every_batch_norm_layer_is_tapped_at_its_input(mobilenet) -> None:
    found = taps.find_taps(mobilenet.model, mobilenet.stages)
    norms = [
        layer.name
        for layer in mobilenet.model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 27 and [tap.name for tap in found] == norms
    for tap in found:
        layer = mobilenet.model.get_layer(tap.name)
        assert tap.layer is layer and tap.tensor is layer.input
        assert tap.channels == layer.gamma.shape[0]
    assert backbones.has_batch_norm(mobilenet)


def test_a_tap_belongs_to_the_stage_of_its_layer(mobilenet) -> None:
    layers = {stage.name: stage.layers for stage in mobilenet.stages}
    found = taps.find_taps(mobilenet.model, mobilenet.stages)
    assert all(tap.name in layers[tap.stage] for tap in found)
    assert list(dict.fromkeys(tap.stage for tap in found)) == list(layers)


def test_without_batch_norm_the_stages_end_in_taps() -> None:
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(pixels)
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same")(x)
    model = keras.Model(pixels, x)
    stages = backbones.find_stages(model)
    found = taps.find_taps(model, stages)
    assert [(tap.name, tap.stage, tap.layer) for tap in found] == [
        ("stem", "stem", None), ("stage_1", "stage_1", None)
    ]  # fmt: skip
    assert [tap.tensor for tap in found] == [stage.output for stage in stages]
    assert [tap.channels for tap in found] == [4, 5]


def test_a_layer_that_is_called_twice_is_tapped_once() -> None:
    pixels = keras.Input((16, 16, 3))
    norm = keras.layers.BatchNormalization(name="norm")
    first = keras.layers.Conv2D(3, 3, padding="same", name="conv")(pixels)
    model = keras.Model(pixels, norm(keras.layers.Conv2D(3, 3, padding="same")(norm(first))))
    (tap,) = taps.find_taps(model, backbones.find_stages(model))
    assert tap.name == "norm" and tap.tensor is first
