"""Random views of a batch, as pure functions of pixels and uniform draws.

All geometry of an image (flip, crop, rotation, translation) is one projective transform, so that
its pixels are interpolated once, and not at all where whole pixels move. Every image has its own
row of draws, so that its view does not depend on the batch it is in; MixUp and CutMix, which need a
partner, take the next image of the batch.
"""

import enum
import math

import tensorflow as tf

from finetune_kit.data import levels, sizes


class Draw(enum.IntEnum):
    """Columns of the draws; each is read for one purpose."""

    FLIP = 0
    AREA = 1
    ASPECT = 2
    LEFT = 3
    TOP = 4
    SHIFT_X = 5
    SHIFT_Y = 6
    ANGLE = 7
    BRIGHTNESS = 8
    CONTRAST = 9
    SATURATION = 10
    ERASE = 11
    ERASE_AREA = 12
    ERASE_ASPECT = 13
    ERASE_X = 14
    ERASE_Y = 15
    MIX = 16
    MIX_KIND = 17
    MIX_SHARE = 18
    MIX_X = 19
    MIX_Y = 20


DRAWS = len(Draw)
ERASED_AREA = (0.02, 0.4)  # share of the image; Zhong et al., 2020, section 4.1
ERASED_ASPECT = 0.3  # smallest height over width, its inverse the largest; same section
GREY = (0.299, 0.587, 0.114)  # luma of red, green and blue; ITU-R BT.601


def apply(
    images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor, level: levels.Level
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns augmented images float32 [b, h, w, N] in [0, 255] and labels float32 [b, C].

    Args:
        images: uint8 or float32 [b, h, w, N] in [0, 255].
        labels: float32 [b, C], rows that sum to 1.
        draws: float32 [b, DRAWS] in [0, 1), columns as `Draw` names them.
        level: What to do.
    """
    if level.resamples:
        height, width = images.shape[1:3]
        images = _warp(tf.cast(images, tf.float32), transforms(draws, (height, width), level))
    elif level.moves:
        images = _move(images, draws, level)
    images = tf.cast(images, tf.float32)
    if level.recolours:
        images = _recolour(images, draws, level)
    if level.erase:
        images = _erase(images, draws, level)
    return _mix(images, labels, draws, level) if level.mix else (images, labels)


def transforms(draws: tf.Tensor, size: sizes.Size, level: levels.Level) -> tf.Tensor:
    """Returns the projective transforms, output to input pixels, float32 [b, 8].

    The output at (x, y) reads the input at (a0 x + a1 y + a2, b0 x + b1 y + b2): a window of random
    size is turned about its centre, which lies somewhere in the image, and mirrored. Coordinates
    are pixels along both axes, so that a turn is a turn whatever the image's height and width.

    Args:
        draws: float32 [b, DRAWS] in [0, 1).
        size: Side of the images in pixels, or (height, width).
        level: What to do.
    """
    rows, columns = sizes.sides(size)
    flip = tf.where(draws[:, Draw.FLIP] < level.flip, -1.0, 1.0)
    area = level.min_area + (1 - level.min_area) * draws[:, Draw.AREA]
    aspect = tf.exp(_signed(draws, Draw.ASPECT) * math.log(level.max_aspect))
    width = tf.minimum(1.0, tf.sqrt(area * aspect))
    height = tf.minimum(1.0, tf.sqrt(area / aspect))
    angle = _signed(draws, Draw.ANGLE) * math.radians(level.rotation)
    # The centre of the window that is read, relative to the centre of the image, in shares of
    # its width and height.
    x = _signed(draws, Draw.LEFT) * (1 - width) / 2 + _signed(draws, Draw.SHIFT_X) * level.shift
    y = _signed(draws, Draw.TOP) * (1 - height) / 2 + _signed(draws, Draw.SHIFT_Y) * level.shift
    a0, a1 = flip * width * tf.cos(angle), -height * tf.sin(angle)
    b0, b1 = flip * width * tf.sin(angle), height * tf.cos(angle)
    middle_x, middle_y = (columns - 1) / 2, (rows - 1) / 2
    beyond = middle_y - middle_x  # 0 of squares, which so are to the last bit what they ever were
    a2 = middle_x + columns * x - middle_x * (a0 + a1) - beyond * a1
    b2 = middle_y + rows * y - middle_y * (b0 + b1) + beyond * b0
    zero = tf.zeros_like(a0)
    return tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)


def _warp(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _move(images: tf.Tensor, draws: tf.Tensor, level: levels.Level) -> tf.Tensor:
    """Mirrors and shifts by whole pixels; without interpolation, at a fifth of the warp's time."""
    height, width = images.shape[1:3]
    flip = draws[:, Draw.FLIP : Draw.FLIP + 1] < level.flip
    columns = _shifted(width, _signed(draws, Draw.SHIFT_X) * level.shift)
    columns = tf.where(flip, columns[:, ::-1], columns)
    rows = _shifted(height, _signed(draws, Draw.SHIFT_Y) * level.shift)
    images = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(images, columns, axis=2, batch_dims=1)


def _shifted(side: int, shift: tf.Tensor) -> tf.Tensor:
    """Returns the places to read, int32 [b, side]; beyond an edge, the edge is a mirror."""
    places = tf.range(side) + tf.cast(tf.round(shift * side), tf.int32)[:, None]
    places = tf.where(places < 0, -1 - places, places)
    return tf.where(places >= side, 2 * side - 1 - places, places)


def _recolour(images: tf.Tensor, draws: tf.Tensor, level: levels.Level) -> tf.Tensor:
    """Changes saturation, contrast and brightness: one affine map of the colours an image."""
    if images.shape[-1] != sizes.COLOURS:
        return _relight(images, draws, level)
    saturation = 1 + _signed(draws, Draw.SATURATION) * level.saturation
    contrast = 1 + _signed(draws, Draw.CONTRAST) * level.contrast
    brightness = _signed(draws, Draw.BRIGHTNESS) * level.brightness * 255
    grey = tf.constant(GREY)
    mean = tf.linalg.matvec(tf.reduce_mean(images, axis=[1, 2]), grey)
    own = saturation[:, None, None] * tf.eye(3)
    desaturated = (1 - saturation)[:, None, None] * tf.tile(grey[:, None], [1, 3])
    matrix = contrast[:, None, None] * (own + desaturated)
    offset = mean * (1 - contrast) + brightness
    # One matrix product over all pixels; channel by channel takes three times as long.
    pixels = tf.matmul(tf.reshape(images, [-1, images.shape[1] * images.shape[2], 3]), matrix)
    pixels = tf.clip_by_value(pixels + offset[:, None, None], 0.0, 255.0)
    return tf.reshape(pixels, [-1, *images.shape[1:]])


def _relight(images: tf.Tensor, draws: tf.Tensor, level: levels.Level) -> tf.Tensor:
    """Changes contrast, about the mean of all channels, and brightness; there is no saturation."""
    contrast = 1 + _signed(draws, Draw.CONTRAST) * level.contrast
    brightness = _signed(draws, Draw.BRIGHTNESS) * level.brightness * 255
    offset = tf.reduce_mean(images, axis=[1, 2, 3]) * (1 - contrast) + brightness
    pixels = _columns(contrast) * images + _columns(offset)
    return tf.clip_by_value(pixels, 0.0, 255.0)


def _erase(images: tf.Tensor, draws: tf.Tensor, level: levels.Level) -> tf.Tensor:
    """Paints a rectangle in the mean colour of the image; its aspect is drawn log-uniformly."""
    low, high = ERASED_AREA
    chosen = draws[:, Draw.ERASE] < level.erase
    area = tf.where(chosen, low + (high - low) * draws[:, Draw.ERASE_AREA], 0.0)
    aspect = tf.exp(_signed(draws, Draw.ERASE_ASPECT) * math.log(ERASED_ASPECT))
    aspect *= images.shape[2] / images.shape[1]  # of pixels, as a ratio of shares of the sides
    height, width = tf.sqrt(area * aspect), tf.sqrt(area / aspect)
    inside = _rectangle(images, height, width, draws[:, Draw.ERASE_X], draws[:, Draw.ERASE_Y])
    return images + inside * (tf.reduce_mean(images, axis=[1, 2], keepdims=True) - images)


def _mix(
    images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor, level: levels.Level
) -> tuple[tf.Tensor, tf.Tensor]:
    """Lays the next image over chosen ones, in part (CutMix) or thinly (MixUp).

    The partner's share is uniform in [0, 1), as both papers have it with alpha = 1; the labels take
    the share that the pixels took.
    """
    chosen = draws[:, Draw.MIX] < level.mix
    share = tf.where(chosen, draws[:, Draw.MIX_SHARE], 0.0)
    side = tf.sqrt(share)  # of each of the image's: the part has its form
    inside = _rectangle(images, side, side, draws[:, Draw.MIX_X], draws[:, Draw.MIX_Y])
    cut = draws[:, Draw.MIX_KIND] < 0.5
    cover = tf.where(_columns(cut), inside, _columns(share))
    weight = tf.reduce_mean(cover, axis=[1, 2])
    images += cover * (tf.roll(images, -1, 0) - images)
    return images, labels + weight * (tf.roll(labels, -1, 0) - labels)


def _rectangle(
    images: tf.Tensor, height: tf.Tensor, width: tf.Tensor, x: tf.Tensor, y: tf.Tensor
) -> tf.Tensor:
    """Returns 1 in a rectangle and 0 elsewhere, float32 [b, h, w, 1].

    Args:
        images: [b, h, w, N].
        height, width: float32 [b], shares of the image's; brought to whole pixels, at most all.
        x, y: float32 [b] in [0, 1), where between the edges it lies.
    """

    def within(side: float, share: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        length = tf.minimum(tf.round(share * side), side)
        start = tf.floor(place * (side - length + 1))
        grid = tf.range(side)
        inside = (grid >= start[:, None]) & (grid < (start + length)[:, None])
        return tf.cast(inside, tf.float32)

    down = within(float(images.shape[1]), height, y)
    across = within(float(images.shape[2]), width, x)
    return (down[:, :, None] * across[:, None, :])[..., None]


def _columns(values: tf.Tensor) -> tf.Tensor:
    return values[:, None, None, None]


def _signed(draws: tf.Tensor, column: Draw) -> tf.Tensor:
    return 2.0 * draws[:, column] - 1.0
