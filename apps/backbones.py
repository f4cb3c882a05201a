"""Lists the networks, or the stages of one.

finetune-kit backbones
finetune-kit backbones mobilenet_v2 --weights=none
finetune-kit backbones mine.keras
"""

import dataclasses
import sys
from typing import TYPE_CHECKING

from apps import flags
from finetune_kit import console
from finetune_kit.backbones import catalogue
from finetune_kit.data import sizes
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit backbones`."""

    weights: str = settings.option("none, imagenet or a weights file, which may set the width.",
                                   "none")  # fmt: skip
    dense_top: str = settings.option(
        "Hidden dense layers behind the features: left out, or kept as convolutions.",
        catalogue.DENSE_TOPS[0],
        choices=catalogue.DENSE_TOPS,
    )
    backbone_args: str = settings.option("Arguments of the network, as in alpha=0.25.", "")
    image_size: sizes.Size = settings.size_option()

    def __post_init__(self) -> None:
        settings.check_options(self)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="backbones", positional="[NAME]")
    if not words:
        console.table("Networks", ["name", "smallest side", "default side"], _catalogue())
        return 0
    flags.refuse_words("backbones", words[1:])
    catalogue.image_size(words[0], config.image_size)
    catalogue.check_arguments(words[0], settings.arguments(config.backbone_args))

    from finetune_kit import backbones
    from recipes import loading

    backbone = backbones.load(
        words[0],
        image_size=config.image_size,
        weights=config.weights,
        arguments=settings.arguments(config.backbone_args),
    )
    if config.dense_top == catalogue.KEPT:
        backbone = backbones.keep_dense(backbone)
    loading.say_keys(backbone)
    size = sizes.shown(backbone.image_size)
    title = f"{backbone.name}, {size} px, weights {backbone.weights}"
    columns = ["stage", "layers", "parameters", "MFLOPs", "output", "first and last layer"]
    console.table(title, columns, stage_rows(backbone))
    return 0


def stage_rows(backbone: "Backbone") -> list[list[str]]:
    """Returns a row of text for every stage, and one for the sum."""
    from finetune_kit import backbones

    rows, parameters, operations = [], 0, 0
    for stage in backbone.stages:
        layers = [backbone.model.get_layer(name) for name in stage.layers]
        weights = sum(layer.count_params() for layer in layers)
        flops = sum(backbones.flops.flops(layer) for layer in layers)
        shape = " x ".join(str(side) for side in stage.output.shape[1:])
        rows.append(
            [stage.name, str(len(layers)), f"{weights:,}", f"{flops / 1e6:,.1f}", shape,
             f"{stage.layers[0]} … {stage.layers[-1]}"]
        )  # fmt: skip
        parameters, operations = parameters + weights, operations + flops
    count = sum(len(stage.layers) for stage in backbone.stages)
    rows.append(["all", str(count), f"{parameters:,}", f"{operations / 1e6:,.1f}", "", ""])
    return rows


def _catalogue() -> list[list[str]]:
    return [
        [name, f"{entry.min_size} px", f"{entry.default_size} px"]
        for name, entry in catalogue.ENTRIES.items()
    ]


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("backbones"))
