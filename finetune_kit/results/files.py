"""Files that are there whole or not at all."""

import contextlib
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from finetune_kit import checks


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, suffix: str = "") -> Iterator[pathlib.Path]:
    """Yields a new path beside `path`, which takes its place when the block ends well.

    Args:
        path: Where the file is to be. Readers see the old file until the new one is complete.
        suffix: Ending of the temporary name, for writers that look at it.

    Raises:
        EnvironmentFault: The folder does not exist, is full or is not writable.
    """
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except checks.KitError:
        raise
    except OSError as error:
        raise checks.EnvironmentFault(
            f"A file needs a folder that can be written. Received: {str(target)!r}, "
            f"{error.strerror or error}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 text file in one step; raises as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes strict JSON in one step; raises as `replacing` does."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def plain(value: Any) -> Any:
    """Returns `value` made of what JSON has: NumPy unpacked, paths as text, NaN and inf as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
