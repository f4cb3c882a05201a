"""Stages partition the layers, and the tensor at the end of each cuts the network in two."""

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue

FAST = {"mobilenet": {"alpha": 0.25}, "vgg16": {}, "resnet50_v2": {}}


def loaded(name, **arguments):
    """Returns a backbone with random weights at the smallest size it takes."""
    least = catalogue.entry(name).min_size
    return backbones.load(name, image_size=least, weights="none", arguments=arguments)


def assert_partition(model, stages) -> None:
    """Every layer is in exactly one stage; names count up from `stem`."""
    names = [name for stage in stages for name in stage.layers]
    assert sorted(names) == sorted(layer.name for layer in model.layers)
    assert [stage.name for stage in stages] == [
        "stem",
        *(f"stage_{i}" for i in range(1, len(stages))),
    ]


def assert_cuts(model, stages) -> None:
    """The network before each cut and the one behind it hold its layers and compose to it."""
    side = model.input.shape[1]
    pixels = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype(np.float32)
    expected = model(pixels)
    assert np.isfinite(expected).all()
    before: set[str] = set()
    for stage in stages:
        before |= set(stage.layers)
        prefix = keras.Model(model.input, stage.output)
        assert {layer.name for layer in prefix.layers} == before
        if stage is stages[-1]:
            assert stage.output is model.output
            return
        suffix = keras.Model(stage.output, model.output)
        later = {layer.name for layer in model.layers} - before
        assert {x.name for x in suffix.layers if not isinstance(x, layers.InputLayer)} == later
        np.testing.assert_array_equal(suffix(prefix(pixels)), expected)


def assert_sound(backbone) -> None:
    """Everything that holds for the stages of a network of the catalogue."""
    model, stages = backbone.model, backbone.stages
    assert_partition(model, stages)
    assert_cuts(model, stages)
    # Every cell of NASNet reads the two before it, so no tensor between them is a cut.
    assert len(stages) == 2 if "nasnet" in backbone.name else len(stages) in (4, 5, 6)
    assert [stage.divisor for stage in stages] == sorted({stage.divisor for stage in stages})
    for stage in stages:
        ratio = backbone.image_size / stage.output.shape[1]
        assert stage.divisor / 1.5 < ratio < stage.divisor * 1.5, stage.name
        assert any(model.get_layer(name).trainable_weights for name in stage.layers), stage.name


@pytest.mark.parametrize("name", FAST)
def test_networks_are_cut_at_their_stages(name) -> None:
    assert_sound(loaded(name, **FAST[name]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in catalogue.ENTRIES if name not in ("bundled", *FAST)]
)
def test_every_network_is_cut_at_its_stages(name) -> None:
    assert_sound(loaded(name))
    keras.backend.clear_session(free_memory=True)


def test_vgg16_has_the_blocks_of_its_paper() -> None:
    """Simonyan & Zisserman, 2015, table 1, column D."""
    stages = loaded("vgg16").stages
    assert [stage.layers[-1] for stage in stages[:-1]] == [
        "block1_conv2",
        "block2_conv2",
        "block3_conv3",
        "block4_conv3",
    ]
    assert stages[-1].layers == (
        "block4_pool",
        "block5_conv1",
        "block5_conv2",
        "block5_conv3",
        "block5_pool",
    )
    assert [stage.output.shape[1:] for stage in stages] == [
        (32, 32, 64),
        (16, 16, 128),
        (8, 8, 256),
        (4, 4, 512),
        (1, 1, 512),
    ]
    assert [stage.divisor for stage in stages] == [1, 2, 4, 8, 32]


def conv(x, filters=2, stride=1, name=None):
    """Returns a 3x3 convolution that keeps the side or halves it."""
    return layers.Conv2D(filters, 3, stride, "same", name=name)(x)


def found(pixels, x):
    """Returns the stages of the model between two tensors, after checking them."""
    model = keras.Model(pixels, x)
    stages = backbones.find_stages(model)
    assert_partition(model, stages)
    assert_cuts(model, stages)
    return stages


def test_a_stage_ends_behind_the_last_block_of_its_resolution() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = conv(pixels, name="a")
    x = layers.Add(name="join")([x, conv(x, name="b")])
    x = layers.ReLU(name="relu")(x)
    x = conv(x, stride=2, name="c")
    stages = found(pixels, layers.Add(name="end")([x, conv(x, name="d")]))
    assert [stage.layers for stage in stages] == [
        ("pixels", "a", "b", "join", "relu"),
        ("c", "d", "end"),
    ]


def test_a_block_that_ends_in_an_operation_without_layer_is_cut_behind_it() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = conv(pixels, name="a")
    x = x + conv(x, name="b")
    stages = found(pixels, conv(x, stride=2, name="c"))
    assert [stage.layers for stage in stages] == [("pixels", "a", "b"), ("c",)]
    assert stages[0].output is x


def test_a_resolution_without_a_cut_joins_the_next() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = conv(pixels, name="a")
    half = conv(x, stride=2, name="half")
    skip = layers.MaxPooling2D(4, name="skip")(x)
    x = layers.Add(name="join")([skip, conv(half, stride=2, name="quarter")])
    stages = found(pixels, x)
    assert [stage.divisor for stage in stages] == [1, 4]
    assert set(stages[1].layers) == {"half", "skip", "quarter", "join"}


def test_padding_belongs_to_the_convolution_behind_it() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = layers.ZeroPadding2D(1, name="pad")(conv(pixels, name="a"))
    stages = found(pixels, layers.Conv2D(2, 3, 2, name="b")(x))
    assert [stage.layers for stage in stages] == [("pixels", "a"), ("pad", "b")]


def test_what_cannot_train_joins_a_stage_that_can() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = layers.Rescaling(2.0, name="rescale")(layers.AveragePooling2D(2, name="shrink")(pixels))
    x = conv(conv(x, name="a"), stride=2, name="b")
    stages = found(pixels, layers.MaxPooling2D(2, name="pool")(x))
    assert [stage.layers for stage in stages] == [
        ("pixels", "shrink", "rescale", "a"),
        ("b", "pool"),
    ]
    assert [stage.divisor for stage in stages] == [2, 8]


def test_a_network_without_weights_or_of_one_resolution_is_one_stage() -> None:
    pixels = keras.Input((16, 16, 3))
    assert len(found(pixels, layers.MaxPooling2D(2)(layers.Rescaling(2.0)(pixels)))) == 1
    assert len(found(pixels, conv(conv(pixels)))) == 1


def test_a_layer_that_is_called_twice_in_a_stage_is_listed_once() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    twice = layers.Conv2D(2, 3, padding="same", name="twice")
    stages = found(pixels, twice(twice(conv(pixels, name="a"))))
    assert [stage.layers for stage in stages] == [("pixels", "a", "twice")]


def test_a_model_inside_a_model_is_one_layer() -> None:
    inner_pixels = keras.Input((8, 8, 2))
    inner = keras.Model(inner_pixels, conv(conv(inner_pixels), stride=2), name="inner")
    pixels = keras.Input((16, 16, 3), name="pixels")
    stages = found(pixels, inner(conv(pixels, stride=2, name="a")))
    assert [stage.layers for stage in stages] == [("pixels", "a"), ("inner",)]
    assert [stage.divisor for stage in stages] == [2, 4]


class Subclassed(keras.Model):
    """A model without a graph."""

    def call(self, x):
        """Returns the images."""
        return x


def no_graph():
    """Returns models in which no stages can be found, by what is wrong with them."""
    a, b = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    free, flat = keras.Input((None, None, 3)), keras.Input((16,))
    return {
        "subclass": Subclassed(),
        "two inputs": keras.Model([a, b], layers.Add()([a, b])),
        "two outputs": keras.Model(a, [conv(a), conv(a)]),
        "unknown side": keras.Model(free, conv(free)),
        "no images": keras.Model(flat, layers.Dense(2)(flat)),
    }


@pytest.mark.parametrize("wrong", list(no_graph()))
def test_other_models_are_refused(wrong) -> None:
    with pytest.raises(
        checks.ConfigError, match="functional model with one input.*Received: model=.*type="
    ):
        backbones.find_stages(no_graph()[wrong])
