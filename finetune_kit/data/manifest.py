"""A CSV manifest: `path,label[,split]`, one image a row, paths relative to the file."""

import codecs
import csv
import io
import os
import pathlib
import posixpath

from finetune_kit import checks
from finetune_kit.data import folder, listing

REQUIRED = ("path", "label")
SUFFIX = ".csv"


def check_manifest(path: str) -> None:
    """Reads the header and the first row.

    Raises:
        DataError: See `read_rows`.
    """
    read_rows(path, limit=1)


def read_rows(path: str, *, limit: int | None = None) -> list[dict[str, str]]:
    """Returns the rows as dictionaries with `path`, `label` and `split` ("" where not given).

    Args:
        path: The file, UTF-8 with or without a byte-order mark; further columns are ignored.
        limit: Number of rows to read; all if None.

    Raises:
        DataError: No such columns, a row with an empty, missing or surplus field (with its line),
            or no rows.
    """
    rows: list[dict[str, str]] = []
    line = 1
    text = _text(path)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        reader.fieldnames = _header(list(reader.fieldnames or ()), path)
        for row in reader:
            line = reader.line_num
            rows.append(_checked(row, f"{path}:{line}"))
            if limit is not None and len(rows) >= limit:
                break
    except csv.Error as error:
        raise checks.DataError(
            f"A manifest needs UTF-8 text with commas. Received: {path}:{line + 1}, {error}"
        ) from error
    if not rows:
        raise checks.DataError(f"A manifest needs rows. Received: {path} with a header alone")
    return rows


def list_manifest(path: str) -> listing.Listing:
    """Lists the images of a manifest.

    Raises:
        DataError: See `read_rows`; also a path that stands twice.
    """
    rows = sorted(read_rows(path), key=lambda row: row["path"])
    names = tuple(row["path"] for row in rows)
    twice = next((a for a, b in zip(names, names[1:], strict=False) if a == b), None)
    if twice is not None:
        raise checks.DataError(
            f"A path stands once in a manifest. Received: {twice!r} twice in {path}. Remove a row."
        )
    return listing.Listing(
        names=names,
        labels=tuple(row["label"] for row in rows),
        splits=tuple(row["split"] for row in rows),
        reader=folder.FileReader(names, os.path.dirname(path)),
        classes=tuple(listing.natural({row["label"] for row in rows})),
    )


def _text(path: str) -> str:
    data = pathlib.Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise checks.DataError(
            f"A manifest needs UTF-8 text with commas. Received: {path}:{line}, {error.reason}"
        ) from error


def _header(names: list[str], path: str) -> list[str]:
    header = [name.strip().casefold() for name in names]
    if not set(REQUIRED) <= set(header):
        raise checks.DataError(
            f"A manifest needs the columns {','.join(REQUIRED)} and may have split. Received: "
            f"{path}:1 with {','.join(names) or 'nothing'}"
        )
    return header


def _checked(row: dict[str, str], where: str) -> dict[str, str]:
    # `csv` puts surplus fields under the key None, and None into fields that are missing.
    if None in row or None in row.values():
        raise checks.DataError(f"A row needs as many fields as the header. Received: {where}")
    for name in REQUIRED:
        if not row[name].strip():
            raise checks.DataError(f"A row needs a {name}. Received: {where} without one")
    split = row.get("split", "").strip()
    if split and split.casefold() not in listing.ALIASES:
        raise checks.DataError(
            f"A split must be one of {', '.join(listing.SPLITS)}. Received: {split!r} at {where}"
        )
    return {
        # Two spellings of one path are one image.
        "path": posixpath.normpath(row["path"].strip()),
        "label": row["label"].strip(),
        "split": listing.ALIASES.get(split.casefold(), ""),
    }
