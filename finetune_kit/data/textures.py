"""Textures from formulas: a class is a way to colour noise, an image what it makes of new noise.

Up to three noises, each with a spectrum of its own, run through a small random network of sines to
colours: grain, weave, bark, clouds, foam. Networks that learnt from noise with the statistics of
images transfer to photos (Baradad et al., 2021, "Learning to See by Looking at Noise", section 3),
and the better, the more programs make the images (Baradad et al., 2022, "Procedural Image Programs
for Representation Learning", the experiment on scaling). Unlike fractals, classes have colours.
"""

import dataclasses
import functools

import numpy as np

SIDE = 64  # pixels that an image is drawn at
UNITS = 8  # sines between noise and colour
NOISES = 3  # most noises of a class
FINEST = 14.0  # waves across an image; with more, nothing is left of them at half the side


@dataclasses.dataclass(frozen=True)
class Texture:
    """What the images of a class share.

    Attributes:
        spectra: float64 [k, SIDE, SIDE], the amplitude of each noise by frequency.
        weights: float64 [k, UNITS], from noises to sines.
        phases: float64 [UNITS], in radians.
        palette: float64 [UNITS, 3], from sines to colours.
        colour: float64 [3], the mean colour in [0, 255].
        contrast: Standard deviation of the pixels, of 255.
    """

    spectra: np.ndarray
    weights: np.ndarray
    phases: np.ndarray
    palette: np.ndarray
    colour: np.ndarray
    contrast: float


def image(kind: int, number: int) -> np.ndarray:
    """Returns an image of a class, uint8 [SIDE, SIDE, 3], the same whenever it is asked for."""
    return draw(texture(kind), np.random.default_rng((3, kind, number)))


@functools.lru_cache(maxsize=4096)
def texture(kind: int) -> Texture:
    """Returns the texture of a class."""
    generator = np.random.default_rng((2, kind))
    count = int(generator.integers(1, NOISES + 1))
    return Texture(
        spectra=np.stack([_spectrum(generator) for _ in range(count)]),
        weights=generator.normal(0, generator.uniform(0.5, 2.0), (count, UNITS)),
        phases=generator.uniform(-np.pi, np.pi, UNITS),
        palette=generator.normal(0, 1, (UNITS, 3)),
        colour=generator.uniform(60, 200, 3),
        contrast=float(generator.uniform(20, 70)),
    )


def draw(of: Texture, generator: np.random.Generator) -> np.ndarray:
    """Returns an image, uint8 [SIDE, SIDE, 3]: of new noise, with all else a little off."""
    waves = np.fft.fft2(generator.normal(size=of.spectra.shape)) * of.spectra
    noises = np.moveaxis(np.fft.ifft2(waves).real, 0, -1)
    noises /= noises.std(axis=(0, 1)) + 1e-9
    phases = of.phases + generator.normal(0, 0.15, UNITS)
    colours = np.sin(noises @ of.weights * generator.uniform(0.85, 1.15) + phases) @ of.palette
    colours -= colours.mean(axis=(0, 1))
    colours *= of.contrast * generator.uniform(0.7, 1.3) / (colours.std() + 1e-9)
    colours += of.colour + generator.normal(0, 12, 3)
    return np.rint(np.clip(colours, 0, 255)).astype(np.uint8)


def _spectrum(generator: np.random.Generator) -> np.ndarray:
    """Returns amplitudes by frequency, float64 [SIDE, SIDE]: of clouds, of grain, or of stripes.

    Clouds have every frequency f, by a power of it, and may be stretched; the spectrum of photos is
    about 1 / f (Field, 1987). Grain and stripes have those near one frequency; stripes one
    direction, too.
    """
    steps = np.fft.fftfreq(SIDE, 1 / SIDE)
    angle = generator.uniform(0, np.pi)
    along = steps[:, None] * np.cos(angle) + steps * np.sin(angle)
    across = steps * np.cos(angle) - steps[:, None] * np.sin(angle)
    form = generator.choice(("clouds", "grain", "stripes"))
    if form == "clouds":
        stretch = np.exp(generator.uniform(-1.2, 1.2))
        distance = np.hypot(along * stretch, across / stretch)
        distance[0, 0] = np.inf  # no noise is brighter than another
        return np.asarray(distance ** -generator.uniform(0.8, 2.5))
    middle = np.exp(generator.uniform(np.log(2), np.log(FINEST)))
    if form == "grain":
        width = middle * generator.uniform(0.1, 0.5)
        return np.asarray(np.exp(-(((np.hypot(along, across) - middle) / width) ** 2)))
    length, width = middle * generator.uniform(0.08, 0.4), middle * generator.uniform(0.08, 0.5)
    return np.asarray(np.exp(-(((np.abs(along) - middle) / length) ** 2) - (across / width) ** 2))
