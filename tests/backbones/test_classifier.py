"""A backbone with a head: three views of one set of variables, and the model that is saved."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.data import decode

ALL = ("stem", "stage_1", "stage_2", "stage_3", "stage_4")


def tiny(classes=4, *, size=32, precision="float32", **arguments):
    """Returns a classifier on a MobileNet of width 0.25 whose BatchNorm has statistics."""
    backbone = backbones.load(
        "mobilenet",
        image_size=size,
        weights="none",
        arguments={"alpha": 0.25},
        precision=precision,
        seed=2,
    )
    generator = np.random.default_rng(0)
    for weight in backbone.model.weights:
        if "moving_variance" in weight.path:
            weight.assign(generator.uniform(0.005, 0.02, weight.shape))
    return backbones.attach_head(backbone, classes, **arguments)


def images(height=32, width=32, n=3, seed=0):
    """Returns whole-numbered images, float32 [n, height, width, 3] in [0, 255]."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (n, height, width, 3)).astype(np.float32)


def test_logits_are_the_head_of_the_mean_of_the_feature_map() -> None:
    classifier = tiny()
    maps = np.asarray(classifier.backbone.model(images()), np.float64)
    pooled = maps.mean(axis=(1, 2))
    kernel, bias = classifier.head.get_weights()
    bias = bias + [0.0, 1.0, -2.0, 0.5]
    classifier.head.set_weights([kernel, bias])
    assert pooled.std() > 0.05
    np.testing.assert_allclose(classifier.features(images()), pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        classifier.model(images()), pooled @ kernel + bias, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("stages", "names"), [(2, ("stage_3", "stage_4")), (0, ALL)])
def test_a_head_sees_the_means_of_the_maps_of_several_stages(stages, names) -> None:
    classifier = tiny(stages=stages)
    ends = {stage.name: stage.output for stage in classifier.backbone.stages}
    maps = [np.asarray(keras.Model(classifier.model.input, ends[n])(images())) for n in names]
    expected = np.concatenate([m.astype(np.float64).mean(axis=(1, 2)) for m in maps], axis=1)
    assert expected.shape[1] == {2: 128 + 256, 0: 16 + 32 + 64 + 128 + 256}[stages]
    np.testing.assert_allclose(classifier.features(images()), expected, rtol=1e-5, atol=1e-6)
    kernel, bias = classifier.head.get_weights()
    assert kernel.shape == (expected.shape[1], 4)
    logits = expected @ kernel + bias
    np.testing.assert_allclose(classifier.model(images()), logits, rtol=1e-4, atol=1e-5)


def test_all_stages_are_as_many_as_there_are() -> None:
    every, named = tiny(stages=0), tiny(stages=5)
    np.testing.assert_array_equal(every.features(images()), named.features(images()))
    assert every.groups == named.groups == tiny().groups


@pytest.mark.parametrize("stages", [-1, 6])
def test_a_head_sees_no_more_stages_than_there_are(stages) -> None:
    with pytest.raises(checks.ConfigError, match=f"1 to 5 stages .* Received: stages={stages}$"):
        tiny(stages=stages)


def test_the_saved_predictor_of_several_stages(tmp_path: pathlib.Path) -> None:
    classifier = tiny(stages=0, dropout=0.5)
    classifier.predictor().save(tmp_path / "model.keras")
    given = keras.saving.load_model(tmp_path / "model.keras")(images())
    expected = scipy.special.softmax(np.asarray(classifier.model(images()), np.float64), axis=1)
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


def test_the_views_share_their_variables() -> None:
    classifier = tiny()
    own = {id(v) for v in classifier.backbone.model.variables}
    assert {id(v) for v in classifier.features.variables} == own
    assert {id(v) for v in classifier.model.variables} == own | {
        id(v) for v in classifier.head.variables
    }


@pytest.mark.parametrize("view", ["model", "features"])
def test_a_view_takes_a_tensor_without_a_word(view) -> None:
    """The constructors of Keras ask for a list of one; a warning would be an error here."""
    classifier = tiny()
    assert getattr(classifier, view)(images()).shape[0] == 3
    assert classifier.backbone.model(images()).shape[0] == 3


def test_the_head_is_drawn_after_glorot_and_from_the_seed() -> None:
    kernels = [tiny(5, seed=seed).head.get_weights()[0] for seed in (0, 0, 1)]
    limit = np.sqrt(6 / (256 + 5))
    assert 0.95 * limit < np.abs(kernels[0]).max() <= limit
    np.testing.assert_allclose(kernels[0].std(), limit / np.sqrt(3), rtol=0.1)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_dropout_is_between_features_and_head_and_only_in_training() -> None:
    classifier = tiny(dropout=0.5)
    plain = tiny()
    np.testing.assert_array_equal(classifier.model(images()), plain.model(images()))
    assert isinstance(classifier.model.layers[-2], layers.Dropout)
    assert classifier.model.layers[-2].rate == 0.5
    features = classifier.features(images())
    head = keras.Model(classifier.features.outputs[0], classifier.model.outputs[0])
    first, second = (np.asarray(head(features, training=True)) for _ in range(2))
    assert not np.allclose(first, second)
    assert not any(isinstance(layer, layers.Dropout) for layer in plain.model.layers[-3:])
    np.testing.assert_array_equal(
        first, head_of(tiny(dropout=0.5), features), err_msg="dropout is drawn from the seed"
    )


def head_of(classifier, features):
    """Returns the logits of features in training mode."""
    head = keras.Model(classifier.features.outputs[0], classifier.model.outputs[0])
    return head(features, training=True)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_a_head_needs_two_classes(classes) -> None:
    with pytest.raises(checks.ConfigError, match=rf"num_classes must lie in \[2.*={classes}"):
        tiny(classes)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_lies_below_one(dropout) -> None:
    with pytest.raises(checks.ConfigError, match=r"dropout must lie in \[0, 1\)"):
        tiny(dropout=dropout)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_the_head_counts_in_float32_whatever_the_policy(precision) -> None:
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        classifier = tiny(precision=precision, dropout=0.1)
        predictor = classifier.predictor()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert classifier.backbone.model.output.dtype != "float32"
    for view in (classifier.model, classifier.features, predictor):
        assert view.outputs[0].dtype == "float32"
    for layer in (*classifier.model.layers[-3:], predictor.layers[1], predictor.layers[-1]):
        assert layer.compute_dtype == "float32", layer.name


def test_groups_are_the_stages_and_the_head() -> None:
    classifier = tiny()
    assert classifier.groups == ("stem", "stage_1", "stage_2", "stage_3", "stage_4", "head")
    found = [layer for group in classifier.groups for layer in classifier.layers_of(group)]
    assert len({id(layer) for layer in found}) == len(found)
    expected = {*classifier.backbone.model.layers, classifier.head}
    assert {id(layer) for layer in found} == {id(layer) for layer in expected}
    assert classifier.layers_of("head") == [classifier.head]


def test_an_unknown_group() -> None:
    with pytest.raises(checks.ConfigError, match="group must be one of stem.*Received: group='st"):
        tiny().layers_of("stage_9")


class Pair(keras.layers.Layer):
    """A layer with a weight of its own and two layers."""

    def __init__(self) -> None:
        super().__init__(name="pair")
        self.first, self.second = layers.Dense(2, name="first"), layers.ReLU(name="second")

    def build(self, shape):
        """Makes the weights."""
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.first.build(shape)

    def call(self, x):
        """Returns both layers' work."""
        return self.second(self.first(x)) * self.scale


def test_leaves_of_nested_models_and_layers_are_found() -> None:
    inner_pixels = keras.Input((8, 8, 2))
    inner = keras.Model(
        inner_pixels,
        layers.TimeDistributed(layers.Dense(2, name="row"), name="rows")(
            layers.BatchNormalization(name="norm")(inner_pixels)
        ),
        name="inner",
    )
    pixels = keras.Input((8, 8, 3), name="pixels")
    twice = layers.Conv2D(2, 1, name="twice")
    x = twice(layers.Conv2D(2, 1, name="shrink")(pixels))
    model = keras.Model(pixels, Pair()(inner(twice(x))))
    backbone = backbones.Backbone("own", model, backbones.find_stages(model), 8, "none")
    classifier = backbones.attach_head(backbone, 3)
    assert classifier.groups == ("stem", "head")
    names = [layer.name for layer in classifier.layers_of("stem")]
    assert [n for n in names if not n.startswith("input")] == [
        *("pixels", "shrink", "twice", "norm", "row", "pair", "first", "second")
    ]


def test_a_leaf_inside_two_models_of_a_stage_is_found_once() -> None:
    shared = layers.Conv2D(3, 1, name="shared")
    pixels = x = keras.Input((8, 8, 3), name="pixels")
    for name in ("one", "two"):
        inner = keras.Input((8, 8, 3))
        x = keras.Model(inner, shared(inner), name=name)(x)
    model = keras.Model(pixels, x)
    backbone = backbones.Backbone("own", model, backbones.find_stages(model), 8, "none")
    leaves = backbones.attach_head(backbone, 3).layers_of("stem")
    assert [layer for layer in leaves if layer is shared] == [shared]


def test_the_predictor_squeezes_rounds_and_scores_images_of_any_size() -> None:
    classifier = tiny()
    predictor = classifier.predictor()
    for height, width in ((32, 32), (50, 91), (17, 20), (200, 32)):
        raw = images(height, width)
        pixels = raw
        if (height, width) != (32, 32):
            resized = tf.image.resize(raw, (32, 32), "bilinear", antialias=True)
            pixels = np.round(resized)
        expected = scipy.special.softmax(np.asarray(classifier.model(pixels), np.float64), axis=1)
        given = np.asarray(predictor(raw))
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-6)
    assert predictor.input.shape == (None, None, None, 3)


def test_the_predictor_leaves_its_statistics_alone() -> None:
    """Keras' image layers make the layers behind them train unless told otherwise."""
    classifier = tiny()
    predictor = classifier.predictor()
    before = [variable.numpy() for variable in predictor.variables]
    alone = predictor(images(50, 91, n=1))
    np.testing.assert_allclose(alone[0], predictor(images(50, 91, n=1).repeat(4, 0))[0], rtol=1e-4)
    for variable, value in zip(predictor.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value, err_msg=variable.path)


def test_the_predictor_sees_what_the_decoder_gives() -> None:
    predictor = tiny().predictor()
    resized = keras.Model(predictor.input, predictor.get_layer("resize").output)
    raw = images(75, 60, n=1)
    seen = np.round(resized(raw))[0]
    assert seen.std() > 10
    decoded = decode.resize(raw[0].astype(np.uint8), 32).astype(np.float32)
    assert np.abs(seen - decoded).max() <= 1


ALONE = """
import sys
sys.modules["finetune_kit"] = None  # importing it raises
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/model.keras")
assert not model.compiled
np.save(sys.argv[1] + "/given.npy", model(np.load(sys.argv[1] + "/images.npy")))
"""


def test_the_saved_predictor_needs_keras_alone(tmp_path: pathlib.Path) -> None:
    predictor = tiny().predictor()
    raw = images(50, 91)
    predictor.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", raw)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "given.npy"), predictor(raw), atol=1e-6)


@pytest.mark.parametrize("head_stages", [1, 3])
def test_an_export_of_this_package_is_a_backbone(head_stages, tmp_path) -> None:
    network = backbones.load("bundled", image_size=32)
    path = str(tmp_path / "model.keras")
    exported = backbones.attach_head(network, 5, stages=head_stages).predictor()
    exported.save(path)
    pixels = images()
    expected = network.model(pixels)
    for given in (path, exported):
        backbone = backbones.load(given)
        assert backbone.image_size == 32  # to which the export resizes
        assert [s.name for s in backbone.stages] == [s.name for s in network.stages]
        assert not any(isinstance(x, layers.Resizing) for x in backbone.model.layers)
        np.testing.assert_array_equal(backbone.model(pixels), expected)
    assert backbones.catalogue.image_size(path) == 32
    assert backbone.source_classes == (5 if head_stages == 1 else None)
    if backbone.head is not None:
        scores = keras.ops.softmax(backbone.head(expected))
        np.testing.assert_allclose(scores, exported(pixels), atol=1e-6)
    # Larger images are seen as they are, not shrunk before.
    larger = backbones.load(path, image_size=(32, 64)).model
    by_size = backbones.load("bundled", image_size=(32, 64)).model
    np.testing.assert_array_equal(larger(images(32, 64)), by_size(images(32, 64)))
    grey = backbones.load(path, channels=1).model(pixels[..., :1])
    np.testing.assert_allclose(grey, network.model(pixels[..., [0, 0, 0]]), atol=1e-3)


@pytest.mark.parametrize("channels", [1, 4])
def test_an_export_for_other_channels_is_a_backbone_for_these(channels) -> None:
    network = backbones.load("bundled", image_size=32, channels=channels)
    exported = backbones.attach_head(network, 5).predictor()
    assert exported.input_shape == (None, None, None, channels)
    pixels = images()[..., [0] * channels]
    backbone = backbones.load(exported, channels=channels)
    assert backbone.channels == channels
    np.testing.assert_array_equal(backbone.model(pixels), network.model(pixels))
    with pytest.raises(checks.ConfigError, match=f"Give --channels={channels}, where a command"):
        backbones.load(exported, channels=5)
    with pytest.raises(checks.ConfigError, match="for which preprocessing is one of none, unit"):
        backbones.load(exported, channels=channels, preprocessing="caffe")
