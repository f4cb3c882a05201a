"""From a source to `ImageData`, end to end."""

import os
import pathlib
import shutil

import numpy as np
import pytest

from finetune_kit import checks, data
from finetune_kit.data import decode, loading
from tests.data import samples


@pytest.fixture
def photos(tmp_path):
    """Twenty images of each of three classes, whose natural order is not that of letters."""
    return samples.write_folder(tmp_path / "photos", {"c10": 20, "c2": 20, "Été 1": 20})


def names(images):
    return {split: set(part.names) for split, part in images.splits().items()}


def load(source, **more):
    return data.load(source, **({"image_size": 8} | more))


def test_a_folder_becomes_three_splits(photos) -> None:
    images = load(str(photos))
    assert images.class_names == ("c2", "c10", "Été 1") and images.num_classes == 3
    assert images.name == str(photos) and images.image_size == 8 and images.folds == ()
    sizes = {split: part.counts(3).tolist() for split, part in images.splits().items()}
    assert sizes == {"train": [13] * 3, "validation": [3] * 3, "test": [4] * 3}
    assert len(set.union(*names(images).values())) == 60
    audit = images.audit
    assert (audit.listed, audit.decoded, audit.bad, audit.warnings) == (60, 60, (), ())
    assert audit.median_side == 8 and audit.seconds > 0


def test_images_that_are_not_square(photos) -> None:
    images, square = load(photos, image_size=(6, 9)), load(photos, image_size=(8, 8))
    assert images.image_size == (6, 9) and images.summary()["image_size"] == (6, 9)
    assert square.image_size == 8 and square.summary().keys() == images.summary().keys()
    assert images.fingerprint == square.fingerprint and names(images) == names(square)
    pixels = images.test.store.batch(images.test.indices)
    for row, name in zip(pixels, images.test.names, strict=True):
        np.testing.assert_array_equal(row, decode.pixels((photos / name).read_bytes(), (6, 9)))
    with pytest.raises(checks.ConfigError, match=r"each at least 1. Received: image_size=.6, 0"):
        load(photos, image_size=(6, 0))


def test_pixels_and_labels_are_those_of_the_files(photos) -> None:
    images = load(photos, cache_mb=0)
    cached = load(photos)
    assert cached.train.store.cached and not images.train.store.cached
    for split, part in images.splits().items():
        pixels = part.store.batch(part.indices)
        np.testing.assert_array_equal(pixels, cached.splits()[split].store.batch(part.indices))
        for row, label, name in zip(pixels, part.labels, part.names, strict=True):
            expected = decode.pixels((photos / name).read_bytes(), 8)
            np.testing.assert_array_equal(row, expected)
            assert images.class_names[label] == name.split("/")[0]


def test_fractions_are_those_that_are_asked_for(photos) -> None:
    images = load(photos, test_fraction=0.5, validation_fraction=0.1)
    assert [len(part) for part in images.splits().values()] == [24, 6, 30]


def test_the_seed_and_the_names_alone_decide_who_is_where(photos, tmp_path) -> None:
    first = load(photos)
    moved = shutil.copytree(photos, tmp_path / "copy")
    assert names(load(moved)) == names(first) != names(load(photos, seed=1))


def test_given_splits_stand_and_validation_comes_out_of_train(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"train/a": 20, "train/b": 20, "test/a": 5, "test/b": 3})
    images = load(root)
    assert [len(part) for part in images.splits().values()] == [34, 6, 8]
    assert all(name.startswith("test/") for name in images.test.names)
    assert all(name.startswith("train/") for name in images.validation.names)


def test_a_budget_has_folds_and_no_validation(photos) -> None:
    images, whole = load(photos, per_class=6), load(photos)
    assert images.validation is None and len(images.folds) == 3
    assert images.train.counts(3).tolist() == [6] * 3
    assert images.test.names == whole.test.names


def test_a_manifest_and_arrays_are_sources_too(photos) -> None:
    rows = [
        f"{name},{name.split('/')[0]}" for part in names(load(photos)).values() for name in part
    ]
    manifest = photos / "list.CSV"
    manifest.write_text("path,label\n" + "\n".join(rows), encoding="utf-8")
    listed = load(manifest)
    assert names(listed) == names(load(photos)) and listed.name == str(manifest)
    assert listed.fingerprint == load(photos).fingerprint
    pictures = np.stack([samples.noise(9, 9, seed=i) for i in range(40)])
    images = load(data.Arrays(pictures, np.arange(40) % 2, class_names=("x", "y")))
    assert images.name == "arrays" and images.class_names == ("x", "y")
    assert [len(part) for part in images.splits().values()] == [26, 6, 8]
    for index, label, name in zip(
        images.test.indices, images.test.labels, images.test.names, strict=True
    ):
        assert name == f"array[{index}]" and label == index % 2


def test_bad_files_are_left_out_and_listed(photos) -> None:
    samples.write(photos / "c2" / "3.png", b"")
    samples.write(photos / "c2" / "zz.jpg", b"<html>404</html>")
    images = load(photos, max_bad_fraction=0.05)
    bad = {file.name: file.reason for file in images.audit.bad}
    assert bad == {"c2/3.png": "the file is empty", "c2/zz.jpg": "the file is an HTML page"}
    assert (images.audit.listed, images.audit.decoded) == (61, 59)
    everybody = set.union(*names(images).values())
    assert len(everybody) == 59 and not everybody & set(bad)
    # Labels and pixels do not slip by one behind a gap.
    part = images.train
    for row, name in zip(part.store.batch(part.indices), part.names, strict=True):
        np.testing.assert_array_equal(row, decode.pixels((photos / name).read_bytes(), 8))


def test_a_gap_moves_neither_splits_nor_copies(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 4, "test/b": 4})
    for name in ("test/a/0.png", "test/b/1.png", "train/a/3.png"):
        samples.write(root / name, b"")
    shutil.copy(root / "train/b/8.png", root / "test/b/0.png")
    images = load(root, max_bad_fraction=0.5)
    assert len(images.test) == 6 and len(images.train) + len(images.validation) == 17
    for split, part in images.splits().items():
        folder = "test/" if split == "test" else "train/"
        assert all(name.startswith(folder) for name in part.names)
    (words,) = images.audit.warnings
    assert words.startswith("1 image stands in more than one split")
    assert "train/b/8.png" in words and "test/b/0.png" in words


def test_a_budget_needs_no_third_image_of_a_class(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"a": 2, "b": 9})
    images = load(root, per_class=1)
    assert images.train.counts(2).tolist() == [1, 1] and images.test.counts(2).tolist() == [1, 2]


def test_too_many_bad_files_are_one_line(photos) -> None:
    samples.write(photos / "c2" / "3.png", b"")
    words = "At most 1.0% .* Received: 1 of 60: c2/3.png: the file is empty. Mend"
    with pytest.raises(checks.DataError, match=words):
        load(photos)


def test_a_bomb_is_a_bad_file(photos, monkeypatch) -> None:
    monkeypatch.setattr(decode, "MAX_PIXELS", 100)
    samples.write(photos / "c2" / "bomb.png", samples.noise(11, 10))
    images = load(photos, max_bad_fraction=0.1)
    assert [(f.name, f.reason) for f in images.audit.bad] == [
        ("c2/bomb.png", "10 x 11 pixels, more than 100 in all")
    ]


def test_a_class_without_a_readable_image_is_one_line(photos) -> None:
    for file in (photos / "c2").iterdir():
        file.write_bytes(b"")
    with pytest.raises(checks.DataError, match="needs a readable image. Received: none of c2"):
        load(photos, max_bad_fraction=1.0)


def test_a_class_of_test_that_train_does_not_know_is_one_line(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"train/a": 5, "train/b": 5, "test/a": 2, "test/x": 2})
    with pytest.raises(checks.DataError, match=r"Received: none for x \(test\)\. Add them to"):
        load(root)


def test_too_few_images_are_one_line(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"a": 2, "b": 9})
    with pytest.raises(checks.DataError, match="at least 3 images of every class. .* 2 of 'a'"):
        load(root)


def test_a_single_class_is_one_line(tmp_path) -> None:
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\nb.png,cat\n")
    with pytest.raises(checks.DataError, match="at least 2 classes. Received: .*list.csv with cat"):
        load(tmp_path / "list.csv")


def test_manifest_rows_without_a_split_beside_others_are_one_line(tmp_path) -> None:
    rows = "path,label,split\na.png,cat,train\nb.png,dog,\n"
    (tmp_path / "list.csv").write_text(rows)
    with pytest.raises(checks.DataError, match="with 'b.png', which has none, beside others"):
        load(tmp_path / "list.csv")


def test_copies_and_strange_files_are_warnings(photos) -> None:
    shutil.copy(photos / "c2" / "0.png", photos / "c10" / "copy.png")
    shutil.copy(photos / "c2" / "0.png", photos / "c2" / "scan.tif")
    shutil.copy(photos / "c2" / "0.png", photos / "c2" / ".hidden.png")
    images = load(photos)
    assert images.audit.ignored == {".tif": 1, "hidden": 1}
    tif, *copies = images.audit.warnings
    assert tif == "left out, as no JPEG, PNG, GIF, BMP, WEBP: 1 .tif"
    assert any("1 image stands under more than one label" in words for words in copies)
    assert all("c10/copy.png" in words and "c2/0.png" in words for words in copies)


def test_a_copy_across_given_splits_is_a_warning(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 2, "test/b": 2})
    shutil.copy(root / "train/a/0.png", root / "test/a/9.png")
    (words,) = load(root, validation_fraction=0.1).audit.warnings
    assert words.startswith("1 image stands in more than one split, such as ")
    assert "train/a/0.png" in words and "test/a/9.png" in words


def test_a_class_linked_to_another_is_a_warning(photos) -> None:
    (photos / "z").symlink_to(photos / "c2")
    warnings = load(photos).audit.warnings
    assert any("20 images stand under more than one label" in words for words in warnings)


def test_a_split_that_lacks_a_class_is_a_warning(tmp_path) -> None:
    root = samples.write_folder(tmp_path, {"train/a": 9, "train/b": 9, "test/a": 2})
    assert "no test image of b" in load(root).audit.warnings


def test_the_fingerprint_follows_content_and_not_place(photos, tmp_path) -> None:
    before = load(photos).fingerprint
    assert before == load(photos, image_size=4, seed=9, per_class=3).fingerprint
    assert before == load(shutil.copytree(photos, tmp_path / "copy")).fingerprint
    samples.write(photos / "c2" / "0.png", seed=777)
    assert load(photos).fingerprint != before


def test_progress_counts_every_image(photos) -> None:
    steps = []
    load(photos, progress=steps.append)
    assert sum(steps) == 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 0}, r"image_size must lie in \[1, inf\). Received: image_size=0"),
        ({"per_class": -1}, r"per_class must lie in \[0, inf\)"),
        ({"max_bad_fraction": 1.1}, r"max_bad_fraction must lie in \[0, 1\]"),
        ({"test_fraction": 0.0}, r"^test_fraction must lie in \[0.001, 0.999\]. Received: .*=0.0"),
        ({"validation_fraction": 1.0}, r"^validation_fraction must lie in \[0.001, 0.999\]"),
        (
            {"test_fraction": 0.6, "validation_fraction": 0.5},
            r"^test_fraction \+ validation_fraction must lie in",
        ),
    ],
)
def test_arguments_are_looked_at_before_the_data(arguments, words) -> None:
    with pytest.raises(checks.ConfigError, match=words):
        load("/does/not/exist", **arguments)


@pytest.mark.parametrize("read", [loading.check_source, load])
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gone", "needs a folder, a .csv file or tfds:NAME. Received: data='gone', which does not"),
        ("gone.csv", "data='gone.csv', which does not exist"),
        ("file.txt", "needs a folder, a .csv file or tfds:NAME. Received: .*, a file"),
        ("", "needs a folder, a .csv file or tfds:NAME. Received: data='', which does not exist"),
        ("tfds:", r"needs the name of a data set, .* Received: data='tfds:'"),
        ("tfds:Beans", "needs the name of a data set"),
        ("tfds:a b", "needs the name of a data set"),
        ("tfds:beans:latest", "needs the name of a data set"),
    ],
)
def test_what_is_no_source_is_one_line(tmp_path, monkeypatch, read, source, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(checks.DataError, match=words):
        read(source)


@pytest.mark.parametrize(
    "name", ["beans", "a/b", "a/b_1:1.0.0", "mnist:3.*.*", "a/b.c-d+e", "glue/x:1.0.0"]
)
def test_names_of_tfds_pass_the_check(name, tmp_path) -> None:
    loading.check_source(f"tfds:{name}")
    loading.check_source(f"tfds:{name}", str(tmp_path))


def test_a_data_dir_that_is_none_is_one_line(tmp_path) -> None:
    with pytest.raises(checks.DataError, match="--data_dir needs a folder. Received: .*gone', whi"):
        loading.check_source("tfds:beans", str(tmp_path / "gone"))


def test_the_check_of_a_manifest_reads_it(tmp_path) -> None:
    (tmp_path / "list.csv").write_text("file,label\n")
    with pytest.raises(checks.DataError, match="needs the columns path,label"):
        loading.check_source(str(tmp_path / "list.csv"))


def test_a_folder_that_is_called_like_a_manifest_is_a_folder(tmp_path) -> None:
    root = samples.write_folder(tmp_path / "set.csv", {"a": 5, "b": 5})
    assert load(root).num_classes == 2


@pytest.mark.parametrize("read", [loading.check_source, load])
def test_what_may_not_be_read_is_one_line(photos, monkeypatch, read) -> None:
    def refuse(path):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    monkeypatch.setattr(os, "scandir", refuse)
    words = f"--data must be readable. Received: '{photos}', Permission denied"
    with pytest.raises(checks.DataError, match=words):
        read(str(photos))


REAL = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "flowers5"


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_real_photos_with_known_copies_are_found(tmp_path) -> None:
    # Six groups of exact copies, four of them under two labels, as the set's own notes say.
    images = load(REAL, image_size=2)
    assert images.audit.bad == () and images.num_classes == 5
    words = " ".join(images.audit.warnings)
    assert "4 images stand under more than one label" in words
