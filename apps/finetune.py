"""Fine-tunes a classifier by a recipe.

finetune-kit finetune --data=photos --workdir=runs/1
finetune-kit finetune discriminative --data=photos --workdir=runs/2 --ratio=0.1
"""

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from apps import flags
from finetune_kit import checks, console

if TYPE_CHECKING:
    from finetune_kit.results.report import Report

DEFAULT = "auto"
RECIPES = {
    "auto": "Measure the images, and train as the measurement advises. The default.",
    "head_only": "Solve the head on frozen features; nothing else trains.",
    "last_stages": "Train the head and the last stages.",
    "batch_norm_only": "Solve the head, then train BatchNorm's scale and offset with it.",
    "surgical": "Solve the head, then train one stage with it: where the images pull hardest.",
    "full_finetune": "Train every layer from a random head, at one rate.",
    "discriminative": "Train every layer, deep ones faster than shallow ones.",
    "probe_then_finetune": "Solve the head, then train every layer.",
    "gradual_unfreezing": "Open one stage after the other, the last first.",
    "selective_joint": "Solve the head, then train every layer beside like images of the source.",
    "from_scratch": "Train the network from random weights.",
}


def main(argv: list[str]) -> int:
    """Runs a recipe with the words behind the command's name; returns the exit code."""
    recipe, rest = recipe_of(argv)
    method = importlib.import_module(f"recipes.{recipe}")
    try:
        config, words = flags.parse(rest, method.Config, command=f"finetune {recipe}")
    except flags.HelpRequested as request:
        raise flags.HelpRequested(f"{request}\n\n{_recipes()}") from None
    flags.refuse_words("finetune", words)
    tell(method.run(config), config)
    return 0


def recipe_of(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the recipe and the other words; the recipe is the first word, if it is no flag.

    Raises:
        ConfigError: No such recipe; names the nearest.
    """
    if not argv or argv[0].startswith("-"):
        return DEFAULT, argv
    name = argv[0].replace("-", "_")
    checks.one_of("recipe", name, RECIPES)
    return name, argv[1:]


def tell(report: "Report", config: Any) -> None:
    """Prints the scores, where the report is, and how to open TensorBoard."""
    for sentence in report.notes:
        console.say(f"· {sentence}")
    if report.outcome["planned_epochs"]:
        console.say(f"· kept {report.outcome['reason']}")
    for split in ("validation", "test"):
        scores = report.scores.get(split)
        if scores is not None:
            title = f"{split.capitalize()} scores, n = {scores.n}"
            console.table(title, ["", "value", "95 % interval"], scores.rows())
    folder = pathlib.Path(config.workdir)
    console.say(f"{report.seconds['total']:.0f} s on {report.device}")
    console.say(f"report       {folder / 'report.html'}")
    console.say(f"model        {folder / 'model.keras'}")
    if config.tensorboard:
        console.say(f"TensorBoard  tensorboard --logdir={folder / 'tensorboard'}")


def _recipes() -> str:
    width = max(map(len, RECIPES))
    lines = [f"  {name:{width}}  {text}" for name, text in RECIPES.items()]
    return "\n".join(["recipes, as the first word:", *lines])


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("finetune"))
