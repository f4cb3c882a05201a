"""The page of speed: a section for every suite that has rows, and nothing that has none."""

import importlib
import os
import pathlib

from apps.benchmarks import records
from finetune_kit.results import files

# Suite to the file that it keeps its rows in and the module that has its `section`.
SUITES = {
    "input": ("input.jsonl", "apps.benchmarks.input"),
    "cache": ("cache.jsonl", "apps.benchmarks.cache"),
    "variants": ("variants.jsonl", "apps.benchmarks.variants"),
    "peers": ("peers.jsonl", "apps.benchmarks.against"),
    "scale": ("scale.jsonl", "apps.benchmarks.scale"),
}


def write(path: str | os.PathLike[str], *, suite: str = "", rows: str = "") -> None:
    """Writes the page from the rows alone, those in `results/` beside it.

    Args:
        path: The page.
        suite: A suite whose rows are elsewhere.
        rows: Where they are.
    """
    page = pathlib.Path(path)
    parts = [
        "# How fast is it?",
        "Written by `finetune-kit benchmark SUITE` from rows of measurements; ratios are of one "
        "run, side by side. [recipes.md](recipes.md) has accuracy and seconds of every recipe, "
        "[step.md](step.md) the price of rates by depth.",
    ]
    for name, (file, module) in SUITES.items():
        lines = records.load_lines(rows if name == suite else page.parent / "results" / file)
        if lines:
            parts.append(importlib.import_module(module).section(lines))
    page.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(page, "\n\n".join(parts) + "\n")
