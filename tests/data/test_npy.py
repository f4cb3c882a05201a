"""Arrays in `.npy` files: images of any number of channels, and what is none."""

import io

import numpy as np
import pytest
from PIL import Image

from finetune_kit import data
from finetune_kit.data import decode, folder
from tests.data import samples


def saved(array, **options):
    """Returns the bytes of an array as NumPy saves it."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    """Returns an array uint8 of a shape."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def claiming(shape, kind="|u1"):
    """Returns a file whose header speaks of an array that is not there."""
    file = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_an_array_is_read_as_it_is_and_resized_channel_by_channel(channels) -> None:
    array = noise(9, 14, channels)
    for kept in (array, np.asfortranarray(array)):
        np.testing.assert_array_equal(decode.decode(saved(kept), channels), array)
    small = decode.pixels(saved(array), (6, 5), channels)
    assert small.shape == (6, 5, channels)
    for channel in range(channels):
        band = Image.fromarray(array[..., channel]).resize((5, 6), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(small[..., channel], band)
    assert decode.squeeze(saved(array), 4, channels).short_side == 9


def test_two_axes_are_one_channel() -> None:
    array = noise(9, 14)
    np.testing.assert_array_equal(decode.decode(saved(array), 1)[..., 0], array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(noise(5, 6, 3)), r"^an array of shape \(5, 6, 3\), where \[h, w, 4\] is needed$"),
        (saved(noise(5, 6)), r"shape \(5, 6\), where \[h, w, 4\]"),
        (saved(noise(0, 6, 4)), r"shape \(0, 6, 4\)"),
        (saved(noise(5, 6, 4).astype(np.float32)), "^an array of float32, where uint8 is needed$"),
        (saved(np.array([{"a": print}], object), allow_pickle=True), "an array of object"),
        (saved(noise(5, 6, 4))[:-1], "^the array is cut off$"),
        (claiming((50_000, 50_000, 4)), "50000 x 50000 pixels, more than 89478485 in all"),
        (claiming((9_000, 9_000, 4)), "the array is cut off"),
        (claiming((-1, 6, 4)), r"shape \(-1, 6, 4\)"),
        (b"\x93NUMPY", "a .npy header that cannot be read"),
        (b"\x93NUMPY\x01\x00\x04\x00{'a(", "a .npy header that cannot be read"),
        (b"\x93NUMPY\x03\x00" + bytes(99), r"format \(3, 0\), where 1.0 or 2.0 is needed"),
    ],
)
def test_what_is_no_image_is_a_reason_in_one_line(content, reason) -> None:
    for read in (lambda: decode.decode(content, 4), lambda: decode.pixels(content, 8, 4)):
        with pytest.raises(decode.DecodeError, match=reason) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_folder_of_arrays_is_a_source_and_bad_ones_are_named(tmp_path) -> None:
    for group in "ab":
        for index in range(30):
            path = tmp_path / group / f"{index:02}.npy"
            samples.write(path, saved(noise(8, 9, 5, seed=index + 30 * (group == "b"))))
    samples.write(tmp_path / "a" / "00.npy", saved(noise(8, 9, 4)))
    samples.write(tmp_path / "b" / "01.png")
    found = folder.list_folder(str(tmp_path))
    assert len(found) == 61 and not found.ignored
    images = data.load(tmp_path, image_size=8, channels=5, max_bad_fraction=0.1)
    assert images.channels == 5 and images.train.store.shape == (8, 8, 5)
    assert images.summary()["channels"] == 5
    reasons = {file.name: file.reason for file in images.audit.bad}
    assert set(reasons) == {"a/00.npy", "b/01.png"}
    assert reasons["a/00.npy"] == "an array of shape (8, 9, 4), where [h, w, 5] is needed"
    (batch,) = data.evaluation_batches(images.train.take(np.arange(2)))
    wanted = [decode.pixels((tmp_path / n).read_bytes(), 8, 5) for n in images.train.names[:2]]
    np.testing.assert_array_equal(batch, wanted)


def test_three_channels_need_not_be_asked_for(tmp_path) -> None:
    for group in "ab":
        for index in range(8):
            seed = index + 8 * (group == "b")
            samples.write(tmp_path / group / f"{index}.npy", saved(noise(8, 9, 3, seed=seed)))
    images = data.load(tmp_path, image_size=8)
    assert images.channels == 3 and not images.audit.bad
