"""Pixels in a file: found again for the same images alone, and never trusted when damaged."""

import hashlib
import os
import pathlib
import shutil
import time
import types

import numpy as np
import pytest

from finetune_kit import data
from finetune_kit.data import arrays, audit, decode, folder, listing, pixelfile, store
from tests.data import samples

SIZE = 6
ROW = SIZE * SIZE * 3


class Reader:
    """Reads files, and counts how often."""

    def __init__(self, root, names) -> None:
        self.files = folder.FileReader(tuple(names), str(root))
        self.reads: list[int] = []

    def read(self, position):
        self.reads.append(position)
        return self.files.read(position)


@pytest.fixture
def photos(tmp_path):
    """Returns a function to a listing of five files, of which 2 is empty and 4 is not there."""
    root = tmp_path / "photos"
    for index in range(4):
        samples.write(root / f"{index}.png", b"" if index == 2 else samples.noise(9, 8, seed=index))

    def found():
        names = tuple(f"{index}.png" for index in range(5))
        return listing.Listing(names, ("a",) * 5, ("",) * 5, Reader(root, names), ("a", "b"))

    found.root = root
    return found


@pytest.fixture
def decodings(monkeypatch):
    """Returns a list with an entry for every image that is decoded."""
    made, squeeze = [], decode.squeeze
    monkeypatch.setattr(decode, "squeeze", lambda *args: made.append(args[1]) or squeeze(*args))
    return made


def run(listing_, directory, **options):
    return audit.decode_all(
        listing_, SIZE, **({"cache_mb": 0, "cache_dir": str(directory)} | options)
    )


def pixels_of(listing_, decoded):
    """Returns the pixels of the good images, as a store gives them."""
    images = store.PixelStore(listing_.reader, SIZE, cache=decoded.cache)
    return images.batch(np.flatnonzero(decoded.good))


def expected(photos):
    """Returns the pixels of the good images, decoded from their files."""
    contents = [(photos.root / f"{index}.png").read_bytes() for index in (0, 1, 3)]
    return np.stack([decode.resize(decode.decode(content), SIZE) for content in contents])


def the_file(directory):
    (path,) = pathlib.Path(directory).iterdir()
    return path


def test_the_first_run_decodes_and_later_ones_do_not(photos, tmp_path, decodings) -> None:
    directory = tmp_path / "new" / "cache"
    plain = run(photos(), directory, cache_dir="")
    first, before = run(photos(), directory), len(decodings)
    again = photos()
    second = run(again, directory)
    assert len(decodings) == before and sorted(again.reader.reads) == [0, 1, 2, 3, 4]
    for decoded in (first, second):
        np.testing.assert_array_equal(decoded.good, plain.good)
        np.testing.assert_array_equal(decoded.digests, plain.digests)
        np.testing.assert_array_equal(decoded.short_sides, plain.short_sides)
        assert decoded.bad == plain.bad and decoded.warnings == ()
        np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))
    assert [file.name for file in second.bad] == ["2.png", "4.png"]
    assert len(decodings) == before, "nor for a batch"


def test_pixels_come_from_the_file_alone(photos, tmp_path) -> None:
    decoded = run(photos(), tmp_path / "cache")
    wanted = expected(photos)
    shutil.rmtree(photos.root)
    np.testing.assert_array_equal(pixels_of(photos(), decoded), wanted)


def test_the_file_is_the_rows_in_their_order(photos, tmp_path) -> None:
    run(photos(), tmp_path / "cache")
    content = the_file(tmp_path / "cache").read_bytes()
    rows = np.frombuffer(content[: 5 * ROW], np.uint8).reshape(5, SIZE, SIZE, 3)
    np.testing.assert_array_equal(rows[[0, 1, 3]], expected(photos))
    assert not rows[[2, 4]].any()


def test_what_fits_into_memory_is_kept_there(photos, tmp_path) -> None:
    decoded = run(photos(), tmp_path / "cache", cache_mb=1)
    assert isinstance(decoded.cache, np.ndarray) and not (tmp_path / "cache").exists()


def test_other_images_get_a_file_of_their_own(photos, tmp_path, decodings) -> None:
    directory = tmp_path / "cache"
    run(photos(), directory)
    samples.write(photos.root / "3.png", samples.noise(9, 8, seed=99))
    before = len(decodings)
    decoded = run(photos(), directory)
    assert len(decodings) == before + 4, "the missing file is not even tried"
    np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))
    assert len(list(directory.iterdir())) == 2
    # And both are found again, whichever is looked at first.
    samples.write(photos.root / "3.png", samples.noise(9, 8, seed=3))
    before = len(decodings)
    np.testing.assert_array_equal(pixels_of(photos(), run(photos(), directory)), expected(photos))
    assert len(decodings) == before


def test_height_and_width_have_a_file_of_their_own(photos, tmp_path, decodings) -> None:
    directory, found = tmp_path / "cache", photos()
    decoded = audit.decode_all(found, (6, 9), cache_mb=0, cache_dir=str(directory))
    assert the_file(directory).name.startswith("pixels-6x9-5-")
    before = len(decodings)
    again = audit.decode_all(photos(), (6, 9), cache_mb=0, cache_dir=str(directory))
    assert len(decodings) == before and isinstance(again.cache, pixelfile.PixelFile)
    for each in (decoded, again):
        pixels = store.PixelStore(found.reader, (6, 9), cache=each.cache).batch(np.array([1, 3]))
        wanted = [decode.pixels(found.reader.read(i), (6, 9)) for i in (1, 3)]
        np.testing.assert_array_equal(pixels, wanted)
    audit.decode_all(photos(), (9, 6), cache_mb=0, cache_dir=str(directory))
    assert len(decodings) > before and len(list(directory.iterdir())) == 2


def test_channels_have_a_file_of_their_own(photos, tmp_path, decodings) -> None:
    directory, found = tmp_path / "cache", photos()
    options = {"cache_mb": 0, "cache_dir": str(directory)}
    audit.decode_all(found, SIZE, **options)
    coloured = the_file(directory).name
    assert coloured.startswith("pixels-6-5-")
    for channels in (1, 4):
        before = len(decodings)
        audit.decode_all(photos(), SIZE, channels=channels, **options)
        assert len(decodings) > before  # those of RGB are not taken
        before = len(decodings)
        again = audit.decode_all(photos(), SIZE, channels=channels, **options)
        assert len(decodings) == before
        images = store.PixelStore(found.reader, SIZE, cache=again.cache, channels=channels)
        wanted = [decode.pixels(found.reader.read(i), SIZE, channels) for i in (1, 3)]
        np.testing.assert_array_equal(images.batch(np.array([1, 3])), wanted)
    kinds = sorted(path.name.rsplit("-", 1)[0] for path in directory.iterdir())
    assert kinds == ["pixels-6-5", "pixels-6-c1-5", "pixels-6-c4-5"]


def test_memory_is_counted_by_height_and_width() -> None:
    names = tuple(map(str, range(2)))
    reader = arrays.ArrayReader([samples.noise(8, 8, seed=i) for i in range(2)])
    found = listing.Listing(names, ("a", "b"), ("",) * 2, reader, ("a", "b"))
    for size, fits in (((256, 682), True), ((256, 683), False), ((683, 256), False)):
        decoded = audit.decode_all(found, size, cache_mb=1)  # 2 x 256 x 682.67 x 3 bytes
        assert (decoded.cache is not None) == fits


@pytest.mark.parametrize("change", ["order", "size", "version", "unreadable"])
def test_pixels_of_anything_else_are_not_taken(photos, tmp_path, decodings, monkeypatch, change):
    directory, size, found = tmp_path / "cache", SIZE, photos()
    run(found, directory)
    if change == "order":
        files = found.reader.files
        reader = types.SimpleNamespace(read=lambda i: files.read([1, 0, 2, 3, 4][i]))
        found = listing.Listing(found.names, found.labels, found.splits, reader, found.classes)
    elif change == "size":
        size = SIZE + 1
    elif change == "version":
        monkeypatch.setattr(decode, "VERSION", "another")
    else:
        (photos.root / "1.png").unlink()
    before = len(decodings)
    decoded = audit.decode_all(found, size, cache_mb=0, cache_dir=str(directory))
    assert len(decodings) > before and len(list(directory.iterdir())) == 2
    images = store.PixelStore(found.reader, size, cache=decoded.cache)
    for index in np.flatnonzero(decoded.good):
        content = found.reader.read(int(index))
        np.testing.assert_array_equal(
            images.batch(np.array([index]))[0], decode.resize(decode.decode(content), size)
        )


@pytest.mark.parametrize("keep", [0, 10, 5 * ROW, -1, -60, -300])
def test_a_short_file_is_written_anew(photos, tmp_path, decodings, keep) -> None:
    directory = tmp_path / "cache"
    run(photos(), directory)
    path = the_file(directory)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    before = len(decodings)
    decoded = run(photos(), directory)
    assert len(decodings) == before + 4 and the_file(directory).read_bytes() == whole
    np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))


def test_damage_behind_the_pixels_is_seen_at_once(photos, tmp_path, decodings) -> None:
    directory = tmp_path / "cache"
    run(photos(), directory)
    whole = the_file(directory).read_bytes()
    for place in range(5 * ROW, len(whole), 41):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        the_file(directory).write_bytes(damaged)
        decoded = run(photos(), directory)
        np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))
        assert [file.reason for file in decoded.bad][0] == "the file is empty"
        for path in directory.iterdir():
            path.unlink()
        (directory / path.name).write_bytes(whole)


def test_a_damaged_row_is_decoded_and_the_file_written_anew(photos, tmp_path, decodings) -> None:
    directory = tmp_path / "cache"
    run(photos(), directory)
    path = the_file(directory)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[ROW + 7] ^= 1
    path.write_bytes(damaged)
    before = len(decodings)
    decoded = run(photos(), directory)
    assert len(decodings) == before, "nothing is read before it is needed"
    for _ in range(2):
        np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))
    assert len(decodings) == before + 2 and not list(directory.iterdir())
    run(photos(), directory)
    assert the_file(directory).read_bytes() == whole


def test_too_little_room_is_a_warning_and_images_stream(photos, tmp_path, monkeypatch) -> None:
    usage = types.SimpleNamespace(free=5 * ROW)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    steps = []
    decoded = run(photos(), tmp_path / "cache", progress=steps.append)
    (words,) = decoded.warnings
    assert words == (
        f"decoded images are not kept in {tmp_path / 'cache'}, so that each batch is decoded "
        "again: 0 MiB needed, 0 MiB free"
    )
    assert decoded.cache is None and sum(steps) == 5 and not list((tmp_path / "cache").iterdir())
    np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))


def test_the_room_is_reserved_before_anything_is_decoded(photos, tmp_path, monkeypatch) -> None:
    def full(descriptor, offset, length):
        assert (offset, length) == (0, 5 * ROW)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    found = photos()
    decoded = run(found, tmp_path / "cache")
    assert "No space left on device" in decoded.warnings[0] and len(found.reader.reads) == 5
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_written_is_a_warning(photos, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    decoded = run(photos(), tmp_path / "file" / "below")
    assert "Not a directory" in decoded.warnings[0]
    np.testing.assert_array_equal(pixels_of(photos(), decoded), expected(photos))


def test_a_disk_that_fills_at_the_end_costs_no_second_pass(photos, tmp_path, monkeypatch) -> None:
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    found = photos()
    decoded = run(found, tmp_path / "cache")
    assert decoded.cache is None and "No space left" in decoded.warnings[0]
    assert len(found.reader.reads) == 5 and not list((tmp_path / "cache").iterdir())


def test_an_interrupt_leaves_nothing_behind(photos, tmp_path) -> None:
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(photos(), tmp_path / "cache", progress=interrupt)
    assert not list((tmp_path / "cache").iterdir())


def test_what_killed_runs_left_is_swept_and_what_others_write_is_not(photos, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    old, new, foreign = (
        samples.write(tmp_path / "cache" / name, b"x")
        for name in (".pixels-6-5-ab.part", ".pixels-6-5-cd.part", "own.part")
    )
    for path in (old, foreign):
        os.utime(path, (0, time.time() - 25 * 3600))
    run(photos(), tmp_path / "cache")
    assert not old.exists() and new.exists() and foreign.exists()


def test_progress_adds_up_however_far_images_are_known(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(audit, "CHUNK", 2)
    names = tuple(f"{index}.png" for index in range(9))
    for changed in (None, None, 0, 5, 8):
        for index, name in enumerate(names):
            samples.write(tmp_path / name, samples.noise(seed=index + 100 * (index == changed)))
        found = listing.Listing(names, ("a",) * 9, ("",) * 9, Reader(tmp_path, names), ("a",))
        steps: list[int] = []
        run(found, tmp_path / "cache", progress=steps.append)
        assert sum(steps) == 9, changed


def test_digests_are_those_of_the_content(photos, tmp_path) -> None:
    decoded = run(photos(), tmp_path / "cache")
    assert isinstance(decoded.cache, pixelfile.PixelFile)
    for index in range(4):
        content = (photos.root / f"{index}.png").read_bytes()
        digest = decoded.cache.findings.digests[index].tobytes()
        assert digest == hashlib.sha256(content).digest()


def test_training_is_the_same_from_the_file(tmp_path, decodings) -> None:
    root = samples.write_folder(tmp_path / "photos", {"a": 12, "b": 12})
    options = {"image_size": SIZE, "cache_mb": 0, "cache_dir": str(tmp_path / "cache")}
    streams = []
    for more in ({}, options, options):
        images = data.load(root, **({"image_size": SIZE} | more))
        before = len(decodings)
        stream = data.batches(
            images.train, num_classes=2, batch_size=5, seed=1, epochs=2, augmentation="medium"
        )
        streams.append([batch for batch, _ in stream.as_numpy_iterator()])
        assert len(decodings) == before and images.train.store.cached == (not more)
    for other in streams[1:]:
        for one, two in zip(streams[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_warnings_of_the_file_stand_in_the_audit(tmp_path) -> None:
    root = samples.write_folder(tmp_path / "photos", {"a": 12, "b": 12})
    (tmp_path / "file").write_text("")
    directory = str(tmp_path / "file" / "below")
    images = data.load(root, image_size=SIZE, cache_mb=0, cache_dir=directory)
    pool = data.load_pool(root, image_size=SIZE, cache_mb=0, cache_dir=directory)
    for warnings in (images.audit.warnings, pool.warnings):
        assert len(warnings) == 1 and "are not kept in" in warnings[0]
