"""From a source to `ImageData`: list, decode once, leave out the bad, split."""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_kit import checks
from finetune_kit.data import (
    arrays,
    audit,
    folder,
    formulas,
    listing,
    manifest,
    mixture,
    sizes,
    splits,
    store,
    types,
)

Source = str | os.PathLike[str] | arrays.Arrays

TFDS_PREFIX = "tfds:"
_TFDS_NAME = re.compile(r"[a-z]\w*(/[\w.+-]+)*(:\d+\.\d+\.\d+|:[\d*.]+)?", re.ASCII)


def check_source(source: str, data_dir: str | None = None) -> None:
    """Finds in milliseconds, without TensorFlow, whether a source can be a source.

    Args:
        source: A folder, a `.csv` manifest, `tfds:NAME`, `fractals:CLASSESxIMAGES` or
            `textures:CLASSESxIMAGES`.
        data_dir: Where TFDS keeps its data sets.

    Raises:
        DataError: The path does not exist, cannot be read, or has the wrong shape.
    """
    with _readable():
        if source.startswith(TFDS_PREFIX):
            _check_tfds(source, data_dir)
        elif formulas.is_formula(source):
            formulas.check(source)
        elif _is_manifest(source):
            manifest.check_manifest(source)
        else:
            folder.check_folder(source)


def load(
    source: Source | Sequence[Source],
    *,
    image_size: sizes.Size,
    data_dir: str | None = None,
    seed: int = 0,
    per_class: int = 0,
    hold_out: bool = True,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.15,
    max_bad_fraction: float = 0.01,
    cache_mb: int = 2048,
    cache_dir: str = "",
    channels: int = sizes.COLOURS,
    progress: audit.Progress | None = None,
) -> types.ImageData:
    """Lists, decodes once and splits the images of a source.

    Args:
        source: As for `check_source`, or `Arrays`; several are one, see `mixture.joined`.
        image_size: Side in pixels to which images are brought, or (height, width).
        data_dir: Where TFDS keeps its data sets.
        seed: Decides, with the names alone, who is in which split.
        per_class: The whole label budget a class, validation included; 0 uses every image.
        hold_out: Whether a label budget is cross-validated.
        test_fraction: Share in (0, 1) to score on, where the source has no test split.
        validation_fraction: Share in (0, 1) to choose by, where the source has none.
        max_bad_fraction: Largest share in [0, 1] of images that may be left out.
        cache_mb: Largest size in MiB of the decoded images that are kept in memory.
        cache_dir: Folder that keeps those that do not fit, for later runs too; empty streams them.
        channels: N, as which images are read; see `decode`.
        progress: Called with the number of images that were dealt with since the last call.

    Raises:
        ConfigError, DataError: An argument out of its range; a source that cannot be used.
    """
    checks.in_range("channels", channels, 1, sizes.MOST_CHANNELS)
    _check_arguments(image_size, per_class, test_fraction, validation_fraction, max_bad_fraction)
    began = time.perf_counter()
    name, found = list_source(source, data_dir, channels)
    decoded = audit.decode_all(
        found, image_size, cache_mb=cache_mb, cache_dir=cache_dir, channels=channels,
        progress=progress,
    )  # fmt: skip
    everything = _everything(found, decoded, image_size, channels, max_bad_fraction)
    shares = {"test": test_fraction} | ({} if per_class else {"validation": validation_fraction})
    division = _divide(found, everything, shares, seed, per_class, hold_out)
    described = _described(found, decoded, everything, division)
    findings = _audit(found, decoded, everything, division, began=began)
    return types.ImageData(name=name, **described, audit=findings)


def _check_arguments(
    image_size: sizes.Size,
    per_class: int,
    test_fraction: float,
    validation_fraction: float,
    max_bad_fraction: float,
) -> None:
    checks.in_range("image_size", min(sizes.sides(image_size)), 1)
    checks.in_range("per_class", per_class, 0)
    checks.in_range("max_bad_fraction", max_bad_fraction, 0, 1)
    for name, share in (
        ("test_fraction", test_fraction),
        ("validation_fraction", validation_fraction),
        ("test_fraction + validation_fraction", test_fraction + validation_fraction),
    ):
        checks.in_range(name, share, 0.001, 0.999)


def list_source(
    source: Source | Sequence[Source], data_dir: str | None, channels: int = sizes.COLOURS
) -> tuple[str, listing.Listing]:
    """Returns the source's name and what it names, which a classifier can be trained on.

    Args:
        source: As for `load`.
        data_dir: Where TFDS keeps its data sets.
        channels: N of `Arrays`.

    Raises:
        DataError: The source cannot be used.
    """
    if isinstance(source, (str, os.PathLike, arrays.Arrays)):
        return list_source((source,), data_dir, channels)
    listed = [_list_one(one, data_dir, channels) for one in source]
    name = " + ".join(name for name, _ in listed)
    parts = [part for _, part in listed]
    found = parts[0] if len(parts) == 1 else mixture.joined(parts)
    listing.check(found, name)
    return name, found


def _list_one(source: Source, data_dir: str | None, channels: int) -> tuple[str, listing.Listing]:
    if isinstance(source, arrays.Arrays):
        return "arrays", arrays.list_arrays(source, channels)
    name = os.fspath(source)
    check_source(name, data_dir)
    with _readable():
        return name, _list_path(name, data_dir)


def _list_path(source: str, data_dir: str | None) -> listing.Listing:
    if source.startswith(TFDS_PREFIX):
        # TensorFlow Datasets takes seconds to import.
        from finetune_kit.data import tfds

        return tfds.list_tfds(source.removeprefix(TFDS_PREFIX), data_dir)
    if formulas.is_formula(source):
        return formulas.list_images(source)
    return manifest.list_manifest(source) if _is_manifest(source) else folder.list_folder(source)


def _everything(
    found: listing.Listing,
    decoded: audit.Decoded,
    image_size: sizes.Size,
    channels: int,
    max_bad_fraction: float,
) -> types.Split:
    """Returns all images that can be decoded, as one split, if there are enough of them."""
    audit.refuse_bad(decoded.bad, len(found), max_bad_fraction)
    audit.refuse_unseen(found, decoded.good)
    index = {name: position for position, name in enumerate(found.classes)}
    return types.Split(
        store=store.PixelStore(found.reader, image_size, cache=decoded.cache, channels=channels),
        indices=np.arange(len(found)),
        labels=np.array([index[label] for label in found.labels], np.int64),
        names=found.names,
    ).take(decoded.good)


def _divide(
    found: listing.Listing,
    everything: types.Split,
    shares: Mapping[str, float],
    seed: int,
    per_class: int,
    hold_out: bool,
) -> splits.Division:
    """Returns who is in which split, within the label budget if there is one."""
    given = [found.splits[i] for i in everything.indices]
    images = splits.Images(everything.labels, everything.names, given, found.classes)
    division = splits.divide(images, shares, seed=seed)
    if not per_class:
        return division
    return splits.budget(images, division, seed=seed, per_class=per_class, hold_out=hold_out)


def _described(
    found: listing.Listing,
    decoded: audit.Decoded,
    everything: types.Split,
    division: splits.Division,
) -> dict[str, Any]:
    """Returns what `ImageData` says of the images themselves."""
    return {
        "class_names": found.classes,
        "folds": division.folds,
        "image_size": everything.store.size,
        "fingerprint": audit.fingerprint(found, decoded.digests, everything.store.channels),
        **{split: _part(everything, division, split) for split in listing.SPLITS},
    }


def _part(everything: types.Split, division: splits.Division, split: str) -> Any:
    """Returns the images of a split, None if there is no such split."""
    return everything.take(division.parts[split]) if split in division.parts else None


def _audit(
    found: listing.Listing,
    decoded: audit.Decoded,
    everything: types.Split,
    division: splits.Division,
    *,
    began: float,
) -> types.Audit:
    digests = decoded.digests[everything.indices]
    copies = audit.copies(digests, everything.labels, everything.names, division.parts)
    return types.Audit(
        listed=len(found),
        decoded=len(everything),
        bad=decoded.bad,
        ignored=found.ignored,
        seconds=time.perf_counter() - began,
        warnings=(
            *decoded.warnings,
            *audit.left_out(found.ignored),
            *copies,
            *division.warnings,
        ),
        median_side=decoded.median_side,
    )


def _is_manifest(source: str) -> bool:
    return source.casefold().endswith(manifest.SUFFIX) and os.path.isfile(source)


def _check_tfds(source: str, data_dir: str | None) -> None:
    if not _TFDS_NAME.fullmatch(source.removeprefix(TFDS_PREFIX)):
        raise checks.DataError(
            "tfds: needs the name of a data set, with a config and a version if wanted, as in "
            f"tfds:beans or tfds:name/config:1.0.0. Received: data={source!r}"
        )
    if data_dir and not os.path.isdir(data_dir):
        raise checks.DataError(
            f"--data_dir needs a folder. Received: data_dir={data_dir!r}, which is none."
        )


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise checks.DataError(
            f"--data must be readable. Received: {error.filename!r}, {error.strerror}"
        ) from error
