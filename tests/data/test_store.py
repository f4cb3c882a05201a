"""In memory, in a file and decoded again: the same pixels."""

import os
import threading

import numpy as np
import pytest
from PIL import Image

from finetune_kit import cores
from finetune_kit.data import arrays, decode, folder, store
from tests.data import samples


@pytest.fixture
def reader(tmp_path):
    """Reads five files of different sizes and kinds."""
    contents = [samples.encoded(samples.noise(9 + i, 20 - i, seed=i)) for i in range(4)]
    contents.append(samples.encoded(samples.smooth(24, 28), "JPEG"))
    paths = [samples.write(tmp_path / f"{i}.png", data) for i, data in enumerate(contents)]
    return folder.FileReader(tuple(map(str, paths)))


def expected(reader, index, size):
    """Returns what Pillow makes of a file."""
    image = Image.open(reader.paths[index]).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def test_without_a_cache_images_are_decoded_in_the_order_asked_for(reader) -> None:
    images = store.PixelStore(reader, 12)
    indices = np.array([4, 0, 0, 3])
    batch = images.batch(indices)
    assert batch.dtype == np.uint8 and batch.shape == (4, 12, 12, 3) and not images.cached
    for row, index in zip(batch, indices, strict=True):
        np.testing.assert_array_equal(row, expected(reader, index, 12))
    assert images.batch(np.array([], int)).shape == (0, 12, 12, 3)


def test_another_size_is_decoded_anew_from_the_same_originals(reader) -> None:
    cache = np.zeros((5, 12, 12, 3), np.uint8)
    larger = store.PixelStore(reader, 12, cache=cache).at_size((16, 20))
    assert larger.size == (16, 20) and not larger.cached
    grey = store.PixelStore(reader, 12, channels=1).at_size(16)
    assert grey.shape == (16, 16, 1)
    np.testing.assert_array_equal(larger.at_size(16).batch([4])[0], expected(reader, 4, 16))


def test_mirrored_images_are_the_images_from_right_to_left(reader) -> None:
    images = store.PixelStore(reader, (12, 16), channels=1)
    mirrored = images.mirrored(np.array([3, 0]))
    assert mirrored.size == (12, 16) and mirrored.shape == (12, 16, 1)
    for place, index in enumerate((3, 0)):
        np.testing.assert_array_equal(
            mirrored.batch([place])[0], np.fliplr(images.batch([index])[0])
        )
        np.testing.assert_array_equal(mirrored.original(place), mirrored.batch([place])[0])


def test_a_cache_gives_the_same_pixels(reader) -> None:
    cache = np.stack([decode.pixels(reader.read(i), 12) for i in range(5)])
    cached, streaming = store.PixelStore(reader, 12, cache=cache), store.PixelStore(reader, 12)
    assert cached.cached
    indices = np.array([3, 1, 4, 1])
    np.testing.assert_array_equal(cached.batch(indices), streaming.batch(indices))
    for file in reader.paths:
        os.remove(file)
    np.testing.assert_array_equal(cached.batch(indices), cache[indices])


def test_height_and_width_may_differ(reader) -> None:
    images = store.PixelStore(reader, (7, 12))
    found = images.batch(np.array([4, 1]))
    assert found.shape == (2, 7, 12, 3) and images.size == (7, 12)
    for row, index in zip(found, (4, 1), strict=True):
        image = Image.open(reader.paths[index]).convert("RGB")
        resized = image.resize((12, 7), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(row, np.asarray(resized))
    assert store.PixelStore(reader, (12, 12)).size == 12


def test_a_batch_is_a_copy(reader) -> None:
    cache = np.zeros((5, 12, 12, 3), np.uint8)
    images = store.PixelStore(reader, 12, cache=cache)
    images.batch(np.array([0, 1]))[:] = 9
    assert not cache.any()


def test_the_original_has_its_own_size(reader) -> None:
    cache = np.zeros((5, 12, 12, 3), np.uint8)
    for images in (store.PixelStore(reader, 12), store.PixelStore(reader, 12, cache=cache)):
        np.testing.assert_array_equal(images.original(2), samples.noise(11, 18, seed=2))


def test_arrays_need_no_decoding() -> None:
    split = samples.split([0, 1, 0], side=8, cached=False)
    np.testing.assert_array_equal(
        split.store.batch(split.indices), np.stack([samples.noise(8, 8, seed=i) for i in range(3)])
    )
    np.testing.assert_array_equal(split.store.original(2), samples.noise(8, 8, seed=0))


def test_a_file_that_is_gone_is_named(reader) -> None:
    os.remove(reader.paths[1])
    with pytest.raises(FileNotFoundError, match="1.png"):
        store.PixelStore(reader, 12).batch(np.array([0, 1]))


def test_threads_start_with_the_first_batch_that_is_decoded(reader) -> None:
    def running():
        return {t for t in threading.enumerate() if t.name.startswith("finetune_kit-decode")}

    before = running()  # of other stores, which may end at any time
    images = store.PixelStore(reader, 12)
    store.PixelStore(reader, 12, cache=np.zeros((5, 12, 12, 3), np.uint8)).batch(np.array([0]))
    assert running() <= before
    images.batch(np.array([0]))
    assert running() - before


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_is_decoded_on_all_cores_in_order(monkeypatch, count) -> None:
    monkeypatch.setattr(cores, "available", lambda: count)
    together = threading.Barrier(count, timeout=30)

    class Meeting:
        """Lets nobody through until as many threads as there are cores read at once."""

        met: set[str] = set()

        def read(self, position):
            if threading.current_thread().name not in self.met:
                self.met.add(threading.current_thread().name)
                together.wait()
            return samples.noise(6, 6, seed=position)

    images = store.PixelStore(Meeting(), 6)
    indices = np.array([9, 2, 7, 1, 0, 5, 3, 4, 8])
    batch = images.batch(indices)
    assert len(Meeting.met) == count
    for row, index in zip(batch, indices, strict=True):
        np.testing.assert_array_equal(row, samples.noise(6, 6, seed=index))
    Meeting.met.clear()


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])]
)
def test_what_is_shown_is_the_first_three_channels_or_grey(channels, shown) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 7, 5, channels)).astype(np.uint8)
    images = store.PixelStore(arrays.ArrayReader(pixels, channels), 4, channels=channels)
    assert images.shape == (4, 4, channels)
    np.testing.assert_array_equal(images.original(1), pixels[1])
    np.testing.assert_array_equal(images.picture(1), pixels[1][..., shown])
