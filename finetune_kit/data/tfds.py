"""TensorFlow Datasets, read record by record so that memory does not grow with the set.

The images of a prepared data set are encoded already. Their records are found once (file, offset,
length) and read again when needed, so that they pass through the one decoder like any file.
"""

import dataclasses
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import message

from finetune_kit import checks
from finetune_kit.data import listing

UNLABELLED = "without a label"  # TFDS gives -1 where a test split hides its labels


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Reads encoded images from TFRecord files by position.

    Attributes:
        files: Paths.
        file: int64 [n], index into `files`.
        offset: int64 [n], start of the record in its file, bytes.
        length: int64 [n], bytes.
        feature: Name of the image feature.
    """

    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    feature: str

    def read(self, position: int) -> bytes:
        """Returns the encoded image of one record.

        Raises:
            OSError: The file is gone, or not what it was.
        """
        with open(self.files[self.file[position]], "rb") as file:
            file.seek(int(self.offset[position]))
            record = file.read(int(self.length[position]))
        if len(record) < self.length[position]:
            raise OSError("the record is cut")
        try:
            return _features(record)[self.feature].bytes_list.value[0]
        except (message.DecodeError, IndexError) as error:
            raise OSError("the record is damaged") from error


@dataclasses.dataclass(frozen=True)
class _Row:
    name: str
    label: int
    split: str
    place: tuple[int, int, int]


def list_tfds(name: str, data_dir: str | None) -> listing.Listing:
    """Lists a data set of TensorFlow Datasets; downloads and prepares it where it must.

    Splits that are not called train, validation or test are left out and counted.

    Args:
        name: As in `tfds.load`: a name, with a config and a version if wanted.
        data_dir: Where data sets are kept; one prepared elsewhere needs no builder code.

    Raises:
        DataError: Unknown, not to be downloaded, or without images with one label each.
    """
    builder = _builder(name, data_dir)
    image, label = _keys(builder, name)
    ignored: dict[str, int] = {}
    files: list[str] = []
    rows: list[_Row] = []
    for split, info in builder.info.splits.items():
        role = listing.ALIASES.get(split, "")
        if not role:
            ignored[f"in split {split}"] = info.num_examples
            continue
        for row in _rows(split, role, info.filepaths, label, files):
            if row.label < 0:
                ignored[UNLABELLED] = ignored.get(UNLABELLED, 0) + 1
            else:
                rows.append(row)
    if not rows:
        raise checks.DataError(
            f"tfds:{name} must have labelled images in train. Received: splits "
            f"{', '.join(builder.info.splits)}"
        )
    return _listing(rows, files, builder.info.features[label].names, image, ignored)


def _builder(name: str, data_dir: str | None) -> Any:
    prepared = _prepared(name, data_dir)
    try:
        if prepared is not None:
            return tfds.builder_from_directory(prepared)
        builder = tfds.builder(name, data_dir=data_dir, file_format="tfrecord")
        builder.download_and_prepare()
        return builder
    except Exception as error:  # builders raise whatever their download code raises
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise checks.DataError(
            f"tfds:{name} must stand prepared below --data_dir or be downloadable. Received: "
            f"data_dir={data_dir!r}, {type(error).__name__}: {reason}"
        ) from error


def _prepared(name: str, data_dir: str | None) -> str | None:
    """Returns the folder of the newest version that is prepared as TFRecord files, or None."""
    root = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    top = os.path.join(os.path.expanduser(root), name.replace(":", "/"))
    below = os.listdir(top) if os.path.isdir(top) else []
    versions = sorted(below, key=listing.natural_key, reverse=True)
    for folder in (top, *(os.path.join(top, version) for version in versions)):
        if os.path.isfile(os.path.join(folder, "dataset_info.json")) and any(
            ".tfrecord" in file for file in os.listdir(folder)
        ):
            return folder
    return None


def _keys(builder: Any, name: str) -> tuple[str, str]:
    """Returns the names of the image and the label feature."""
    features = builder.info.features
    # Other types are stored as the bit patterns of floats or depths, which are no pictures.
    images = [
        key
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image) and feature.np_dtype in (np.uint8, np.uint16)
    ]
    labels = [k for k, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    supervised = builder.info.supervised_keys or ("", "")
    if supervised[0] in images and supervised[1] in labels:
        return supervised[0], supervised[1]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    raise checks.DataError(
        f"tfds:{name} must have one image and one class label an example. Received: images "
        f"{sorted(images)}, labels {sorted(labels)}"
    )


def _rows(split: str, role: str, paths: list[Any], label: str, files: list[str]) -> Iterator[_Row]:
    """Yields the records of a split, and appends its files to `files`."""
    count = 0
    for path in paths:
        files.append(os.fspath(path))
        for offset, record in _records(files[-1]):
            try:
                value = _features(record)[label].int64_list.value[0]
            except (message.DecodeError, IndexError) as error:
                raise checks.DataError(
                    f"A record must be an example with {label}. Received: {files[-1]!r}, damaged "
                    f"at byte {offset}. Prepare the data set again."
                ) from error
            place = (len(files) - 1, offset, len(record))
            yield _Row(f"{split}[{count}]", value, role, place)
            count += 1


def _records(path: str) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, record) of a TFRecord file: length u64, its CRC u32, data, CRC u32."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while header := file.read(12):
            # A damaged length may be any number, so that it is compared before it is read.
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            offset = file.tell()
            if offset + length + 4 > size:
                raise checks.DataError(
                    f"A TFRecord file must be whole. Received: {path!r}, cut at byte {offset}. "
                    "Prepare the data set again."
                )
            yield offset, file.read(length)
            file.seek(4, os.SEEK_CUR)


def _features(record: bytes) -> Any:
    return tf.train.Example.FromString(record).features.feature


def _listing(
    rows: list[_Row],
    files: list[str],
    class_names: list[str],
    image: str,
    ignored: dict[str, int],
) -> listing.Listing:
    places = np.array([row.place for row in rows], np.int64)
    reader = RecordReader(tuple(files), places[:, 0], places[:, 1], places[:, 2], image)
    classes = tuple(str(name) for name in class_names)
    unnamed = next((row for row in rows if row.label >= len(classes)), None)
    if unnamed is not None:
        raise checks.DataError(
            f"Labels must lie in [0, {len(classes)}). Received: {unnamed.name} with {unnamed.label}"
        )
    return listing.Listing(
        names=tuple(row.name for row in rows),
        labels=tuple(classes[row.label] for row in rows),
        splits=tuple(row.split for row in rows),
        reader=reader,
        classes=classes,
        ignored=ignored,
    )
