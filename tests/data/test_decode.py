"""One decoder: every kind of file against NumPy, TensorFlow or Keras; nothing else gets through."""

import io
import struct
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from finetune_kit import checks
from finetune_kit.data import decode
from tests.data import samples

ORIENTATION = 0x0112
# What brings the stored pixels upright; EXIF 2.3, table 6, tag 0x0112.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


def png(width, height, *, depth, colours, rows=b"", more=b""):
    """Returns a PNG file made by hand (ISO 15948): `colours` is the colour type."""

    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def exif_block(*more):
    """Returns an EXIF block made by hand: orientation 6 and further entries of 12 bytes."""
    entries = (struct.pack(">HHIHH", ORIENTATION, 3, 1, 6, 0), *more)
    head = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4)


def on_white(colours, alpha):
    """Returns colours [h, w, 3] laid on white with alpha [h, w], both in [0, 255]."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def assert_pixels(data, expected, *, within=0):
    image = decode.decode(data)
    assert image.dtype == np.uint8 and image.shape == expected.shape
    difference = np.abs(image.astype(float) - expected)
    assert difference.max() <= within


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_lossless_formats_give_the_very_pixels(kind, options) -> None:
    image = samples.noise(13, 7)
    assert_pixels(samples.encoded(image, kind, **options), image)


def test_gif_gives_the_very_pixels_of_its_palette() -> None:
    colours = np.array([[255, 0, 0], [0, 128, 255], [9, 9, 9]], np.uint8)
    image = colours[np.random.default_rng(0).integers(0, 3, (9, 11))]
    assert_pixels(samples.encoded(image, "GIF"), image)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_jpeg_is_that_of_tensorflow(options) -> None:
    data = samples.encoded(samples.smooth(), "JPEG", **options)
    expected = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert_pixels(data, expected.astype(float), within=2)
    if options.get("quality", 75) >= 75:
        assert_pixels(data, samples.smooth().astype(float), within=40)


def test_lossy_webp_is_that_of_tensorflow() -> None:
    data = samples.encoded(samples.smooth(), "WEBP", quality=80)
    expected = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    assert_pixels(data, expected.astype(float), within=2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_grey_becomes_three_equal_channels(kind) -> None:
    grey = samples.noise(6, 9)[..., 0]
    assert_pixels(samples.encoded(grey, kind), np.stack([grey] * 3, axis=-1))


def test_grey_jpeg_becomes_three_equal_channels() -> None:
    data = samples.encoded(np.full((16, 16), 77, np.uint8), "JPEG")
    assert_pixels(data, np.full((16, 16, 3), 77))


def test_one_bit_is_black_and_white() -> None:
    bits = samples.noise(5, 6)[..., 0] > 127
    expected = np.where(bits, 255, 0)[..., None].repeat(3, axis=-1)
    assert_pixels(samples.encoded(Image.fromarray(bits)), expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_a_palette_is_looked_up(kind) -> None:
    colours = samples.noise(1, 200, seed=5)[0]
    places = np.random.default_rng(0).integers(0, 200, (8, 8)).astype(np.uint8)
    image = Image.fromarray(places, "L").convert("P")
    image.putpalette(colours.tobytes())
    assert_pixels(samples.encoded(image, kind), colours[places])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(kind) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 4)).astype(np.uint8)
    pixels[:4, :, 3], pixels[4:8, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = samples.encoded(pixels, kind, **options)
    assert_pixels(data, on_white(pixels[..., :3], pixels[..., 3]), within=1)
    # Colours that lie hidden below alpha 0 must not show.
    assert (decode.decode(data)[:4] == 255).all()


def test_grey_with_alpha_is_laid_on_white() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 2)).astype(np.uint8)
    grey = pixels[..., :1].repeat(3, axis=-1)
    data = samples.encoded(Image.fromarray(pixels, "LA"))
    assert_pixels(data, on_white(grey, pixels[..., 1]), within=1)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(kind) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    data = samples.encoded(image, kind, transparency=0)
    white, red, blue = [255] * 3, [200, 0, 0], [0, 0, 200]
    assert_pixels(data, np.array([[white, red], [blue, white]]))


@pytest.mark.parametrize(("mode", "key"), [("L", 9), ("RGB", (9, 9, 9)), ("1", 0)])
def test_a_transparent_colour_is_white(mode, key) -> None:
    dark, light = (0, 255) if mode == "1" else (9, 200)
    image = Image.fromarray(np.array([[dark, light]], np.uint8)).convert(mode)
    data = samples.encoded(image, transparency=key)
    assert_pixels(data, np.array([[[255] * 3, [light] * 3]]))


def test_cmyk_is_converted() -> None:
    inks = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 200, 90, 0], [40, 80, 120, 100]], np.uint8)
    pixels = inks.repeat(16, axis=0).reshape(4, 16, 1, 4).repeat(16, axis=2)
    data = samples.encoded(Image.fromarray(pixels.reshape(64, 16, 4), "CMYK"), "JPEG", quality=98)
    cmyk = inks.astype(float).repeat(16, axis=0)[:, None].repeat(16, axis=1)
    expected = (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255
    assert_pixels(data, expected, within=4)
    reference = tf.io.decode_jpeg(data, channels=3).numpy().astype(float)
    assert_pixels(data, reference, within=3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_keep_their_high_byte(channels) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (6, 8, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 2**16 - 1
    data = tf.io.encode_png(values).numpy()
    high = (values >> 8)[..., : 1 if channels < 3 else 3]
    assert_pixels(data, np.broadcast_to(high, (6, 8, 3)))
    if channels != 2:
        assert_pixels(data, tf.io.decode_png(data, channels=3).numpy().astype(float))


def test_a_transparent_grey_of_sixteen_bits_is_white() -> None:
    # The key is compared in 16 bits: 0x1235 has the same high byte and is opaque.
    row = np.array([0x1234, 0x1235, 0xFFFF], ">u2").tobytes()
    check = struct.pack(">I", zlib.crc32(b"tRNS\x12\x34"))
    key = struct.pack(">I", 2) + b"tRNS\x12\x34" + check
    data = png(3, 1, depth=16, colours=0, rows=b"\0" + row, more=key)
    assert_pixels(data, np.array([[[255] * 3, [0x12] * 3, [255] * 3]]))
    expected = [[[0x12, 0], [0x12, 255], [255, 255]]]
    np.testing.assert_array_equal(decode.decode(data, 2), expected)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation) -> None:
    stored = samples.noise(5, 9)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = samples.encoded(stored, kind, exif=exif, **options)
    assert_pixels(data, UPRIGHT[orientation](stored))


def test_exif_orientation_of_a_jpeg_is_applied() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = samples.encoded(samples.smooth(), "JPEG", exif=exif)
    turned = np.rot90(tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE").numpy(), -1)
    assert_pixels(data, turned.astype(float), within=2)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"broken", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"])
def test_a_damaged_exif_block_leaves_the_pixels_alone(exif) -> None:
    plain = samples.encoded(samples.smooth(), "JPEG")
    data = samples.encoded(samples.smooth(), "JPEG", exif=b"Exif\0\0" + exif)
    assert_pixels(data, decode.decode(plain).astype(float))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_block_that_is_no_exif_leaves_the_pixels_alone(kind) -> None:
    stored = samples.noise(5, 9)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = samples.encoded(stored, kind, exif=b"Exi?\0\0" + exif_block(), **options)
    assert_pixels(data, stored)


def test_an_orientation_that_can_be_read_is_applied_though_the_rest_is_odd() -> None:
    # Text where a number belongs: Pillow reads such a block and cannot write it again.
    odd = struct.pack(">HHI4s", 0x0156, 2, 4, b"odd\0")
    stored = samples.noise(5, 9)
    data = samples.encoded(stored, exif=b"Exif\0\0" + exif_block(odd))
    assert_pixels(data, UPRIGHT[6](stored))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = samples.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert_pixels(data, np.broadcast_to([255, 0, 0], (4, 6, 3)))


def test_several_pictures_in_a_jpeg_give_the_first() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black")]
    data = samples.encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert_pixels(data, np.full((16, 16, 3), 255))


def test_bytes_after_the_image_are_nothing_to_it() -> None:
    image = samples.noise()
    assert_pixels(samples.encoded(image) + b"PK\x03\x04 an archive", image)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "^the file is empty$"),
        (b"<!DOCTYPE html><title>404</title>", "^the file is an HTML page$"),
        (b"\n  <html><body>Moved</body></html>", "^the file is an HTML page$"),
        (b"not an image at all", "^no JPEG, PNG, GIF, BMP, WEBP image$"),
        (b"\xff\xd8\xff", "."),
        (samples.encoded(samples.noise(), "TIFF"), "^no JPEG, PNG, GIF, BMP, WEBP image$"),
        (samples.encoded(samples.noise(), "PPM"), "^no JPEG, PNG, GIF, BMP, WEBP image$"),
        (samples.encoded(samples.noise(64, 64), "JPEG")[:900], "truncated"),
        (samples.encoded(samples.noise(64, 64), "PNG")[:900], "truncated"),
        (samples.encoded(samples.noise(64, 64), "BMP")[:900], "truncated"),
        (png(60_000, 60_000, depth=8, colours=0), "3600000000 pixels.*decompression bomb"),
    ],
)
def test_what_is_no_whole_image_is_refused_with_the_reason_alone(data, reason) -> None:
    with pytest.raises(decode.DecodeError, match=reason) as caught:
        decode.decode(data)
    assert isinstance(caught.value, checks.DataError)
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(monkeypatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 7 * 9)
    decode.decode(samples.encoded(samples.noise(7, 9)))
    # No pixel data at all: only the header can have been read.
    header = png(8, 8, depth=8, colours=2)
    with pytest.raises(decode.DecodeError, match="^8 x 8 pixels, more than 63 in all$"):
        decode.decode(header)


@pytest.mark.parametrize("kind", decode.FORMATS)
def test_damaged_bytes_give_an_image_or_the_one_error(kind) -> None:
    whole = samples.encoded(samples.smooth(16, 24), kind)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        data = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(0, len(data), 3):
            data[place] = generator.integers(0, 256)
        try:
            image = decode.decode(bytes(data))
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3
        except decode.DecodeError as error:
            refused += 1
            assert str(error)
    assert refused > 20


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (37, 53, 16),
        (16, 16, 32),
        (100, 7, 16),
        (7, 9, 24),
        (200, 300, 17),
        (1, 50, 8),
        (33, 32, 32),
    ],
)
def test_resizing_is_that_of_the_saved_model_within_one_grey_level(height, width, size) -> None:
    image = samples.noise(height, width)
    layer = keras.layers.Resizing(size, size, antialias=True)
    expected = np.rint(np.asarray(layer(image[None].astype(np.float32)))[0])
    resized = decode.resize(image, size)
    assert resized.dtype == np.uint8 and resized.shape == (size, size, 3)
    difference = np.abs(resized.astype(float) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.3


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (64, 7), (33, 32)])
def test_height_and_width_are_those_of_the_saved_model(size) -> None:
    image = samples.noise(33, 47)
    layer = keras.layers.Resizing(*size, antialias=True)
    expected = np.rint(np.asarray(layer(image[None].astype(np.float32)))[0])
    resized = decode.resize(image, size)
    assert resized.dtype == np.uint8 and resized.shape == (*size, 3)
    assert np.abs(resized.astype(float) - expected).max() <= 1


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_picture_on_its_side_has_height_and_width_once_it_is_upright(kind, orientation) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {} if kind == "JPEG" else {"lossless": True}
    data = samples.encoded(samples.smooth(24, 40), kind, exif=exif, **options)
    expected = decode.resize(decode.decode(data), (18, 11)).astype(float)
    # Pillow rounds after either axis, and takes them the other way round here.
    assert np.abs(decode.pixels(data, (18, 11)) - expected).max() <= 1


def test_an_image_of_the_right_size_is_not_touched() -> None:
    for height, width in ((16, 16), (9, 16)):
        image = samples.noise(height, width)
        np.testing.assert_array_equal(decode.resize(image, (height, width)), image)
    image = samples.noise(16, 16)
    np.testing.assert_array_equal(decode.resize(image, 16), image)


def test_pixels_are_decoded_then_squeezed() -> None:
    # Halves of one colour each: squeezing 2 to 1 keeps them where they are.
    image = np.zeros((4, 16, 3), np.uint8)
    image[:, 8:] = 200
    small = decode.pixels(samples.encoded(image), 8)
    assert small.shape == (8, 8, 3)
    assert (small[:, :3] == 0).all() and (small[:, 5:] == 200).all()
    with pytest.raises(decode.DecodeError, match="the file is empty"):
        decode.pixels(b"", 8)


def test_grey_and_alpha_are_those_of_pillow_and_every_channel_is_resized_by_itself() -> None:
    layer = np.dstack([samples.smooth(), samples.noise(48, 64)[..., :1]])
    for kind, image in (("PNG", layer), ("JPEG", samples.smooth())):
        data = samples.encoded(image, kind)
        rgba = Image.open(io.BytesIO(data)).convert("RGBA")
        assert (np.asarray(rgba)[..., 3].min() == 255) == (kind == "JPEG")  # opaque
        on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        wanted = {
            1: np.asarray(on_white.convert("RGB").convert("L"))[..., None],
            2: np.asarray(rgba.convert("LA")),
            4: np.asarray(rgba),
        }
        for channels, expected in wanted.items():
            np.testing.assert_array_equal(decode.decode(data, channels), expected)
            bands = [
                Image.fromarray(band).resize((20, 12), Image.Resampling.BILINEAR)
                for band in np.moveaxis(expected, -1, 0)
            ]
            small = decode.pixels(data, (12, 20), channels)
            np.testing.assert_array_equal(small, np.stack(bands, axis=-1))
        with pytest.raises(decode.DecodeError, match="an image file, which gives no 5 channels"):
            decode.pixels(data, 8, 5)
