"""Prepared data sets of TensorFlow Datasets, against what TFDS itself reads from them."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds_library

from finetune_kit import checks, data
from finetune_kit.data import decode, tfds
from tests.data import samples

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "tfds"
Image, ClassLabel = tfds_library.features.Image, tfds_library.features.ClassLabel
PICTURES = {
    "image": Image(shape=(None, None, 3), encoding_format="png"),
    "label": ClassLabel(names=["c10", "c2", "käse"]),
}


def example(image, label, **more):
    """Returns a serialised example: PNG bytes and a label."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[samples.encoded(image)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features | more)).SerializeToString()


def prepare(root, splits, *, name="pictures", version="1.0.0", features=None, keys=()):
    """Writes a data set as TFDS would prepare it, without any builder code.

    Args:
        splits: Split to shards, each a list of serialised examples.
        keys: The supervised keys, if any.
    """
    folder = root / name / version
    folder.mkdir(parents=True)
    tfds_library.features.FeaturesDict(features or PICTURES).save_config(os.fspath(folder))
    for split, shards in splits.items():
        for index, records in enumerate(shards):
            file = f"{name.split('/')[0]}-{split}.tfrecord-{index:05}-of-{len(shards):05}"
            with tf.io.TFRecordWriter(os.fspath(folder / file)) as writer:
                for record in records:
                    writer.write(record)
    info = {
        "name": name.split("/")[0],
        "version": version,
        "moduleName": "nowhere",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "shardLengths": [str(len(records)) for records in shards],
                "numBytes": "1",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, shards in splits.items()
        ],
    }
    if keys:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": key} for key in keys]}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def records(labels, *, seed=0):
    return [
        example(samples.noise(9 + i, 12, seed=seed + i), label) for i, label in enumerate(labels)
    ]


@pytest.fixture
def pictures(tmp_path):
    """A set with two shards to train on, a test split and another one."""
    splits = {
        "train": [records([0, 1, 2]), records([2, 1], seed=50)],
        "test": [records([1, -1, 0], seed=100)],
        "unsupervised": [records([-1, -1], seed=200)],
    }
    prepare(tmp_path, splits)
    return tmp_path


def test_a_prepared_set_is_that_of_tfds_image_by_image(pictures) -> None:
    found = tfds.list_tfds("pictures", str(pictures))
    builder = tfds_library.builder_from_directory(pictures / "pictures" / "1.0.0")
    names = builder.info.features["label"].names
    reads = tfds_library.ReadConfig(interleave_cycle_length=1)
    expected = [
        (split, names[row["label"]], row["image"])
        for split in ("train", "test")
        for row in tfds_library.as_numpy(builder.as_dataset(split=split, read_config=reads))
        if row["label"] >= 0
    ]
    assert len(found) == len(expected) == 7
    for position, (split, label, image) in enumerate(expected):
        assert (found.splits[position], found.labels[position]) == (split, label)
        np.testing.assert_array_equal(decode.decode(found.reader.read(position)), image)


def test_names_classes_and_what_is_left_out(pictures) -> None:
    found = tfds.list_tfds("pictures", str(pictures))
    assert found.names == (
        *(f"train[{i}]" for i in range(5)),
        "test[0]",
        "test[2]",
    )
    assert found.classes == ("c10", "c2", "käse")
    assert found.ignored == {"without a label": 1, "in split unsupervised": 2}


def test_it_loads_like_any_other_source(pictures) -> None:
    prepare(
        pictures,
        {"train": [records([0, 1] * 10)]},
        name="more",
        features=PICTURES | {"label": ClassLabel(names=["a", "b"])},
    )
    images = data.load("tfds:more", data_dir=str(pictures), image_size=8)
    assert {name: len(split) for name, split in images.splits().items()} == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert images.name == "tfds:more" and not images.audit.bad


def test_a_version_is_asked_for_or_the_newest_is_taken(tmp_path) -> None:
    for count, version in ((4, "1.9.0"), (5, "1.10.0"), (6, "1.2.0")):
        prepare(tmp_path, {"train": [records([0, 1] * count)]}, version=version)
    (tmp_path / "pictures" / "2.0.0.incomplete").mkdir()
    assert len(tfds.list_tfds("pictures", str(tmp_path))) == 10
    assert len(tfds.list_tfds("pictures:1.2.0", str(tmp_path))) == 12


def test_a_config_is_part_of_the_name(tmp_path) -> None:
    prepare(tmp_path, {"train": [records([0, 1])]}, name="pictures/small")
    assert len(tfds.list_tfds("pictures/small", str(tmp_path))) == 2
    assert len(tfds.list_tfds("pictures/small:1.0.0", str(tmp_path))) == 2


def test_the_environment_says_where_sets_are_kept(pictures, monkeypatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(pictures))
    assert len(tfds.list_tfds("pictures", None)) == 7


def test_of_two_images_the_supervised_one_is_taken(tmp_path) -> None:
    features = PICTURES | {"mask": Image(shape=(None, None, 3), encoding_format="png")}
    prepare(tmp_path, {"train": [records([0, 1])]}, features=features, keys=("image", "label"))
    assert len(tfds.list_tfds("pictures", str(tmp_path))) == 2


def test_images_of_floats_are_no_pictures(tmp_path) -> None:
    depth = Image(shape=(None, None, 1), dtype=np.float32, encoding_format="png")
    prepare(tmp_path, {"train": [records([0, 1])]}, features=PICTURES | {"depth": depth})
    assert tfds.list_tfds("pictures", str(tmp_path)).reader.feature == "image"


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (
            PICTURES | {"mask": PICTURES["image"]},
            r"must have one image and one class label .* images \['image', 'mask'\], labels",
        ),
        ({"image": PICTURES["image"]}, r"images \['image'\], labels \[\]"),
        ({"label": PICTURES["label"]}, r"images \[\], labels \['label'\]"),
    ],
)
def test_sets_without_one_image_and_one_label_are_refused(tmp_path, features, words) -> None:
    prepare(tmp_path, {"train": [records([0, 1])]}, features=features)
    with pytest.raises(checks.DataError, match=f"^tfds:pictures .*{words}"):
        tfds.list_tfds("pictures", str(tmp_path))


def test_a_set_without_labelled_images_is_refused(tmp_path) -> None:
    prepare(tmp_path, {"train": [records([-1, -1])], "extra": [records([0, 1])]})
    words = "^tfds:pictures must have labelled images in train. Received: splits train, extra$"
    with pytest.raises(checks.DataError, match=words):
        tfds.list_tfds("pictures", str(tmp_path))


def test_a_label_without_a_name_is_refused(tmp_path) -> None:
    prepare(tmp_path, {"train": [records([0, 1, 3])]})
    with pytest.raises(checks.DataError, match=r"lie in \[0, 3\). Received: train\[2\] with 3$"):
        tfds.list_tfds("pictures", str(tmp_path))


def test_an_unknown_name_without_a_network_is_one_line(tmp_path) -> None:
    words = "^tfds:no_such_set must stand prepared below --data_dir or be downloadable. Received: "
    with pytest.raises(checks.DataError, match=f"{words}data_dir='{tmp_path}'") as caught:
        tfds.list_tfds("no_such_set", str(tmp_path))
    assert "\n" not in str(caught.value) and "no_such_set not found" in str(caught.value)


def test_whatever_a_download_raises_is_one_line(tmp_path, monkeypatch) -> None:
    class Builder:
        def download_and_prepare(self):
            raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(tfds_library, "builder", lambda *args, **more: Builder())
    with pytest.raises(checks.DataError, match="RuntimeError: first line$"):
        tfds.list_tfds("some_set", str(tmp_path))


def test_what_is_not_prepared_is_downloaded_as_records(tmp_path, monkeypatch) -> None:
    folder = prepare(tmp_path / "later", {"train": [records([0, 1])]})
    calls = []

    def builder(name, **more):
        calls.append((name, more))
        made = tfds_library.builder_from_directory(folder)
        made.download_and_prepare = lambda: calls.append("prepared")
        return made

    monkeypatch.setattr(tfds_library, "builder", builder)
    assert len(tfds.list_tfds("pictures", str(tmp_path))) == 2
    options = {"data_dir": str(tmp_path), "file_format": "tfrecord"}
    assert calls == [("pictures", options), "prepared"]


def damaged(root, change):
    """Prepares a set and changes the bytes of its only file."""
    (file,) = prepare(root, {"train": [records([0, 1])]}).glob("*.tfrecord*")
    file.write_bytes(change(file.read_bytes()))
    return file


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content[:-100],
        lambda content: content + b"\x05",
        lambda content: content + b"\x05" + bytes(11),
        lambda content: b"\xff" * 8 + content[8:],
    ],
)
def test_a_file_that_is_cut_is_named(tmp_path, change) -> None:
    file = damaged(tmp_path, change)
    words = f"A TFRecord file must be whole. Received: '{file}', cut at byte .* again"
    with pytest.raises(checks.DataError, match=words):
        tfds.list_tfds("pictures", str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:12] + b"\xff" * 8 + content[20:],
        lambda content: bytes([0] * 8) + content[8:12] + bytes(4),
    ],
)
def test_a_record_that_is_no_example_is_named(tmp_path, change) -> None:
    file = damaged(tmp_path, change)
    words = f"must be an example with label. Received: '{file}', damaged at byte 12. Prepare"
    with pytest.raises(checks.DataError, match=words):
        tfds.list_tfds("pictures", str(tmp_path))


def test_a_file_that_is_missing_is_one_line(pictures) -> None:
    next((pictures / "pictures" / "1.0.0").glob("*train*00001-of*")).unlink()
    with pytest.raises(checks.DataError, match="--data must be readable. Received: .*No such file"):
        data.load("tfds:pictures", data_dir=str(pictures), image_size=8)


def test_records_that_change_later_cannot_be_read(pictures) -> None:
    reader = tfds.list_tfds("pictures", str(pictures)).reader
    file = reader.files[0]
    size = os.path.getsize(file)
    os.truncate(file, size - 8)
    assert reader.read(0)
    with pytest.raises(OSError, match="the record is cut"):
        reader.read(2)
    pathlib.Path(file).write_bytes(bytes([255]) * size)
    with pytest.raises(OSError, match="the record is damaged"):
        reader.read(0)
    pathlib.Path(file).write_bytes(bytes(size))
    with pytest.raises(OSError, match="the record is damaged"):
        reader.read(0)
    shutil.rmtree(pictures / "pictures")
    with pytest.raises(FileNotFoundError):
        reader.read(0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/tfds")
def test_a_real_set_of_30000_images_needs_no_builder_code() -> None:
    found = tfds.list_tfds("cifar10_jpeg", str(SHARED))
    assert (found.splits.count("train"), found.splits.count("test")) == (30_000, 5_000)
    assert len(found.classes) == 10 and found.classes[0] == "airplane" and not found.ignored
    builder = tfds_library.builder_from_directory(SHARED / "cifar10_jpeg" / "1.0.0")
    decoders = {"image": tfds_library.decode.SkipDecoding()}
    rows = builder.as_dataset(split="test", decoders=decoders).take(50)
    for offset, row in enumerate(tfds_library.as_numpy(rows)):
        position = 30_000 + offset
        assert found.reader.read(position) == row["image"]
        assert found.labels[position] == found.classes[row["label"]]
