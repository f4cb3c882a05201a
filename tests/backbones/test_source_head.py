"""The head of the source classes against the whole network that the weights file came from."""

import pathlib
import random
import urllib.error

import keras
import numpy as np
import pytest
from keras.src.backend import config as keras_config
from keras.src.utils import file_utils

from finetune_kit import backbones
from finetune_kit.backbones import catalogue, loading, scaling, source_head
from finetune_kit.data import sizes

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights"
QUARTER = SHARED / "mobilenet_v1_0.25_128_imagenet.weights.h5"
# One network of each family, the smallest one; ConvNeXt has a test of its own.
FAMILIES = (
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_b0",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "nasnet_mobile",
    "resnet50",
    "resnet50_v2",
    "vgg16",
    "xception",
)


def images(size, n=2):
    """Returns raw images of a side or (h, w), float32 [n, h, w, 3] in [0, 255]."""
    shape = (n, *sizes.shape(size))
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


@pytest.fixture
def whole(tmp_path):
    """Builds a network of keras.applications with a head; returns it and its weights file."""

    def build(name, size, classes=7, **arguments):
        path = str(tmp_path / "whole.weights.h5")
        constructor = getattr(keras.applications, catalogue.entry(name).constructor)
        network = constructor(
            input_shape=sizes.shape(size),
            weights=None,
            classes=classes,
            classifier_activation=None,
            **arguments,
        )
        network.save_weights(path)
        return network, path

    return build


def assert_head_gives_the_whole_networks_logits(whole, name, size, **arguments) -> None:
    network, path = whole(name, size, **arguments)
    backbone = backbones.load(name, image_size=size, weights=path, arguments=arguments)
    head, reason = source_head.find(backbone)
    assert reason == "" and head.name == "source_head"
    assert head.input_shape == backbone.model.output_shape
    pixels = images(size)
    expected = network(scaling.preprocess(pixels, catalogue.entry(name).preprocessing))
    assert np.std(expected) > 0
    given = head(backbone.model(pixels))
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined.*")
@pytest.mark.parametrize("size", [32, 64, (64, 32)])
def test_head_and_backbone_are_the_whole_network(whole, size) -> None:
    assert_head_gives_the_whole_networks_logits(whole, "mobilenet", size, alpha=0.25)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined.*")
@pytest.mark.parametrize("name", FAMILIES)
def test_head_and_backbone_are_the_whole_network_in_every_family(whole, name) -> None:
    size = max(64, catalogue.entry(name).min_size)
    assert_head_gives_the_whole_networks_logits(whole, name, size)
    keras.backend.clear_session(free_memory=True)


def test_the_head_of_a_real_file() -> None:
    if not QUARTER.is_file():
        pytest.skip(f"needs {QUARTER.name} beside the repository")
    backbone = backbones.load("mobilenet", image_size=128, weights=str(QUARTER))
    assert backbone.arguments == {"alpha": 0.25}
    plain = keras.applications.MobileNet(
        alpha=0.25,
        input_shape=(128, 128, 3),
        classes=1001,
        weights=None,
        classifier_activation=None,
    )
    plain.load_weights(QUARTER)
    expected = plain(images(128) / 127.5 - 1)
    assert np.std(expected) > 0.5
    given = source_head.source_head(backbone)(backbone.model(images(128)))
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), [("bundled", (32, 48)), ("mobilenet", 64)])
def test_the_head_of_a_fine_tuned_file(tmp_path, name, size) -> None:
    path = str(tmp_path / "tuned.weights.h5")
    arguments = {"alpha": 0.25} if name == "mobilenet" else {}
    source = backbones.load(name, image_size=size, weights="none", arguments=arguments, seed=1)
    tuned = backbones.attach_head(source, 6)
    tuned.model.save_weights(path)
    backbone = backbones.load(name, image_size=size, weights=path, seed=2)
    head = source_head.source_head(backbone)
    expected = tuned.model(images(size))
    assert np.std(expected) > 0
    np.testing.assert_allclose(head(backbone.model(images(size))), expected, rtol=1e-4, atol=1e-6)


def test_a_backbone_that_was_tuned_since_is_left_alone_and_random_state_too(whole) -> None:
    _, path = whole("mobilenet", 32, alpha=0.25)
    backbone = backbones.load("mobilenet", image_size=32, weights=path)
    tuned = [weight + 1 for weight in backbone.model.get_weights()]
    backbone.model.set_weights(tuned)
    random.seed(99)
    expected = random.random()
    random.seed(99)
    assert source_head.source_head(backbone) is not None
    assert random.random() == expected
    for before, after in zip(tuned, backbone.model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def test_the_head_counts_in_float32_and_leaves_the_policy(whole) -> None:
    _, path = whole("mobilenet", 32, alpha=0.25)
    backbone = backbones.load("mobilenet", image_size=32, weights=path, precision="mixed_bfloat16")
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        head = source_head.source_head(backbone)
        assert keras.mixed_precision.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in head.layers} == {"float32"}
    logits = head(backbone.model(images(32)))
    assert logits.dtype == "float32" and logits.shape == (2, 7)


def test_no_head_in_the_weights() -> None:
    backbone = backbones.load("mobilenet", image_size=32, weights="none", arguments={"alpha": 0.25})
    assert source_head.find(backbone) == (None, "The weights (none) hold no head.")
    assert source_head.source_head(backbone) is None


def test_a_network_that_the_catalogue_does_not_know() -> None:
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(2, 3)(pixels))
    backbone = backbones.Backbone("own", model, backbones.find_stages(model), 8, "none", 5)
    head, reason = source_head.find(backbone)
    assert head is None and reason.startswith("own is none of the networks")


def test_a_head_for_images_of_another_side(tmp_path, monkeypatch) -> None:
    # As VGG, whose first dense layer has a weight for every place of the map, but small.
    def network(input_shape, classes, include_top, **_):
        pixels = keras.Input(input_shape)
        x = keras.layers.Conv2D(4, 3, strides=8, padding="same", name="conv")(pixels)
        x = keras.layers.Flatten(name="flatten")(x)
        return keras.Model(pixels, keras.layers.Dense(classes, name="predictions")(x))

    monkeypatch.setattr(keras.applications, "VGG16", network)
    path = str(tmp_path / "flat.weights.h5")
    whole = network((64, 64, 3), 5, True)
    whole.save_weights(path)
    for side, fits in ((64, True), (32, False)):
        pixels = keras.Input((side, side, 3))
        conv = keras.layers.Conv2D(4, 3, strides=8, padding="same", name="conv")
        model = keras.Model(pixels, conv(pixels))
        conv.set_weights(whole.get_layer("conv").get_weights())
        backbone = backbones.Backbone(
            "vgg16", model, backbones.find_stages(model), side, path, source_classes=5
        )
        monkeypatch.setattr(loading, "load", lambda *_, own=backbone, **__: own)
        head, reason = source_head.find(backbone)
        assert (head is not None) == fits
        assert ("takes images of another side than 32 px" in reason) != fits
        if fits:
            np.testing.assert_allclose(head(model(images(64))), whole(images(64)), rtol=1e-5)


def test_a_head_that_takes_another_map(tmp_path, monkeypatch) -> None:
    # As ConvNeXt, which normalises before the average without its head, and after it with it.
    def network(input_shape, include_top=True, classes=5, **_):
        pixels = keras.Input(input_shape)
        x = keras.layers.Conv2D(4, 3, strides=8, padding="same", name="conv")(pixels)
        if not include_top:
            return keras.Model(pixels, keras.layers.LayerNormalization()(x))
        x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(
            pixels, keras.layers.Dense(classes)(keras.layers.LayerNormalization()(x))
        )

    monkeypatch.setattr(keras.applications, "ConvNeXtTiny", network)
    path = str(tmp_path / "next.weights.h5")
    network((32, 32, 3)).save_weights(path)
    model = network((32, 32, 3), include_top=False)
    backbone = backbones.Backbone(
        "convnext_tiny", model, backbones.find_stages(model), 32, path, source_classes=5
    )
    head, reason = source_head.find(backbone)
    assert head is None and "takes another map than the backbone gives" in reason


def test_weights_that_are_no_longer_there(whole) -> None:
    _, path = whole("mobilenet", 32, alpha=0.25)
    backbone = backbones.load("mobilenet", image_size=32, weights=path)
    pathlib.Path(path).unlink()
    head, reason = source_head.find(backbone)
    assert head is None and "does not exist" in reason


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Gives Keras an empty cache and no network; returns its folder of weights."""
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path))

    def retrieve(origin, target, hook):
        raise urllib.error.URLError("[Errno -2] Name or service not known")

    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
    return tmp_path / "models"


def test_imagenets_head_comes_with_imagenets_weights_at_any_size(cache) -> None:
    keras.utils.set_random_seed(1)
    whole = keras.applications.MobileNet(alpha=0.25, weights=None, classifier_activation=None)
    before = whole.get_layer("conv_pw_13_relu").output
    bare = keras.applications.MobileNet(
        alpha=0.25, weights=None, include_top=False, input_shape=(224, 224, 3)
    )
    bare.set_weights(keras.Model(whole.input, before).get_weights())
    bare.save(cache / "mobilenet_2_5_224_tf_no_top.h5")
    backbone = backbones.load("mobilenet", image_size=64, arguments={"alpha": 0.25})
    head, reason = source_head.find(backbone)
    assert head is None and "cannot be downloaded. Download http" in reason
    whole.save(cache / "mobilenet_2_5_224_tf.h5")
    head, reason = source_head.find(backbone)
    assert reason == "" and head.output_shape == (None, 1000)
    kernel, bias = whole.get_layer("conv_preds").get_weights()
    features = np.asarray(backbone.model(images(64))).mean(axis=(1, 2))
    np.testing.assert_allclose(
        head(backbone.model(images(64))), features @ kernel[0, 0] + bias, rtol=1e-4, atol=1e-6
    )
