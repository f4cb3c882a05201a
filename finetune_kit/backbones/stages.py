"""Stages by depth, found from the graph of any functional model."""

import dataclasses
import math
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import types

PARTS = 4  # stages of a transformer behind its embedding, as many as convolutional networks have


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation in topological order and whether its output is a cut of the graph."""

    operation: Any
    output: Any
    is_cut: bool


def find_stages(model: keras.Model) -> tuple[types.Stage, ...]:
    """Returns the stages of a functional model with one input and one output.

    A tensor is a cut (an articulation point) if every path from input to output passes it. Cuts
    are grouped by how often the side has been halved at them; a stage ends at the last cut of its
    group, so it holds whole blocks, and every layer is in exactly one stage. Resolutions without a
    cut of their own, as where branches of different resolution run side by side, join the next.
    A transformer keeps its resolution: its blocks are cut into `PARTS` of equal number.

    Returns:
        `stem`, `stage_1`, … from input to output.

    Raises:
        ConfigError: The model is no functional one, has several inputs or outputs, or takes images
            of any side.
    """
    _check(model)
    steps = trace(model)
    side = int(model.inputs[0].shape[1])  # the height, if the images are not square
    ends: dict[int, int] = {}  # halvings to position of the last cut
    for position, step in enumerate(steps):
        if step.is_cut and len(step.output.shape) in (3, 4):
            ends[_halvings(side, step.output)] = position
    borders = _merge(sorted({*ends.values(), *_between_blocks(steps), len(steps) - 1}), steps)
    stages, start = [], 0
    for i, end in enumerate(borders):
        own = steps[start : end + 1]
        stages.append(
            types.Stage(
                name="stem" if i == 0 else f"stage_{i}",
                layers=tuple(
                    # A layer that is called twice is still one layer.
                    dict.fromkeys(
                        s.operation.name for s in own if isinstance(s.operation, keras.layers.Layer)
                    )
                ),
                output=steps[end].output,
                divisor=2 ** _halvings(side, steps[end].output),
            )
        )
        start = end + 1
    return tuple(stages)


def _check(model: keras.Model) -> None:
    graph = getattr(model, "_nodes_by_depth", None)
    inputs, outputs = getattr(model, "inputs", None) or [], getattr(model, "outputs", None) or []
    single = len(inputs) == len(outputs) == 1
    if graph and single and len(inputs[0].shape) == 4 and inputs[0].shape[1]:
        return
    raise checks.ConfigError(
        "Stages are found in a functional model with one input [b, h, w, 3] of a known size and "
        "one output. "
        + checks.received(
            model=model.name,
            type=type(model).__name__,
            inputs=[tuple(tensor.shape) for tensor in inputs],
            outputs=[tuple(tensor.shape) for tensor in outputs],
        )
    )


def trace(model: keras.Model) -> list[Step]:
    """Returns the operations in topological order, with the cuts marked by a liveness sweep.

    Args:
        model: A functional model.
    """
    nodes = [
        node
        for depth in sorted(model._nodes_by_depth, reverse=True)
        for node in model._nodes_by_depth[depth]
    ]
    last_use = {id(tensor): len(nodes) for tensor in model.outputs}
    for position, node in enumerate(nodes):
        for tensor in node.input_tensors:
            last_use[id(tensor)] = max(last_use.get(id(tensor), -1), position)
    live: set[int] = set()
    steps = []
    for position, node in enumerate(nodes):
        live |= {id(tensor) for tensor in node.outputs}
        live = {key for key in live if last_use.get(key, -1) > position}
        output = node.outputs[0]
        # A padded tensor is the same features with a border that belongs to the next convolution.
        is_cut = live == {id(output)} and not isinstance(node.operation, keras.layers.ZeroPadding2D)
        steps.append(Step(node.operation, output, is_cut))
    return steps


def _between_blocks(steps: list[Step]) -> list[int]:
    """Returns the ends of the embedding and of all but the last part of a transformer's blocks."""
    blocks = [
        position
        for position, step in enumerate(steps)
        if isinstance(step.operation, keras.layers.MultiHeadAttention)
    ]
    cuts = [position for position, step in enumerate(steps) if step.is_cut]
    parts = min(PARTS, len(blocks))
    firsts = [blocks[len(blocks) * part // parts] for part in range(parts)]
    return [max(cut for cut in (-1, *cuts) if cut < first) for first in firsts]


def _halvings(side: int, tensor: Any) -> int:
    """Returns how often the side has been halved at a map, or at tokens of so many patches."""
    own = int(tensor.shape[1])
    own = math.isqrt(own) if len(tensor.shape) == 3 else own
    return max(0, round(math.log2(side / max(1, own))))


def _merge(borders: list[int], steps: list[Step]) -> list[int]:
    """Returns the ends of the stages, without those in which nothing could train.

    Preprocessing joins the first stage, pooling or padding at the end the last one.
    """
    kept: list[int] = []
    start = 0
    for end in borders:
        if _can_train(steps[start : end + 1]):
            kept.append(end)
            start = end + 1
        elif end == len(steps) - 1 and kept:
            kept[-1] = end
    return kept or borders[-1:]


def _can_train(steps: list[Step]) -> bool:
    return any(getattr(step.operation, "trainable_weights", None) for step in steps)
