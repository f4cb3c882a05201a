"""One wording for every error that a user can cause, and the exit code that goes with it.

The grammar is Keras': what is needed, then what came, then what to do. No TensorFlow is imported
here, so that a wrong flag or path is found in milliseconds.
"""

import difflib
import math
from collections.abc import Iterable
from typing import Any


class KitError(Exception):
    """An error that a user can cause; an app prints it as one line and exits with `exit_code`."""

    exit_code = 1


class ConfigError(KitError, ValueError):
    """A flag or argument has a value that it cannot have."""

    exit_code = 2


class DataError(KitError, ValueError):
    """The images or their labels cannot be used as they are."""

    exit_code = 3


class WeightsError(KitError, ValueError):
    """A weights file or checkpoint is missing, damaged or made for another network."""

    exit_code = 4


class EnvironmentFault(KitError, OSError):
    """Disk, permission, device or a directory that is in use."""

    exit_code = 5


class NumericsError(KitError, ArithmeticError):
    """Training diverged: the loss is not a number or keeps exploding."""

    exit_code = 6


class UntrustedFileError(KitError):
    """A file would run code or read outside its folder."""

    exit_code = 7


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises `ConfigError` unless `value` is one of `choices`; suggests the nearest one."""
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{name} must be one of {', '.join(known)}. Received: {name}={value!r}.{hint}"
    )


def in_range(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_high: bool = False,
) -> None:
    """Raises `ConfigError` unless low <= value <= high (value < high with `open_high`)."""
    inside = low <= value < high if open_high else low <= value <= high
    if inside and math.isfinite(value):
        return
    bracket = ")" if open_high or math.isinf(high) else "]"
    opening = "(" if math.isinf(low) else "["
    raise ConfigError(
        f"{name} must lie in {opening}{low:g}, {high:g}{bracket}. Received: {name}={value!r}"
    )


def same_names(what: str, needed: Iterable[str], received: Iterable[str]) -> None:
    """Raises `ConfigError` unless `received` holds each of `needed` once and nothing else."""
    wanted, came = list(needed), list(received)
    problems = [
        f"{label}: {', '.join(names)}"
        for label, names in (
            ("Missing", [n for n in wanted if n not in came]),
            ("Unknown", [n for n in came if n not in wanted]),
            ("Repeated", sorted({n for n in came if came.count(n) > 1})),
        )
        if names
    ]
    if problems:
        raise ConfigError(
            f"{what} must name each of {', '.join(wanted)} once. {'; '.join(problems)}. "
            f"Received: {', '.join(came) or 'nothing'}"
        )


def received(**values: Any) -> str:
    """Returns the closing words of an error: `Received: x=1, y='a'`."""
    return "Received: " + ", ".join(f"{name}={value!r}" for name, value in values.items())
