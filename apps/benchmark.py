"""Measures accuracy and speed, and writes tables that show every figure.

finetune-kit benchmark recipes --data_root=photo_sets --weights=mobilenet.weights.h5
finetune-kit benchmark step
"""

import importlib
import sys

from apps import flags
from finetune_kit import checks

SUITES = {
    "advice": ("apps.benchmarks.advice", "Whether the advisor's plans are the best ones."),
    "cell": ("apps.benchmarks.cell", "One cell of `advice`: plans on one draw; prints JSON."),
    "recipes": ("apps.benchmarks.recipes", "Recipes and baselines on several sets of images."),
    "bundled": ("apps.benchmarks.bundled", "Which source images make the best small network."),
    "scratch": ("apps.benchmarks.scratch", "The bundled network against random weights."),
    "cache": ("apps.benchmarks.cache", "Frozen stages run once, against plain Keras."),
    "variants": ("apps.benchmarks.variants", "What one option changes in accuracy and time."),
    "peers": ("apps.benchmarks.against", "Whole processes against other programs."),
    "plain": ("apps.benchmarks.plain", "One run of plain Keras for `cache`; prints JSON."),
    "guide": ("apps.benchmarks.guide", "One run of a baseline, the Keras guide; prints JSON."),
    "step": ("apps.benchmarks.step", "What rates by depth cost in time a step."),
    "input": ("apps.benchmarks.input", "From files to batches, against Keras' tutorials."),
    "scale": ("apps.benchmarks.scale", "Memory and time of streaming, by number of images."),
    "feed": ("apps.benchmarks.feed", "One run of an input pipeline; prints JSON."),
}


def main(argv: list[str]) -> int:
    """Runs the suite that is the first word; returns the exit code.

    Raises:
        ConfigError: No such suite; names the nearest.
    """
    if argv and argv[0] in ("--help", "-help", "-h", "--helpfull"):
        raise flags.HelpRequested(usage())
    if not argv or argv[0].startswith("-"):
        raise checks.ConfigError(
            f"benchmark needs a suite as its first word: {', '.join(SUITES)}. Received: none"
        )
    checks.one_of("suite", argv[0], SUITES)
    code: int = importlib.import_module(SUITES[argv[0]][0]).main(argv[1:])
    return code


def usage() -> str:
    """Returns the help text: what suites there are."""
    width = max(map(len, SUITES))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in SUITES.items()]
    return "\n".join(
        ["usage: finetune-kit benchmark SUITE [--FLAG=VALUE …]", "", *lines, "",
         "`finetune-kit benchmark SUITE --help` lists the flags of a suite."]
    )  # fmt: skip


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("benchmark"))
