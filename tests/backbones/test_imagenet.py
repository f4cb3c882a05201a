"""ImageNet weights without a network: one line that says what to download and where to put it."""

import pathlib
import urllib.error

import keras
import numpy as np
import pytest
from keras.src.backend import config as keras_config
from keras.src.utils import file_utils

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue


def quarter(**arguments):
    """Returns a MobileNet of width 0.25 with ImageNet weights."""
    given = {"image_size": 32, "arguments": {"alpha": 0.25}, **arguments}
    return backbones.load("mobilenet", **given)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Makes every download of Keras fail; returns what it tried: pairs of address and target."""
    tried = []
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path))

    def retrieve(origin, target, hook):
        tried.append((origin, target))
        raise urllib.error.URLError("[Errno -2] Name or service not known")

    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
    return tried


def assert_says_what_to_download(tried, name, **arguments) -> None:
    """`imagenet` without a network ends in one line that holds address and target."""
    with pytest.raises(checks.WeightsError, match="cannot be downloaded. Download") as caught:
        backbones.load(name, image_size=catalogue.entry(name).min_size, arguments=arguments)
    ((origin, target),) = tried
    assert f"Download {origin} elsewhere and save it as {target}, or" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imagenet_offline_says_what_to_download_and_where_to_put_it(offline) -> None:
    assert_says_what_to_download(offline, "mobilenet", alpha=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalogue.ENTRIES if name != "bundled"])
def test_every_network_says_what_to_download_and_where_to_put_it(offline, name) -> None:
    assert_says_what_to_download(offline, name)
    keras.backend.clear_session(free_memory=True)


@pytest.mark.parametrize("content", [b"<html>", b""])
@pytest.mark.parametrize(("name", "arguments"), [("mobilenet", {"alpha": 0.25}), ("vgg16", {})])
def test_a_download_that_comes_damaged(monkeypatch, offline, name, arguments, content) -> None:
    def retrieve(origin, target, hook):
        pathlib.Path(target).write_bytes(content)

    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
    with pytest.raises(checks.WeightsError, match="ImageNet weights of .* cannot be had") as caught:
        backbones.load(name, image_size=32, weights="imagenet", arguments=arguments)
    assert "\n" not in str(caught.value)


def test_a_connection_that_breaks(monkeypatch, offline) -> None:
    def retrieve(origin, target, hook):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
    with pytest.raises(checks.WeightsError, match="cannot be had: .*reset by peer. Try again"):
        quarter(weights="imagenet")


def test_a_width_that_imagenet_has_no_weights_for(offline) -> None:
    with pytest.raises(checks.ConfigError, match="MobileNet cannot be built so.*alpha can be one"):
        quarter(weights="imagenet", arguments={"alpha": 0.33})
    assert not offline


def test_a_file_in_the_place_that_the_advice_names_is_found(offline) -> None:
    with pytest.raises(checks.WeightsError):
        quarter(weights="imagenet")
    ((_, target),) = offline
    keras.utils.set_random_seed(1)
    source = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(128, 128, 3)
    )
    source.save(target)
    backbone = quarter(image_size=128)
    assert (backbone.weights, backbone.source_classes) == ("imagenet", 1000)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 128, 128, 3)).astype(np.float32)
    np.testing.assert_allclose(
        backbone.model(pixels), source(pixels / 127.5 - 1), rtol=1e-4, atol=1e-5
    )
