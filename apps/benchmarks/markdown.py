"""Tables and numbers as Markdown has them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_kit import metrics

MISSING = "–"


def grid(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table, padded so that it can be read as text; all but its first column right."""
    cells = [[_escaped(cell) for cell in line] for line in (headings, *lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(headings))]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [cell.ljust(width) if i == 0 else cell.rjust(width)
         for i, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def percent(estimate: metrics.Estimate | None, *, signed: bool = False) -> str:
    """Returns `71.2 [69.8, 72.6]` for shares, in per cent or, signed, in points."""
    if estimate is None:
        return MISSING
    return f"{value(estimate, signed=signed)} {interval(estimate, signed=signed)}"


def value(estimate: metrics.Estimate | None, *, signed: bool = False) -> str:
    """Returns `71.2` for a share of 0.712."""
    return MISSING if estimate is None else _number(estimate.value, signed)


def interval(estimate: metrics.Estimate | None, *, signed: bool = False) -> str:
    """Returns `[69.8, 72.6]` for a share between 0.698 and 0.726."""
    if estimate is None:
        return MISSING
    return f"[{_number(estimate.low, signed)}, {_number(estimate.high, signed)}]"


def spread(ratios: Sequence[float] | np.ndarray) -> str:
    """Returns `2.00 [1.00, 3.00]`: the median with the least and the greatest."""
    return f"{np.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def machines(lines: Iterable[Mapping[str, Any]]) -> str:
    """Returns a list of what rows were measured on: their `machine` and `versions`."""
    found = dict.fromkeys(
        f"- {line['machine']}; "
        + ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        for line in lines
    )
    return "\n".join(found)


def _number(share: float, signed: bool) -> str:
    number = f"{100 * share:{'+' if signed else ''}.1f}"
    return "0.0" if number in ("+0.0", "-0.0") else number.replace("-", "−")


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")
