"""How strong an augmentation is: five levels, from nothing to mixed images. No TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Level:
    """The parts of an augmentation; a part at its default is switched off.

    Attributes:
        flip: Probability of a horizontal flip.
        min_area: Smallest share of the area that a random resized crop keeps (Szegedy et al., 2015,
            section 6, with 0.08).
        max_aspect: Largest ratio between the sides of the crop, at least 1; each is a share of the
            image's, so that it is the most by which a thing is stretched.
        shift: Largest translation, share of the side.
        rotation: Largest angle in degrees.
        brightness: Largest additive change, share of 255.
        contrast: Largest relative change of the distance to the mean grey.
        saturation: Largest relative change of the distance to the pixel's own grey.
        erase: Probability that a rectangle is erased (Zhong et al., 2020, section 3.2).
        mix: Probability that an image is mixed with another, half of the time by MixUp (Zhang et
            al., 2018, section 2), half by CutMix (Yun et al., 2019, section 3.1).
    """

    flip: float = 0.0
    min_area: float = 1.0
    max_aspect: float = 1.0
    shift: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0
    mix: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return bool(self.flip or self.shift or self.resamples)

    @property
    def resamples(self) -> bool:
        """Whether pixels are read between pixels."""
        return bool(self.rotation or self.min_area < 1 or self.max_aspect > 1)

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return bool(self.brightness or self.contrast or self.saturation)


LEVELS = {
    "none": Level(),
    "shift": Level(shift=0.1),
    "light": Level(flip=0.5, shift=0.1),
    "medium": Level(
        flip=0.5,
        min_area=0.5,
        max_aspect=4 / 3,
        shift=0.05,
        rotation=10.0,
        brightness=0.1,
        contrast=0.2,
        saturation=0.2,
    ),
    "strong": Level(
        flip=0.5,
        min_area=0.25,
        max_aspect=4 / 3,
        shift=0.05,
        rotation=15.0,
        brightness=0.2,
        contrast=0.4,
        saturation=0.4,
        erase=0.25,
        mix=0.5,
    ),
}
