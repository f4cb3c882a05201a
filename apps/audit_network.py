"""Lists where a network departs from the conventions of the source text, and what that costs.

finetune-kit audit-network --backbone=mobilenet --image_size=224
finetune-kit audit-network '--backbone=spec:32-32|64-64|128' --all
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apps import flags
from finetune_kit import console
from finetune_kit.backbones import catalogue
from finetune_kit.data import sizes
from finetune_kit.results import files
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.backbones.auditing import Group, Layer, Summary

GROUPS = ("rule", "departure", "layers", "share of FLOPs", "what it costs")
LAYERS = ("layer", "kind", "kernel", "stride", "padding", "filters", "parameters", "MFLOPs",
          "sees", "output", "departs by")  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit audit-network`."""

    backbone: str = settings.option("Network; `finetune-kit backbones` lists all.", "bundled")
    backbone_args: str = settings.option("Arguments of the network, as in alpha=0.25.", "")
    image_size: sizes.Size = settings.size_option()
    weights: str = settings.option("none, imagenet or a weights file, which may set the width.",
                                   "none")  # fmt: skip
    all: bool = settings.option("Show every layer, not only those that depart.", False)
    json: str = settings.option("JSON file for the audit; empty writes none.", "")

    def __post_init__(self) -> None:
        settings.check_options(self)
        catalogue.image_size(self.backbone, self.image_size)
        catalogue.check_arguments(self.backbone, settings.arguments(self.backbone_args))
        settings.check_weights(self.weights)


def main(argv: list[str]) -> int:
    """Runs the command with the words behind its name; returns the exit code."""
    config, words = flags.parse(argv, Config, command="audit-network")
    flags.refuse_words("audit-network", words)

    from finetune_kit import backbones
    from finetune_kit.backbones import auditing
    from recipes import loading

    backbone = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights=config.weights,
        arguments=settings.arguments(config.backbone_args),
    )
    loading.say_keys(backbone)
    layers = auditing.audit(backbone.model)
    summary = auditing.summarise(layers)
    _show(f"{backbone.name}, {sizes.shown(backbone.image_size)} px", layers, summary, config)
    if config.json:
        found = {
            "backbone": backbone.name,
            "image_size": backbone.image_size,
            "summary": dataclasses.asdict(summary),
            "layers": [dataclasses.asdict(layer) for layer in layers],
        }
        files.write_json(config.json, found)
        console.say(f"audit  {config.json}")
    return 0


def _show(title: str, layers: "Sequence[Layer]", summary: "Summary", config: Config) -> None:
    from finetune_kit.backbones import auditing

    found = auditing.groups(layers)
    if found:
        rows = [group_row(group, summary.flops) for group in found]
        console.table(f"{title}: departures from S1, S4 and S5", GROUPS, rows)
    shown = [layer for layer in layers if config.all or layer.departures]
    if shown:
        what = "every layer" if config.all else "the layers that depart"
        console.table(f"{title}: {what}", LAYERS, [layer_row(layer) for layer in shown])
    console.say(summary_line(summary))


def group_row(group: "Group", flops: int) -> list[Any]:
    """Returns the cells of a departure that layers share.

    Args:
        group: The departure and its layers.
        flops: Of the whole network.
    """
    share = group.flops / flops if flops else 0.0
    return [group.departure.rule, group.departure.what, group.layers, f"{share:.1%}",
            group.departure.cost]  # fmt: skip


def layer_row(layer: "Layer") -> list[str]:
    """Returns the cells of a layer."""
    return [
        layer.name,
        layer.kind,
        _pair(layer.kernel),
        _pair(layer.strides),
        layer.padding,
        "" if layer.filters is None else str(layer.filters),
        f"{layer.parameters:,}",
        f"{layer.flops / 1e6:,.1f}",
        sees(layer.receptive_field),
        " x ".join("?" if side is None else str(side) for side in layer.output),
        "; ".join(f"{departure.rule}: {departure.what}" for departure in layer.departures),
    ]


def summary_line(summary: "Summary") -> str:
    """Returns the network in one line."""
    share = summary.departing / summary.judged if summary.judged else 0.0
    flops = summary.departing_flops / summary.flops if summary.flops else 0.0
    return (
        f"{summary.departing} of {summary.judged} layers that a rule speaks of depart "
        f"({share:.0%}; {flops:.0%} of the FLOPs); {summary.layers} layers, "
        f"{summary.parameters:,} parameters, {summary.flops / 1e6:,.1f} MFLOPs, "
        f"receptive field {sees(summary.receptive_field)} px"
    )


def sees(field: tuple[float, float] | None) -> str:
    """Returns a receptive field in pixels: one number where both sides are equal."""
    if field is None:
        return "?"
    if any(map(math.isinf, field)):
        return "all"
    return "x".join(str(int(side)) for side in dict.fromkeys(field))


def _pair(values: tuple[int, int] | None) -> str:
    return "" if values is None else "x".join(map(str, values))


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("audit-network"))
