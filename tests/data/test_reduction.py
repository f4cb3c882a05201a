"""Large JPEGs are reduced while they are decoded: how far, how faithfully, and by whom."""

import io
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, JpegImagePlugin
from sklearn import datasets

from apps import predict
from finetune_kit.data import decode, folder, store
from tests.data import samples

ORIENTATION = 0x0112
UPRIGHT = {  # what brings the stored pixels upright; EXIF 2.3, table 6
    3: lambda a: np.rot90(a, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
}


@pytest.fixture(scope="module")
def photo():
    """Returns a photo of much fine detail, uint8 [427, 640, 3]."""
    return datasets.load_sample_image("china.jpg")


def jpeg(image, height, width, **options):
    """Returns a photo of the given size as JPEG bytes."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    return samples.encoded(resized, "JPEG", **({"quality": 90} | options))


def in_full(data, size):
    """Returns what Keras makes of all pixels that TensorFlow decodes, float [size, size, 3]."""
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    layer = keras.layers.Resizing(size, size, antialias=True)
    return np.asarray(layer(tf.cast(image, tf.float32)[None]))[0]


@pytest.fixture
def decoded_at(monkeypatch):
    """Returns a list to which the size is added at which a JPEG is decoded."""
    sizes, load = [], JpegImagePlugin.JpegImageFile.load

    def spy(self):
        sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", spy)
    return sizes


@pytest.mark.parametrize(
    ("height", "width", "size", "reduced"),
    [
        (79, 200, 32, (200, 79)),  # a half would leave less than 1.25 x 32 = 40
        (80, 200, 32, (100, 40)),
        (200, 80, 32, (40, 100)),
        (159, 400, 32, (200, 80)),
        (160, 400, 32, (100, 40)),
        (320, 322, 32, (41, 40)),
        (330, 900, 16, (113, 42)),  # an eighth is the least that libjpeg gives
        (375, 500, 128, (250, 188)),
    ],
)
def test_the_largest_reduction_that_leaves_enough_is_taken(
    photo, decoded_at, height, width, size, reduced
) -> None:
    data = jpeg(photo, height, width)
    decoded_at.clear()
    found = decode.squeeze(data, size)
    assert decoded_at[0] == reduced and min(reduced) >= 1.25 * size or reduced == (width, height)
    assert found.pixels.shape == (size, size, 3) and found.pixels.dtype == np.uint8
    assert found.short_side == min(height, width)


@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((16, 32), (50, 40)),
        ((32, 16), (50, 40)),
        ((33, 20), (100, 80)),  # an eighth would leave less than 1.25 x 33
        ((65, 64), (200, 160)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_longer_side_says_how_far_a_jpeg_is_reduced(
    photo, decoded_at, size, reduced, orientation
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = jpeg(photo, 320, 400, exif=exif)
    decoded_at.clear()
    found = decode.squeeze(data, size)
    assert decoded_at[0] == reduced and found.short_side == 320
    expected = decode.resize(decode.decode(data), size).astype(float)
    assert found.pixels.shape == (*size, 3)
    assert np.abs(found.pixels - expected).mean() < 2


@pytest.mark.parametrize("ratio", [1.0, 1.6, 2.0, 2.4])
def test_below_twice_the_size_and_somewhat_more_nothing_changes(photo, ratio) -> None:
    data = jpeg(photo, int(96 * ratio), int(130 * ratio))
    whole = Image.open(io.BytesIO(data)).resize((96, 96), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode.pixels(data, 96), np.asarray(whole))


@pytest.mark.parametrize(
    ("height", "width", "size", "mean", "percentile"),
    [
        (320, 320, 128, 1.8, 11),  # as little as there may be left: 1.25 times the size
        (375, 500, 128, 1.3, 8),  # sides that are no multiple of eight
        (427, 640, 160, 1.5, 9),
        (427, 640, 64, 1.1, 7),
        (427, 640, 100, 0.8, 5),
    ],
)
def test_the_pixels_are_near_those_of_the_full_picture(
    photo, height, width, size, mean, percentile
) -> None:
    data = jpeg(photo, height, width)
    difference = np.abs(decode.pixels(data, size) - in_full(data, size))
    assert 0.2 < difference.mean() < mean
    assert np.percentile(difference, 99) < percentile


def test_nothing_is_moved(photo) -> None:
    # An edge in an image whose sides are no multiple of the reduction: off by half a pixel of the
    # original it would be off by 255 / 8 here.
    image = np.zeros((251, 251, 3), np.uint8)
    image[:, 192:] = 255
    data = samples.encoded(image, "JPEG", quality=100, subsampling=0)
    difference = np.abs(decode.pixels(data, 63) - in_full(data, 63))
    assert difference.max() < 12
    assert photo.shape == (427, 640, 3)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_reduced_picture_stands_upright(photo, orientation) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    plain = jpeg(photo, 300, 400)
    turned = decode.squeeze(jpeg(photo, 300, 400, exif=exif), 64)
    expected = UPRIGHT[orientation](decode.pixels(plain, 64))
    np.testing.assert_array_equal(turned.pixels, expected)
    assert turned.short_side == 300


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_are_reduced_like_colour(photo, decoded_at, mode) -> None:
    image = Image.fromarray(photo).convert(mode)
    data = samples.encoded(image, "JPEG", quality=90)
    found = decode.pixels(data, 100)
    assert decoded_at[0] == (320, 214)
    rgb = image.convert("RGB").resize((100, 100), Image.Resampling.BILINEAR)
    assert np.abs(found - np.asarray(rgb, float)).mean() < 2
    assert mode != "L" or (found[..., :1] == found).all()


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
def test_every_kind_of_jpeg_can_be_reduced(photo, decoded_at, options) -> None:
    data = jpeg(photo, 400, 400, **options)
    decoded_at.clear()
    difference = np.abs(decode.pixels(data, 64) - in_full(data, 64))
    assert decoded_at[0] == (100, 100) and difference.mean() < 2


def test_several_pictures_in_a_jpeg_give_the_first_reduced(photo) -> None:
    frames = [Image.fromarray(photo), Image.new("RGB", (640, 427), "black")]
    data = samples.encoded(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=90)
    difference = np.abs(decode.pixels(data, 64) - in_full(data, 64))
    assert difference.mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_are_decoded_in_full(photo, kind) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(photo[:300, :300])
    image = image.quantize(64) if kind == "GIF" else image
    expected = image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    found = decode.squeeze(samples.encoded(image, kind, **options), 32)
    np.testing.assert_array_equal(found.pixels, np.asarray(expected))
    assert found.short_side == 300


@pytest.mark.parametrize("size", [8, 32, 100, 200])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.97])
def test_a_cut_file_is_refused_however_much_it_is_reduced(photo, size, progressive, share) -> None:
    data = jpeg(photo, 427, 640, progressive=progressive)
    with pytest.raises(decode.DecodeError, match="truncated"):
        decode.pixels(data[: int(share * len(data))], size)


def test_arrays_are_squeezed_and_keep_their_short_side() -> None:
    image = samples.noise(50, 90)
    found = decode.squeeze(image, 10)
    np.testing.assert_array_equal(found.pixels, decode.resize(image, 10))
    assert found.short_side == 50


def test_training_and_prediction_see_the_same_pixels(photo, tmp_path) -> None:
    path = samples.write(tmp_path / "big.jpg", jpeg(photo, 427, 640))
    images = store.PixelStore(folder.FileReader((str(path),)), 64)
    (trained,) = images.batch(np.array([0]))

    class Seen(keras.Model):
        def predict_on_batch(self, batch):
            self.batch = batch
            return np.ones((len(batch), 1))

    model = Seen()
    list(predict.rows(predict.Predictor(model, ["a"], 64, 1), [pathlib.Path(path)], batch_size=4))
    np.testing.assert_array_equal(model.batch[0], trained)
    full = Image.fromarray(decode.decode(path.read_bytes()))
    assert (np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR)) != trained).any()
