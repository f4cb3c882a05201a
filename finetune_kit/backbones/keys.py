"""Which numbers of a network came from a file: what was loaded, and what was not."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from finetune_kit import checks

EXAMPLES = 3


@dataclasses.dataclass(frozen=True)
class KeyReport:
    """The tensors of a network and of the file that it was loaded from.

    Attributes:
        loaded: Tensors of the network that the file gave, as `layer/variable`.
        missing: Tensors of the network that the file does not hold.
        mismatched: Those that it holds in another shape, with both shapes.
        unused: Tensors of the file that the network has no place for, such as those of a head; by
            their shape where the file does not name them as the network does.
        parameters: Numbers in the network, moving statistics included.
        loaded_parameters: Those that the file gave.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    parameters: int = 0
    loaded_parameters: int = 0

    @property
    def share(self) -> float:
        """Loaded parameters of all, in [0, 1]."""
        return self.loaded_parameters / self.parameters if self.parameters else 0.0

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the network was loaded."""
        return not (self.missing or self.mismatched)

    @property
    def halves(self) -> tuple[str, ...]:
        """Layers of which a part was loaded, which are of another kind in the file."""
        lacking = {name.partition("/")[0] for name in (*self.missing, *self.mismatched)}
        layers = dict.fromkeys(name.partition("/")[0] for name in self.loaded)
        return tuple(layer for layer in layers if layer in lacking)

    def line(self) -> str:
        """Returns the report in one line, with the first names of each kind."""
        return (
            f"{len(self.loaded):,} tensors loaded ({self.share:.1%} of {self.parameters:,} "
            f"parameters), {_some(self.missing)} missing, {_some(self.mismatched)} of another "
            f"shape, {_some(self.unused)} unused"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns counts and first examples, as JSON has them."""
        return {
            "share": self.share,
            "parameters": self.parameters,
            "loaded_parameters": self.loaded_parameters,
            "loaded": len(self.loaded),
        } | {
            name: {"count": len(keys), "examples": list(keys[:EXAMPLES])}
            for name, keys in (
                ("missing", self.missing),
                ("mismatched", self.mismatched),
                ("unused", self.unused),
            )
        }


def layers(model: Any) -> list[Any]:
    """Returns a model, or layer, and the layers in it at any depth, each once, in their order."""
    # Keras' own walk, `_flatten_layers`, takes those of a nested model backwards.
    inner = [found for layer in model._layers for found in layers(layer)]
    return list({id(layer): layer for layer in (model, *inner)}.values())


def variables(model: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields (layer, variable) of every variable that a layer of a model owns, nested ones too."""
    for layer in layers(model):
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            yield layer, variable


def assign(
    model: keras.Model,
    values: Mapping[str, np.ndarray],
    place: Mapping[str, Any],
    *,
    source_names: Mapping[str, str] | None = None,
) -> KeyReport:
    """Gives a network the tensors that fit by name and shape, and says which did not.

    Args:
        model: The network, which is changed.
        values: Name to tensor.
        place: Name to variable, for every variable of the network.
        source_names: Name to what the file calls it, for the report.
    """
    called = dict(source_names or {})
    loaded, missing, mismatched = [], [], []
    parameters = 0
    for name, variable in place.items():
        shape = tuple(variable.shape)
        if name not in values:
            missing.append(f"{name} ({called[name]})" if name in called else name)
        elif values[name].shape != shape:
            mismatched.append(f"{name} {shape}, file {values[name].shape}")
        else:
            variable.assign(values[name])
            loaded.append(name)
            parameters += math.prod(shape)
    return KeyReport(
        loaded=tuple(loaded),
        missing=tuple(missing),
        mismatched=tuple(mismatched),
        unused=tuple(name for name in values if name not in place),
        parameters=model.count_params(),
        loaded_parameters=parameters,
    )


def complete(model: keras.Model, *, unused: Sequence[tuple[int, ...]] = ()) -> KeyReport:
    """Returns the report of a file that gave every tensor.

    Args:
        model: The network.
        unused: Shapes in the file that the network does not need.
    """
    return KeyReport(
        loaded=tuple(variable.path for _, variable in variables(model)),
        unused=tuple(map(str, unused)),
        parameters=model.count_params(),
        loaded_parameters=model.count_params(),
    )


def refuse_poor(report: KeyReport | None, least: float, *, source: str, network: str) -> None:
    """Raises `WeightsError` unless a file gave at least a share of a network's parameters.

    A layer that came in part is refused too: BatchNorm without its statistics computes something
    else, and counts for next to nothing in a share of the parameters.

    Args:
        report: What was loaded; None, of random weights, is never refused.
        least: Share in [0, 1]; nothing loaded is refused whatever it is.
        source: The file, for the error.
        network: Name of the network, for the error.
    """
    checks.in_range("min_loaded", least, 0.0, 1.0)
    if report is None:
        return
    if report.halves:
        raise checks.WeightsError(
            f"The weights must give each layer of {network} whole or not at all. Received: "
            f"{source!r}, which gives only a part of {_some(report.halves)}: {report.line()}"
        )
    if report.loaded and report.share >= least:
        return
    raise checks.WeightsError(
        f"The weights must give {network} at least {least:.0%} of its parameters (--min_loaded). "
        f"Received: {source!r}, {report.line()}"
    )


def _some(names: Sequence[str]) -> str:
    """Returns the number of names and the first of them."""
    if not names:
        return "0"
    more = ", …" if len(names) > EXAMPLES else ""
    return f"{len(names):,} ({', '.join(names[:EXAMPLES])}{more})"
