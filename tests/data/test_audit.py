"""The first pass: what is found, and how it is said."""

import hashlib
import threading

import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.data import arrays, audit, folder, listing, types
from tests.data import samples


def listed(root, names, *, labels=None, given=None):
    """Returns a listing of files in a folder."""
    labels = labels or ["a"] * len(names)
    return listing.Listing(
        names=tuple(names),
        labels=tuple(labels),
        splits=tuple(given or [""] * len(names)),
        reader=folder.FileReader(tuple(str(root / name) for name in names)),
        classes=tuple(sorted(set(labels))),
    )


@pytest.fixture
def mixed(tmp_path):
    """Good and bad files, the bad ones between the good ones."""
    for index in range(40):
        samples.write(tmp_path / f"{index:02}.png", samples.noise(10 + index, 99, seed=index))
    samples.write(tmp_path / "07.png", b"")
    samples.write(tmp_path / "09.png", b"<!DOCTYPE html><html>404</html>")
    whole = samples.encoded(samples.noise(64, 64), "JPEG")
    samples.write(tmp_path / "33.png", whole[: len(whole) // 2])
    names = [f"{index:02}.png" for index in range(40)]
    return listed(tmp_path, [*names[:20], "gone.png", *names[20:]])


def test_every_bad_file_is_listed_with_its_reason(mixed) -> None:
    found = audit.decode_all(mixed, 8, cache_mb=1)
    reasons = {file.name: file.reason for file in found.bad}
    assert list(reasons) == ["07.png", "09.png", "gone.png", "33.png"]
    assert reasons["07.png"] == "the file is empty"
    assert reasons["09.png"] == "the file is an HTML page"
    assert reasons["gone.png"] == "No such file or directory"
    assert "truncated" in reasons["33.png"]
    bad = [mixed.names.index(name) for name in reasons]
    np.testing.assert_array_equal(np.flatnonzero(~found.good), sorted(bad))


def test_sizes_digests_and_pixels_are_those_of_each_file(mixed) -> None:
    found = audit.decode_all(mixed, 8, cache_mb=1)
    assert found.cache.shape == (41, 8, 8, 3) and found.cache.dtype == np.uint8
    sides = []
    for position, name in enumerate(mixed.names):
        content = b"" if name == "gone.png" else mixed.reader.read(position)
        digest = hashlib.sha256(content).digest() if name != "gone.png" else bytes(32)
        assert found.digests[position].tobytes() == digest
        if found.good[position]:
            sides.append(10 + int(name[:2]))
            assert found.short_sides[position] == sides[-1]
            assert found.cache[position].any()
        else:
            assert found.short_sides[position] == 0 and not found.cache[position].any()
    assert found.median_side == int(np.median(sides))


def test_pixels_are_kept_only_where_they_fit() -> None:
    images = np.stack([samples.noise(32, 32, seed=i) for i in range(342)])
    reader = arrays.ArrayReader(images)
    names = tuple(f"{i}" for i in range(342))
    found = listing.Listing(names, ("a",) * 342, ("",) * 342, reader, ("a", "b"))
    # 341 images of 32 px need 1 MiB less a KiB.
    assert audit.decode_all(found, 32, cache_mb=1).cache is None
    np.testing.assert_array_equal(audit.decode_all(found, 32, cache_mb=2).cache, images)
    fewer = listing.Listing(names[:341], ("a",) * 341, ("",) * 341, reader, ("a", "b"))
    assert audit.decode_all(fewer, 32, cache_mb=1).cache is not None


def test_the_digest_of_an_array_is_that_of_its_pixels() -> None:
    image = samples.noise(4, 4)
    found = listing.Listing(("x",), ("a",), ("",), arrays.ArrayReader([image]), ("a", "b"))
    (digest,) = audit.decode_all(found, 4, cache_mb=1).digests
    assert digest.tobytes() == hashlib.sha256(image.tobytes()).digest()


def test_progress_adds_up_to_all_images(mixed) -> None:
    steps = []
    audit.decode_all(mixed, 8, cache_mb=1, progress=steps.append)
    assert sum(steps) == 41 and len(steps) == 2


def test_an_interrupt_does_not_wait_for_the_rest(mixed, monkeypatch) -> None:
    monkeypatch.setattr(audit, "CHUNK", 1)
    read = []

    class Slow:
        def read(self, position):
            read.append(position)
            return mixed.reader.read(position)

    def interrupt(_):
        raise KeyboardInterrupt

    many = listing.Listing(mixed.names * 50, mixed.labels * 50, mixed.splits * 50, Slow(), ("a",))
    with pytest.raises(KeyboardInterrupt):
        audit.decode_all(many, 8, cache_mb=0, progress=interrupt)
    assert len(read) < 41 * 50
    assert not any(t.name.startswith("finetune_kit-audit") for t in threading.enumerate())


def test_too_many_bad_files_are_refused_with_the_first_of_them() -> None:
    bad = [types.BadFile(f"{i}.png", "the file is empty") for i in range(4)]
    audit.refuse_bad(bad[:2], 200, 0.01)
    audit.refuse_bad([], 10, 0.0)
    words = (
        "At most 1.0% of the images may be unreadable. Received: 3 of 200: 0.png: the file is "
        "empty; 1.png: the file is empty; 2.png: the file is empty. Mend .* --max_bad_fraction"
    )
    with pytest.raises(checks.DataError, match=words):
        audit.refuse_bad(bad[:3], 200, 0.01)
    with pytest.raises(checks.DataError, match="4 of 200: .*2.png: the file is empty; …. Mend"):
        audit.refuse_bad(bad, 200, 0.01)


def test_a_class_that_only_a_test_split_knows_is_refused(tmp_path) -> None:
    found = listed(
        tmp_path, "1234", labels=["a", "a", "b", "c"], given=["train", "test", "test", "validation"]
    )
    words = r"images to train on. Received: none for b \(test\), c \(validation\). Add them"
    with pytest.raises(checks.DataError, match=words):
        audit.refuse_unseen(found, np.ones(4, bool))


def test_a_class_whose_images_are_all_bad_is_refused(tmp_path) -> None:
    found = listed(tmp_path, "1234", labels=["a", "a", "b", "b"])
    audit.refuse_unseen(found, np.array([True, False, False, True]))
    words = "Every class needs a readable image. Received: none of b. Add one"
    with pytest.raises(checks.DataError, match=words):
        audit.refuse_unseen(found, np.array([True, True, False, False]))


def test_pictures_of_other_kinds_are_a_warning() -> None:
    assert audit.left_out({".txt": 3, "hidden": 2}) == []
    assert audit.left_out({".tif": 3, ".heic": 1, ".txt": 3}) == [
        "left out, as no JPEG, PNG, GIF, BMP, WEBP: 3 .tif, 1 .heic"
    ]


def test_images_without_a_class_are_a_warning() -> None:
    assert audit.left_out({"outside a class": 7}) == [
        "left out, as they stand in no class folder: 7 images"
    ]


def digests_of(*values):
    """Returns stand-ins for SHA-256 that end in given bytes, uint8 [n, 32]."""
    return np.stack([np.frombuffer(v.rjust(32, b"\0"), np.uint8) for v in values])


def copies(digests, labels, parts):
    names = [f"{i}.png" for i in range(len(digests))]
    parts = {split: np.array(positions) for split, positions in parts.items()}
    rows = digests_of(*(bytes([d]) for d in digests))
    # The same bytes at the front, where most digests differ, and at the back.
    for turned in (rows, rows[:, ::-1]):
        found = audit.copies(turned, np.array(labels), names, parts)
    assert found == audit.copies(rows, np.array(labels), names, parts)
    return found


def test_copies_across_splits_and_labels_are_warnings() -> None:
    clean = copies([1, 2, 3, 3], [0, 1, 0, 0], {"train": [0, 2, 3], "test": [1]})
    assert clean == []
    leak = copies([1, 2, 1, 3], [0, 1, 0, 1], {"train": [0, 1], "test": [2, 3]})
    assert leak == ["1 image stands in more than one split, such as 0.png and 2.png"]
    doubtful = copies([1, 2, 1, 2], [0, 1, 1, 0], {"train": [0, 1, 2, 3]})
    assert doubtful == ["2 images stand under more than one label, such as 0.png and 2.png"]
    both = copies([1, 1, 5], [0, 1, 0], {"train": [0, 2], "test": [1]})
    assert len(both) == 2
    # Who is in no part is nobody's copy.
    assert copies([1, 1], [0, 0], {"train": [0]}) == []


def test_the_fingerprint_does_not_depend_on_the_order(tmp_path) -> None:
    one = listed(tmp_path, ["x", "y"], labels=["a", "b"])
    other = listed(tmp_path, ["y", "x"], labels=["b", "a"])
    first = audit.fingerprint(one, digests_of(b"1", b"2"))
    assert first == audit.fingerprint(other, digests_of(b"2", b"1"))
    assert len(first) == 64


def test_the_fingerprint_depends_on_name_label_and_content(tmp_path) -> None:
    prints = {
        audit.fingerprint(listed(tmp_path, names, labels=labels), digests_of(*digests))
        for names, labels, digests in (
            (["x", "y"], ["a", "b"], [b"1", b"2"]),
            (["x", "z"], ["a", "b"], [b"1", b"2"]),
            (["x", "y"], ["a", "a"], [b"1", b"2"]),
            (["x", "y"], ["a", "b"], [b"1", b"3"]),
            (["x"], ["a"], [b"1"]),
            (["xa"], ["1"], [b""]),
            (["x"], ["a1"], [b""]),
        )
    }
    assert len(prints) == 7


def test_the_fingerprint_is_the_hash_of_parts_with_their_lengths(tmp_path) -> None:
    name = "caf\udce9"
    expected = hashlib.sha256()
    digest = hashlib.sha256(b"content").digest()
    # Of an image that could not be read, name and label are all there is.
    for part in (b"caf\xe9", "ö".encode(), digest, b"gone", "ö".encode(), b""):
        expected.update(len(part).to_bytes(8, "little") + part)
    found = listed(tmp_path, ["gone", name], labels=["ö", "ö"])
    rows = np.stack([np.zeros(32, np.uint8), np.frombuffer(digest, np.uint8)])
    assert audit.fingerprint(found, rows) == expected.hexdigest()
    # Images that are not seen in RGB are others.
    expected.update((4).to_bytes(8, "little"))
    assert audit.fingerprint(found, rows, 4) == expected.hexdigest()
