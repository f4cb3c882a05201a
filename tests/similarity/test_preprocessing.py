"""Wrong scalings are named and right ones pass, on photographs and what can be made of them."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import backbones
from finetune_kit.backbones import catalogue, scaling
from finetune_kit.similarity import preprocessing
from tests.similarity import nets


def variants():
    photos = nets.photographs(64).astype(np.float32)
    grey = np.repeat(photos.mean(axis=-1, keepdims=True), 3, axis=-1)
    # Bright objects on black, drawn at 28 px.
    blobs = np.where(grey > np.median(grey, axis=(1, 2), keepdims=True), grey, 0)
    return {
        "as they are": photos,
        "grey": grey,
        "dark": 0.15 * photos,
        "pale": 190 + 0.2 * photos,
        "flat": 100 + 0.2 * photos,
        "inverted": 255 - photos,
        "silhouettes": blobs,
    }


VARIANTS = variants()


@pytest.fixture(scope="module")
def backbone():
    """The bundled network, without the card that would vouch for it."""
    return dataclasses.replace(backbones.load("bundled"), card=None)


@pytest.mark.parametrize("name", VARIANTS)
def test_right_weights_pass_whatever_the_images(backbone, name) -> None:
    assert preprocessing.check(backbone, nets.split(VARIANTS[name])) == ""


def expecting(backbone, scaling):
    """Returns the network with the statistics of one that was trained with another scaling."""
    model = backbones.network.build(32)
    model.set_weights(backbone.model.get_weights())
    first, norm = model.get_layer("block_1_conv_1"), model.get_layer("block_1_conv_1_bn")
    source = np.asarray(nets.photographs(300, seed=8), np.float32)
    if scaling == "unit":
        values = source / 255
    elif scaling == "none":
        values = source
    else:
        module = {"torch": keras.applications.densenet, "caffe": keras.applications.vgg16}[scaling]
        values = module.preprocess_input(source.copy())
    x = np.array(first(values), np.float64)
    gamma, beta, _, _ = norm.get_weights()
    norm.set_weights([gamma, beta, x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))])
    return dataclasses.replace(backbone, model=model, stages=backbones.find_stages(model))


@pytest.mark.parametrize("variant", ["as they are", "grey", "dark", "silhouettes"])
@pytest.mark.parametrize("scaling", ["none", "unit", "torch", "caffe"])
def test_another_scaling_is_named(backbone, scaling, variant) -> None:
    said = preprocessing.check(expecting(backbone, scaling), nets.split(VARIANTS[variant]))
    assert f"expect {preprocessing.SCALINGS[scaling]}, while" in said
    assert f"gives them {preprocessing.SCALINGS['tf']}" in said and said.count(". ") == 0


def test_foreign_weights_fit_no_scaling(backbone) -> None:
    model = backbones.network.build(32)
    model.set_weights(backbone.model.get_weights())
    norm = model.get_layer("block_1_conv_1_bn")
    gamma, beta, mean, _ = norm.get_weights()
    norm.set_weights([gamma, beta, mean + 3, np.full_like(mean, 0.01)])
    foreign = dataclasses.replace(backbone, model=model, stages=backbones.find_stages(model))
    said = preprocessing.check(foreign, nets.split(VARIANTS["as they are"]))
    assert "fit none of the usual scalings" in said and "another network" in said


def test_a_card_that_agrees_with_the_layer_settles_it(backbone) -> None:
    other = expecting(backbone, "unit")
    _, _, mean, variance = other.model.get_layer("block_1_conv_1_bn").get_weights()

    def check(mean):
        moments = {"block_1_conv_1_bn": (mean, variance)}
        known = dataclasses.replace(backbones.load("bundled").card, moments=moments)
        given = dataclasses.replace(other, card=known)
        return preprocessing.check(given, nets.split(VARIANTS["as they are"]))

    assert check(mean) == ""
    assert "expect values from 0 to 1" in check(mean + 2 * np.sqrt(variance))


@pytest.mark.parametrize("pixels", [np.zeros((5, 32, 32, 3)), VARIANTS["as they are"][:1]])
def test_images_that_say_nothing_are_not_spoken_of(backbone, pixels) -> None:
    assert preprocessing.check(expecting(backbone, "unit"), nets.split(pixels)) == ""


def test_networks_that_remember_nothing_are_not_asked(backbone) -> None:
    split = nets.split(nets.images(5))
    assert preprocessing.check(nets.backbone(batch_norm=False), split) == ""
    assert preprocessing.check(nets.backbone(), split) == ""  # of no known scaling
    odd = dataclasses.replace(expecting(backbone, "unit"), weights="none")
    assert preprocessing.check(odd, nets.split(VARIANTS["grey"])) == ""


def test_channels_get_the_mean_and_deviation_of_photographs() -> None:
    pixels = preprocessing.photographic(VARIANTS["dark"])
    np.testing.assert_allclose(pixels.mean(axis=(0, 1, 2)) / 255, (0.485, 0.456, 0.406), rtol=1e-3)
    np.testing.assert_allclose(pixels.std(axis=(0, 1, 2)) / 255, (0.229, 0.224, 0.225), rtol=1e-3)


@pytest.mark.parametrize("mode", catalogue.PREPROCESSING)
def test_unscaling_is_the_way_back(mode) -> None:
    pixels = VARIANTS["as they are"][:3]
    values = np.array(scaling.preprocess(pixels, mode))
    np.testing.assert_allclose(preprocessing.unscaled(values, mode), pixels, atol=1e-2)
