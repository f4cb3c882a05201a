"""A texture's noise is new in every image; its frequencies, its directions and its colours stay."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune_kit.data import textures

STEPS = np.fft.fftfreq(textures.SIDE, 1 / textures.SIDE)


def power_of(images):
    """Returns the mean power of grey images by frequency, without that of their mean."""
    grey = np.asarray(images, float).mean(axis=-1)
    power = (np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
    return power / power.sum()


def nearly_linear(spectrum):
    """Returns a texture whose sine is almost a straight line, so that it keeps the spectrum."""
    weights = np.zeros((1, textures.UNITS))
    weights[0, 0] = 0.05
    palette = np.zeros((textures.UNITS, 3))
    palette[0] = 1
    return textures.Texture(
        spectra=spectrum[None], weights=weights, phases=np.zeros(textures.UNITS), palette=palette,
        colour=np.full(3, 128.0), contrast=25.0,
    )  # fmt: skip


def test_an_image_has_the_frequencies_of_its_class() -> None:
    across, down = np.meshgrid(STEPS, STEPS)
    stripes = np.exp(-(((np.abs(across) - 8) / 1.5) ** 2) - (down / 1.5) ** 2)
    of = nearly_linear(stripes)
    images = [textures.draw(of, np.random.default_rng(i)) for i in range(20)]
    power = power_of(images)
    near = (np.abs(np.abs(across) - 8) <= 3) & (np.abs(down) <= 3)
    assert power[near].sum() > 0.9  # of 4,096 frequencies, 98 are near
    expected = stripes**2 / (stripes**2).sum()
    assert np.corrcoef(power[near], expected[near])[0, 1] > 0.9


def test_colour_and_contrast_are_those_of_the_class_on_average() -> None:
    colour = np.array([90.0, 120.0, 150.0])
    of = dataclasses.replace(textures.texture(0), colour=colour, contrast=25.0)
    images = np.array([textures.draw(of, np.random.default_rng(i)) for i in range(60)], float)
    # Twelve grey levels from image to image: five standard errors of the mean of 60.
    np.testing.assert_allclose(images.mean(axis=(0, 1, 2)), colour, atol=5 * 12 / 60**0.5)
    own = images - images.mean(axis=(1, 2), keepdims=True)
    assert own.std() == pytest.approx(25, rel=0.1)


def test_clouds_grain_and_stripes_stay_below_the_finest_wave() -> None:
    for kind in range(40):
        spectra = textures.texture(kind).spectra
        assert 1 <= len(spectra) <= textures.NOISES and np.isfinite(spectra).all()
        assert (spectra >= 0).all() and (spectra.max(axis=(1, 2)) > 0.1).all()
        centred = spectra.reshape(len(spectra), -1).argmax(axis=1)
        places = np.stack([STEPS[centred // textures.SIDE], STEPS[centred % textures.SIDE]])
        assert (np.hypot(*places) <= textures.FINEST + 1).all()


def test_classes_are_told_apart_by_colour_and_by_grain() -> None:
    n, kinds = 12, 8
    images = np.array([textures.image(*divmod(i, n)) for i in range(kinds * n)], float)
    labels, first = np.repeat(np.arange(kinds), n), np.arange(kinds * n) % n < n // 2
    colours = images.mean(axis=(1, 2)) / 255
    grey = images.mean(axis=3)
    power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True)))
    grain = np.log(power[:, :32].reshape(-1, 8, 4, 16, 4).mean(axis=(2, 4))).reshape(len(grey), -1)

    def score(rows, strength):
        fitted = LogisticRegression(C=strength, max_iter=3000).fit(rows[first], labels[first])
        return fitted.score(rows[~first], labels[~first])

    assert score(colours, 1e3) > 0.5 and score(grain, 1e-2) > 0.8  # by chance 0.125
