"""The catalogue against keras.applications itself."""

import importlib
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.backbones import catalogue, scaling

CONSTRUCTORS = sorted(
    name
    for name, member in vars(keras.applications).items()
    if inspect.isfunction(member) and "include_top" in inspect.signature(member).parameters
)
ENTRIES = {entry.constructor: entry for entry in catalogue.ENTRIES.values() if entry.constructor}


def module_of(constructor):
    """Returns the module of keras.applications that defines a constructor."""
    return importlib.import_module(getattr(keras.applications, constructor).__module__)


def test_every_constructor_of_keras_is_there_and_no_other() -> None:
    # 5 ConvNeXt, 3 DenseNet, 15 EfficientNet, 2 Inception, 4 MobileNet, 2 NASNet, 6 ResNet, 2 VGG
    # and Xception.
    assert len(CONSTRUCTORS) == 40
    assert sorted(ENTRIES) == CONSTRUCTORS
    assert set(catalogue.ENTRIES) - {catalogue.canonical(name) for name in ENTRIES} == {"bundled"}


@pytest.mark.parametrize("name", [name for name in catalogue.ENTRIES if name != "bundled"])
def test_a_network_goes_by_the_name_of_its_constructor_too(name) -> None:
    constructor = catalogue.ENTRIES[name].constructor
    hyphens = name.replace("_", "-")
    for spelling in (name, constructor, name.upper(), constructor.lower(), hyphens):
        assert catalogue.canonical(spelling) == name
        assert catalogue.entry(spelling) is catalogue.ENTRIES[name]
    assert name.replace("_", "") == constructor.lower()


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("resent50", "resnet50"), ("MobilNetV2", "mobilenet_v2"), ("bundeld", "bundled")],
)
def test_an_unknown_name_is_answered_with_the_nearest(typo, meant) -> None:
    with pytest.raises(checks.ConfigError, match=f"Received: backbone='{typo}'.*{meant}"):
        catalogue.canonical(typo)


@pytest.mark.parametrize("name", ["", "?", "transformer of the largest kind"])
def test_a_name_like_no_other_is_answered_with_where_to_look(name) -> None:
    with pytest.raises(checks.ConfigError, match="must name a network.*lists all") as caught:
        catalogue.entry(name)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_minimum_sizes_are_those_of_keras(constructor) -> None:
    least = ENTRIES[constructor].min_size
    build = getattr(keras.applications, constructor)
    with pytest.raises(ValueError, match=f"at least {least}x{least}"):
        build(include_top=False, weights=None, input_shape=(least - 1, least - 1, 3))


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_preprocessing_is_that_of_the_constructors_module(constructor) -> None:
    pixels = np.random.default_rng(5).uniform(0, 255, (2, 4, 5, 3)).astype(np.float32)
    expected = module_of(constructor).preprocess_input(pixels.copy(), data_format="channels_last")
    given = scaling.preprocess(pixels, ENTRIES[constructor].preprocessing)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-4)


def test_default_sizes_are_powers_of_two_above_the_minimum() -> None:
    for name, entry in catalogue.ENTRIES.items():
        assert entry.default_size in (32, 64, 128, 256), name
        assert entry.default_size >= entry.min_size, name
        assert catalogue.image_size(name) == entry.default_size, name


def test_a_size_is_taken_down_to_the_minimum_and_no_further() -> None:
    assert catalogue.image_size("Xception", 71) == 71
    assert catalogue.image_size("mobilenet", 500) == 500
    with pytest.raises(
        checks.ConfigError, match="xception needs images of at least 71 px. Received: image_size=70"
    ):
        catalogue.image_size("Xception", 70)
    with pytest.raises(checks.ConfigError, match="at least 32 px. Received: image_size=-1"):
        catalogue.image_size("bundled", -1)


def test_both_sides_count() -> None:
    assert catalogue.image_size("Xception", (71, 96)) == (71, 96)
    assert catalogue.image_size("Xception", (96, 96)) == 96
    for size in ((70, 96), (96, 70)):
        with pytest.raises(
            checks.ConfigError, match=f"least 71 px. Received: image_size=.{size[0]},"
        ):
            catalogue.image_size("Xception", size)
    assert catalogue.image_size("bundled", (32, 128)) == (32, 128)
    with pytest.raises(
        checks.ConfigError, match="images of 32 to 128 px. Received: image_size=.32,"
    ):
        catalogue.image_size("bundled", (32, 129))
    catalogue.refuse_small("vgg16", (224, 256))
    with pytest.raises(checks.ConfigError, match="at least 224 px. Received: image_size=.224, 160"):
        catalogue.refuse_small("vgg16", (224, 160))


def test_looking_up_a_network_starts_neither_keras_nor_tensorflow() -> None:
    code = (
        "import sys; from finetune_kit.backbones import catalogue; catalogue.entry('vgg16');"
        "sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_twice_the_default_size_is_proposed_where_network_and_images_allow_it() -> None:
    assert catalogue.larger_size("bundled", 64) == catalogue.larger_size("Bundled", 500) == 64
    assert catalogue.larger_size("bundled", 63) == 0
    # Of what sizes others have learnt, nothing is known.
    assert (
        catalogue.larger_size("mobilenet", 500) == catalogue.larger_size("spec:32-32|64", 99) == 0
    )
