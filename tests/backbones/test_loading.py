"""Backbones by name: pixels, weights, arguments and precision, against Keras used by hand."""

import dataclasses
import math
import pathlib
import random

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue, network, weights

BUNDLED = catalogue.ENTRIES["bundled"]
SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights"
QUARTER = SHARED / "mobilenet_v1_0.25_128_imagenet.weights.h5"
HALF = SHARED / "mobilenet_v1_0.5_160_imagenet.weights.h5"
V2 = SHARED / "mobilenet_v2_1.0_224_imagenet.weights.h5"
# One network of each family, the smallest one.
FAMILIES = (
    "convnext_tiny",
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
    "xception",
)


def shared(path):
    """Returns a file of real weights as text, or skips the test."""
    if not path.is_file():
        pytest.skip(f"needs {path.name} beside the repository")
    return str(path)


def images(size, n=2, seed=0):
    """Returns raw images, float32 [n, size, size, 3] in [0, 255]."""
    return np.random.default_rng(seed).uniform(0, 255, (n, size, size, 3)).astype(np.float32)


def tiny(**arguments):
    """Returns a MobileNet of width 0.25 with random weights for 32 px."""
    given = {"weights": "none", "arguments": {"alpha": 0.25}, "image_size": 32, **arguments}
    return backbones.load("mobilenet", **given)


def by_hand(name, size, **arguments):
    """Returns the features of raw images under keras.applications itself, weights as seeded."""
    entry = catalogue.entry(name)
    constructor = getattr(keras.applications, entry.constructor)
    keras.utils.set_random_seed(7)
    model = constructor(include_top=False, weights=None, input_shape=(size, size, 3), **arguments)
    module = __import__(constructor.__module__, fromlist=["preprocess_input"])
    return model(module.preprocess_input(images(size)))


def assert_raw_pixels_go_in(name, **arguments) -> None:
    """The backbone maps raw pixels to what Keras makes of preprocessed ones."""
    size = catalogue.entry(name).min_size
    backbone = backbones.load(name, image_size=size, weights="none", arguments=arguments, seed=7)
    expected = by_hand(name, size, **arguments)
    assert np.std(expected) > 0
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(backbone.model(images(size)), expected, atol=1e-4 * scale)


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined.*")
@pytest.mark.parametrize(("name", "arguments"), [("mobilenet", {"alpha": 0.25}), ("vgg16", {})])
def test_preprocessing_is_bound_to_the_network(name, arguments) -> None:
    assert_raw_pixels_go_in(name, **arguments)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined.*")
@pytest.mark.parametrize("name", FAMILIES)
def test_preprocessing_is_bound_to_every_family(name) -> None:
    assert_raw_pixels_go_in(name)


@pytest.mark.parametrize("name", ["mobilenet", "MobileNet"])
def test_a_backbone_says_what_it_is(name) -> None:
    backbone = backbones.load(name, image_size=64, weights="none", arguments={"alpha": 0.25})
    assert (backbone.name, backbone.image_size, backbone.weights) == ("mobilenet", 64, "none")
    assert backbone.source_classes is None
    assert backbone.card is None
    assert backbone.model.input.shape == (None, 64, 64, 3)
    assert backbone.model.output.shape == (None, 2, 2, 256)
    assert backbone.model.input.dtype == "float32"


def test_the_default_size_is_the_catalogues() -> None:
    assert tiny(image_size=0).model.input.shape == (None, 128, 128, 3)


def test_equal_seeds_draw_equal_weights_and_leave_no_trace() -> None:
    random.seed(99)
    expected = random.random()
    random.seed(99)
    first, again, other = tiny(seed=3), tiny(seed=3), tiny(seed=4)
    assert random.random() == expected
    values = [b.model.get_weights()[0] for b in (first, again, other)]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


@pytest.mark.parametrize(("path", "alpha", "size"), [(QUARTER, 0.25, 128), (HALF, 0.5, 160)])
def test_the_width_and_the_classes_are_read_from_a_real_file(path, alpha, size) -> None:
    backbone = backbones.load("mobilenet", image_size=size, weights=shared(path))
    assert backbone.source_classes == 1001
    assert backbone.weights == str(path)
    plain = keras.applications.MobileNet(
        alpha=alpha,
        input_shape=(size, size, 3),
        classes=1001,
        weights=None,
        classifier_activation=None,
    )
    plain.load_weights(path)
    features = keras.Model(plain.input, plain.get_layer("conv_pw_13_relu").output)
    expected = features(images(size) / 127.5 - 1)
    given = backbone.model(images(size))
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_real_mobilenet_v2_is_recognised() -> None:
    backbone = backbones.load("mobilenet_v2", image_size=96, weights=shared(V2))
    assert backbone.source_classes == 1001
    assert backbone.model.get_layer("Conv1").filters == 32


def test_arguments_win_over_what_the_file_says() -> None:
    path = shared(QUARTER)
    given = backbones.load("mobilenet", image_size=32, weights=path, arguments={"alpha": 0.25})
    assert given.source_classes == 1001
    with pytest.raises(
        checks.WeightsError, match=r"must be those of MobileNet\. Received.*fit {'alpha': 0.5}"
    ):
        backbones.load("mobilenet", image_size=32, weights=path, arguments={"alpha": 0.5})


def test_arguments_reach_the_constructor() -> None:
    assert tiny(arguments={"alpha": 0.5}).model.get_layer("conv1").filters == 16
    assert tiny(arguments={"alpha": 0.5}).arguments == {"alpha": 0.5}
    assert tiny(arguments={"alpha": 0.25, "depth_multiplier": 2}).model.get_layer(
        "conv_dw_1"
    ).output.shape == (None, 16, 16, 16)


def test_an_unknown_argument_is_answered_with_the_nearest() -> None:
    with pytest.raises(checks.ConfigError, match="backbone_args.*alhpa.*Did you mean 'alpha'"):
        tiny(arguments={"alhpa": 0.25})


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("mobilenet", "include_top", True),
        ("mobilenet", "weights", "imagenet"),
        ("mobilenet", "input_shape", (64, 64, 3)),
        ("mobilenet", "input_tensor", None),
        ("mobilenet", "pooling", "avg"),
        ("mobilenet", "classes", 10),
        ("mobilenet", "classifier_activation", None),
        ("mobilenet_v3_small", "include_preprocessing", False),
    ],
)
def test_arguments_that_the_kit_sets_are_not_for_the_user(name, argument, value) -> None:
    with pytest.raises(checks.ConfigError, match=f"Received: backbone_args='{argument}'"):
        backbones.load(name, image_size=32, weights="none", arguments={argument: value})


@pytest.mark.parametrize("alpha", ["wide", None, 0, math.inf])
def test_an_argument_that_keras_cannot_take_ends_in_one_line(alpha) -> None:
    with pytest.raises(checks.ConfigError, match="MobileNet cannot be built so.*alpha") as caught:
        tiny(arguments={"alpha": alpha})
    assert "\n" not in str(caught.value)


def test_an_image_below_the_minimum() -> None:
    with pytest.raises(checks.ConfigError, match="mobilenet needs images of at least 32 px"):
        tiny(image_size=31)
    with pytest.raises(checks.ConfigError, match="inception_v3 needs images of at least 75 px"):
        backbones.load("InceptionV3", image_size=64)


def test_an_unknown_network_or_precision() -> None:
    with pytest.raises(checks.ConfigError, match="Did you mean mobilenet"):
        backbones.load("mobilnet")
    with pytest.raises(checks.ConfigError, match="precision must be one of float32, mixed_bfloat"):
        tiny(precision="float16")


@pytest.mark.parametrize(
    ("precision", "compute"),
    [("float32", "float32"), ("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")],
)
def test_precision_is_that_of_the_layers_alone(precision, compute) -> None:
    backbone = tiny(precision=precision)
    layer = backbone.model.get_layer("conv_pw_3")
    assert (layer.compute_dtype, layer.kernel.dtype) == (compute, "float32")
    assert keras.mixed_precision.dtype_policy().name == "float32"
    scaled = keras.Model(backbone.model.input, backbone.model.layers[1].output)
    np.testing.assert_allclose(scaled(images(32)), images(32) / 127.5 - 1, atol=1e-6)


def test_precision_is_restored_after_an_error() -> None:
    with pytest.raises(checks.ConfigError):
        tiny(precision="mixed_bfloat16", arguments={"alpha": "wide"})
    assert keras.mixed_precision.dtype_policy().name == "float32"


def test_the_file_of_another_network(monkeypatch) -> None:
    path = shared(QUARTER)
    with pytest.raises(
        checks.WeightsError, match=r"those of VGG16\. Received: '.*', whose \d+ kernels do not fit"
    ):
        backbones.load("vgg16", image_size=32, weights=path)
    monkeypatch.setattr(weights, "ALPHAS", (0.35, 0.5))
    with pytest.raises(checks.WeightsError, match="those of MobileNetV2 of any width"):
        backbones.load("mobilenet_v2", image_size=32, weights=path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "does not exist"), (b"", "HDF5 and whole"), (b"\x89HDF\r\n\x1a\n" * 9, "HDF5 and w")],
)
@pytest.mark.parametrize("name", ["mobilenet", "bundled"])
def test_a_missing_or_damaged_file(tmp_path, name, content, problem) -> None:
    path = tmp_path / "net.weights.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(checks.WeightsError, match=problem) as caught:
        backbones.load(name, image_size=32, weights=str(path))
    assert "\n" not in str(caught.value)


def test_a_damaged_copy_of_a_real_file(tmp_path) -> None:
    path = tmp_path / "net.weights.h5"
    path.write_bytes(pathlib.Path(shared(QUARTER)).read_bytes()[:1_000_000])
    with pytest.raises(checks.WeightsError, match="must be HDF5 and whole.*truncated"):
        backbones.load("mobilenet", image_size=32, weights=str(path))


@pytest.mark.parametrize("name", ["mobilenet", "bundled"])
def test_a_file_with_nan(tmp_path, name) -> None:
    path = str(tmp_path / "net.weights.h5")
    arguments = {"alpha": 0.25} if name == "mobilenet" else {}
    model = backbones.load(name, image_size=32, weights="none", arguments=arguments).model
    model.weights[0].assign(np.full(model.weights[0].shape, np.nan))
    model.save_weights(path)
    with pytest.raises(checks.WeightsError, match="must be finite.*with NaN or infinity in layers"):
        backbones.load(name, image_size=32, weights=path)


@pytest.mark.parametrize("name", ["mobilenet", "bundled"])
def test_a_fine_tuned_file_gives_its_weights_and_its_classes(tmp_path, name) -> None:
    path = str(tmp_path / "net.weights.h5")
    arguments = {"alpha": 0.25} if name == "mobilenet" else {}
    source = backbones.load(name, image_size=32, weights="none", arguments=arguments, seed=1)
    backbones.attach_head(source, 6).model.save_weights(path)
    loaded = backbones.load(name, image_size=32, weights=path, seed=2)
    assert loaded.source_classes == 6
    assert loaded.weights == path
    assert loaded.arguments == arguments
    np.testing.assert_array_equal(loaded.model(images(32)), source.model(images(32)))
    source.model.save_weights(path)
    assert backbones.load(name, image_size=32, weights=path).source_classes is None


def test_a_legacy_file_is_read_too(tmp_path) -> None:
    path = str(tmp_path / "net.h5")
    source = tiny(seed=1)
    source.model.save(path)
    loaded = backbones.load("mobilenet", image_size=32, weights=path, seed=2)
    np.testing.assert_array_equal(loaded.model(images(32)), source.model(images(32)))
    backbones.attach_head(source, 6).model.save(path)
    with pytest.raises(checks.WeightsError, match="must fit mobilenet.*Layer count mismatch"):
        backbones.load("mobilenet", image_size=32, weights=path)


@pytest.mark.parametrize("size", [BUNDLED.min_size, 48, BUNDLED.max_size])
def test_the_bundled_network_takes_any_size_in_its_range(size) -> None:
    backbone = backbones.load("bundled", image_size=size, weights="none")
    assert backbone.model.input.shape == (None, size, size, 3)
    assert (backbone.weights, backbone.card, backbone.source_classes) == ("none", None, None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"image_size": 31}, checks.ConfigError, "at least 32 px. Received: image_size=31"),
        ({"image_size": 129}, checks.ConfigError, "images of 32 to 128 px. Received: image_size=1"),
        ({"arguments": {"alpha": 1}}, checks.ConfigError, "takes no arguments. Received: backbone"),
        ({"weights": "imagenet"}, checks.WeightsError, "no ImageNet weights. Received: weights="),
    ],
)
def test_what_the_bundled_network_does_not_take(arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        backbones.load("bundled", **arguments)


def test_the_bundled_network_refuses_the_weights_of_another(tmp_path) -> None:
    path = str(tmp_path / "net.weights.h5")
    tiny().model.save_weights(path)
    with pytest.raises(checks.WeightsError, match="must fit bundled. Received: '.*net.weights.h5'"):
        backbones.load("bundled", weights=path)


def test_the_bundled_network_has_a_file_and_a_card() -> None:
    if not (network.FILES / "bundled.weights.h5").is_file():
        pytest.skip("needs the bundled weights file")
    backbone = backbones.load("bundled")
    assert (backbone.image_size, backbone.weights, backbone.source_classes) == (32, "bundled", None)
    assert backbone.card is not None


def test_a_card_of_ones_own_takes_the_place_of_the_bundled_one(tmp_path) -> None:
    bundled = backbones.load("bundled").card
    given = dataclasses.replace(bundled, trained_on="my own")
    path = tmp_path / "card.npz"
    backbones.card.write_file(given, path)
    assert backbones.load("bundled", source_card=str(path)).card.trained_on == "my own"
    with pytest.raises(checks.WeightsError, match="must have been made for mobilenet.* 27 taps"):
        tiny(source_card=str(path))
    with pytest.raises(checks.WeightsError, match="'nowhere.npz', which does not exist"):
        tiny(source_card="nowhere.npz")
