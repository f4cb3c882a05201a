"""Folders as people keep them: layouts, strange names, and what is no image."""

import collections
import os
import socket
import threading

import pytest

from finetune_kit import checks
from finetune_kit.data import folder
from tests.data import samples


def labels_of(found):
    """Returns the labels by name."""
    return dict(zip(found.names, found.labels, strict=True))


def splits_of(found):
    return dict(zip(found.names, found.splits, strict=True))


@pytest.fixture
def photos(tmp_path):
    """Three cats and two dogs."""
    return samples.write_folder(tmp_path / "photos", {"cat": 3, "dog": 2})


def test_a_folder_a_class(photos) -> None:
    found = folder.list_folder(str(photos))
    assert found.names == ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png")
    assert found.labels == ("cat",) * 3 + ("dog",) * 2
    assert set(found.splits) == {""} and found.classes == ("cat", "dog") and not found.ignored


def test_the_reader_gives_the_bytes_of_each_file(photos) -> None:
    found = folder.list_folder(str(photos))
    for position, name in enumerate(found.names):
        assert found.reader.read(position) == (photos / name).read_bytes()


def test_classes_come_in_natural_order(tmp_path) -> None:
    root = samples.write_folder(tmp_path, dict.fromkeys(["10", "2", "1", "b", "A"], 1))
    assert folder.list_folder(str(root)).classes == ("1", "2", "10", "A", "b")


@pytest.mark.parametrize(
    ("folders", "split"),
    [("train", "train"), ("Training", "train"), ("VAL", "validation"), ("valid", "validation")]
    + [("validation", "validation"), ("test", "test"), ("Testing", "test")],
)
def test_splits_are_known_by_several_names(tmp_path, folders, split) -> None:
    samples.write_folder(tmp_path, {f"{folders}/a": 1, f"{folders}/b": 1})
    assert folder.list_folder(str(tmp_path)).splits == (split, split)


def test_splits_above_the_classes(tmp_path) -> None:
    samples.write_folder(tmp_path, {"train/a": 2, "train/b": 1, "val/a": 1, "test/b": 1})
    found = folder.list_folder(str(tmp_path))
    assert splits_of(found) == {
        "train/a/0.png": "train",
        "train/a/1.png": "train",
        "train/b/0.png": "train",
        "val/a/0.png": "validation",
        "test/b/0.png": "test",
    }
    assert labels_of(found)["test/b/0.png"] == "b" and found.classes == ("a", "b")


def test_a_class_that_is_called_train_beside_others_is_a_class(tmp_path) -> None:
    samples.write_folder(tmp_path, {"train": 1, "plane": 1})
    found = folder.list_folder(str(tmp_path))
    assert found.classes == ("plane", "train") and set(found.splits) == {""}


def test_splits_beside_classes_are_refused(tmp_path) -> None:
    samples.write_folder(tmp_path, {"train/a": 1, "train/b": 1, "dog": 1})
    words = "either splits or classes. Received: data=.* with train beside dog. Move one"
    with pytest.raises(checks.DataError, match=words):
        folder.check_folder(str(tmp_path))


def test_folders_below_a_class_belong_to_it(photos) -> None:
    samples.write(photos / "cat" / "kittens" / "train" / "0.png")
    assert labels_of(folder.list_folder(str(photos)))["cat/kittens/train/0.png"] == "cat"


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.jpe", "a.jfif", "a.Png", "a.gif"])
def test_image_files_are_known_by_their_ending_in_any_case(photos, name) -> None:
    samples.write(photos / "cat" / name)
    assert f"cat/{name}" in folder.list_folder(str(photos)).names


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (".hidden.png", "hidden"),
        ("._0.png", "hidden"),
        ("Thumbs.db", "hidden"),
        ("desktop.ini", "hidden"),
        ("__MACOSX/0.png", "hidden"),
        (".cache/0.png", "hidden"),
        ("scan.tif", ".tif"),
        ("scan.TIFF", ".tiff"),
        ("notes.txt", ".txt"),
        ("arrays.npz", ".npz"),
        ("photo.jpg.part", ".part"),
        ("README", "no suffix"),
    ],
)
def test_what_is_no_image_is_left_out_and_counted(photos, name, kind) -> None:
    samples.write(photos / "cat" / name)
    found = folder.list_folder(str(photos))
    assert found.ignored == {kind: 1} and len(found) == 5


def test_arrays_are_images_where_they_outnumber_pictures(photos, tmp_path) -> None:
    for label in ("cat", "dog"):
        (photos / label / "features.npy").write_bytes(b"x")
        (tmp_path / "arrays" / label).mkdir(parents=True)
        (tmp_path / "arrays" / label / "1.npy").write_bytes(b"x")
    found = folder.list_folder(str(photos))
    assert found.ignored == {".npy": 2} and len(found) == 5
    assert folder.list_folder(str(tmp_path / "arrays")).names == ("cat/1.npy", "dog/1.npy")
    # A class of arrays alone, among pictures, is an empty one.
    (tmp_path / "arrays" / "dog" / "2.png").write_bytes(b"x")
    assert len(folder.list_folder(str(tmp_path / "arrays"))) == 3
    (tmp_path / "arrays" / "dog" / "3.png").write_bytes(b"x")
    with pytest.raises(checks.DataError, match=r"none in cat \(ignored: 2 \.npy\)"):
        folder.list_folder(str(tmp_path / "arrays"))


def test_what_stands_beside_the_class_folders_is_counted(photos) -> None:
    for name in ("0.png", "labels.csv", ".git/config", "1.png"):
        samples.write(photos / name)
    ignored = folder.list_folder(str(photos)).ignored
    assert ignored == {"outside a class": 2, ".csv": 1, "hidden": 1}


def test_images_of_a_split_without_classes_are_counted_and_not_used(tmp_path) -> None:
    samples.write_folder(tmp_path, {"train/a": 1, "train/b": 1, "test": 3})
    found = folder.list_folder(str(tmp_path))
    assert found.ignored == {"outside a class": 3}
    assert set(found.splits) == {"train"}


def test_hidden_folders_are_no_classes(photos) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
        samples.write(photos / name / "0.png")
    assert folder.list_folder(str(photos)).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "name",
    [
        "two words",
        "Kätzchen",
        "猫",
        "a,b",
        'quo"te',
        "%s {0}",
        "-v",
        "new\nline",
        "e\u0301te\u0301",
    ],
)
def test_names_may_hold_anything(tmp_path, name) -> None:
    samples.write_folder(tmp_path, {name: 1, "other": 1})
    samples.write(tmp_path / name / f"{name}.png")
    found = folder.list_folder(str(tmp_path))
    assert labels_of(found)[f"{name}/{name}.png"] == name
    assert found.reader.read(found.names.index(f"{name}/{name}.png")).startswith(b"\x89PNG")


def test_names_that_are_no_unicode_are_kept(photos) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    samples.write(photos / "cat" / name)
    found = folder.list_folder(str(photos))
    assert found.reader.read(found.names.index(f"cat/{name}")).startswith(b"\x89PNG")


def test_the_listing_does_not_depend_on_the_order_of_the_disk(photos, monkeypatch) -> None:
    for name in ("cat/a/0.png", "cat/0/0.png", "cat-like/0.png"):
        samples.write(photos / name)
    expected = folder.list_folder(str(photos))
    assert list(expected.names) == sorted(expected.names)
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scan(path))))
    found = folder.list_folder(str(photos))
    assert (found.names, found.labels) == (expected.names, expected.labels)


def test_a_trailing_slash_or_dots_make_no_difference(photos) -> None:
    expected = folder.list_folder(str(photos)).names
    assert folder.list_folder(f"{photos}/").names == expected
    assert folder.list_folder(f"{photos}/cat/..").names == expected


def test_fifos_sockets_and_broken_links_are_left_out(photos) -> None:
    cat = photos / "cat"
    os.mkfifo(cat / "pipe.png")
    (cat / "nowhere.png").symlink_to("missing.png")
    (cat / "itself.png").symlink_to("itself.png")
    (cat / "round").symlink_to("round")
    (photos / "round").symlink_to("round")
    with socket.socket(socket.AF_UNIX) as plug:
        here = os.getcwd()
        os.chdir(cat)  # a socket's path may have 107 bytes
        try:
            plug.bind("socket.png")
        finally:
            os.chdir(here)
        found = folder.list_folder(str(photos))
    assert found.ignored == {"no regular file": 6} and len(found) == 5


def test_a_folder_that_is_called_like_an_image_is_a_folder(photos) -> None:
    samples.write(photos / "cat" / "odd.png" / "0.png")
    assert "cat/odd.png/0.png" in folder.list_folder(str(photos)).names


def test_links_into_the_data_set_bring_nothing_in(photos) -> None:
    (photos / "cat" / "up").symlink_to("..")
    (photos / "cat" / "self").symlink_to(".")
    (photos / "cat" / "dogs").symlink_to("../dog")
    (photos / "all").symlink_to(photos)
    (photos / "above").symlink_to(photos.parent)
    found = folder.list_folder(str(photos))
    assert collections.Counter(found.labels) == {"cat": 3, "dog": 2}
    assert found.ignored == {"link back": 5}


def test_links_to_elsewhere_are_followed_once(photos, tmp_path) -> None:
    elsewhere = samples.write_folder(tmp_path / "elsewhere", {"more": 2})
    (elsewhere / "more" / "round").symlink_to(elsewhere / "more")
    (photos / "cat" / "linked").symlink_to(elsewhere / "more")
    (photos / "cat" / "again").symlink_to(elsewhere / "more")
    (photos / "cat" / "one.png").symlink_to(elsewhere / "more" / "0.png")
    found = folder.list_folder(str(photos))
    linked = [name for name in found.names if name.count("/") > 1]
    assert len(linked) == 2 and "cat/one.png" in found.names
    assert len(found) == 5 + 3 and found.ignored == {"link back": 2}


def test_a_class_may_be_a_link_to_elsewhere(photos, tmp_path) -> None:
    elsewhere = samples.write_folder(tmp_path / "elsewhere", {"birds": 2})
    (photos / "bird").symlink_to(elsewhere / "birds")
    found = folder.list_folder(str(photos))
    assert found.classes == ("bird", "cat", "dog") and len(found) == 7


def test_an_empty_class_is_one_line_that_names_it(photos) -> None:
    (photos / "bird").mkdir()
    samples.write(photos / "fish" / "scan.tif")
    words = r"Every class needs an image .* with none in bird, fish \(ignored: 1 \.tif\). Fill"
    with pytest.raises(checks.DataError, match=words) as caught:
        folder.list_folder(str(photos))
    assert "\n" not in str(caught.value)


def test_of_many_empty_classes_some_are_named(photos) -> None:
    for index in range(7):
        (photos / f"{index}").mkdir()
    with pytest.raises(checks.DataError, match=r"none in 0, 1, 2, 3, 4, …\. Fill"):
        folder.list_folder(str(photos))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"cat": 2}, "at least 2 classes.* with the class 'cat' alone"),
        ({"train/cat": 2, "test/cat": 1}, "with the class 'cat' alone"),
        ({"": 3}, "with no class folder. It holds 3 images itself: give each class a folder"),
        ({"train": 2, "test": 2}, "with no class folder. Give each class a folder in .*/test"),
        ({"photos/cat": 1, "photos/dog": 1}, "the class 'photos' alone. Perhaps --data=.*/photos"),
        ({".hidden": 1}, r"with no class folder\.$"),
    ],
)
def test_fewer_than_two_classes_are_refused_with_a_hint(tmp_path, counts, words) -> None:
    samples.write_folder(tmp_path, counts)
    with pytest.raises(checks.DataError, match=words):
        folder.check_folder(str(tmp_path))


@pytest.mark.parametrize(("name", "words"), [("file", "a file"), ("gone", "which does not exist")])
def test_what_is_no_folder_is_refused(tmp_path, name, words) -> None:
    (tmp_path / "file").write_text("")
    words = f"needs a folder, a .csv file or tfds:NAME. Received: data='.*{name}', {words}"
    with pytest.raises(checks.DataError, match=words):
        folder.class_folders(str(tmp_path / name))


def test_reading_a_fifo_fails_and_does_not_wait(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    reader = folder.FileReader((str(tmp_path / "pipe.png"),))
    failures = []

    def read():
        try:
            reader.read(0)
        except OSError as error:
            failures.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert failures == ["no regular file"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "no regular file"), ("gone.png", "No such file"), ("a\0b", "null byte")],
)
def test_what_cannot_be_read_is_an_os_error(tmp_path, name, words) -> None:
    reader = folder.FileReader((os.path.join(tmp_path, name),))
    with pytest.raises(OSError, match=words):
        reader.read(0)
