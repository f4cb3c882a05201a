"""A network against the conventions of the source text, layer by layer (S1, S4, S5).

Synopsis:

    layers = auditing.audit(backbone.model)
    summary = auditing.summarise(layers)
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import conventions, fields, flops

POOLINGS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One call of a layer.

    Attributes:
        name: Of the layer; inside of a nested model, behind the names of the models.
        kind: Its class.
        kernel: Taps along height and width; None without a window.
        strides: Positions between two windows; None without a window.
        padding: "same", "valid", or the zeros that a layer before it adds, as in "3+3"; "" without
            a window.
        filters: Channels that go out; None where no rule speaks of them.
        parameters: Numbers that it holds, counted at its first call alone.
        flops: Operations for one image; a multiply-add counts as two.
        receptive_field: Pixels of the image that a value sees along height and width, as if the
            image had no border; infinite behind a global pooling, None where it is not known.
        output: Shape without the batch; None for a side that is not known.
        judged: Whether a rule speaks of this layer.
        departures: Where it does not follow the rules.
    """

    name: str
    kind: str
    kernel: tuple[int, int] | None
    strides: tuple[int, int] | None
    padding: str
    filters: int | None
    parameters: int
    flops: int
    receptive_field: tuple[float, float] | None
    output: tuple[int | None, ...]
    judged: bool = False
    departures: tuple[conventions.Departure, ...] = ()


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network in a few numbers.

    Attributes:
        layers, judged, departing: Layers in all, those that a rule speaks of, those that depart.
        parameters, flops: Sums over all layers.
        departing_flops: Operations of the layers that depart.
        receptive_field: Largest finite field of a layer, height and width; (1, 1) without one.
    """

    layers: int
    judged: int
    departing: int
    parameters: int
    flops: int
    departing_flops: int
    receptive_field: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers that depart alike.

    Attributes:
        departure: What they share.
        layers: How many they are.
        flops: Operations of all of them.
    """

    departure: conventions.Departure
    layers: int
    flops: int


def audit(model: keras.Model) -> tuple[Layer, ...]:
    """Returns the layers of a functional model from input to output, each judged by the rules.

    Nested functional models are opened; other layers that hold layers are one row. Layers behind a
    global pooling, as in squeeze and excitation, convolve no map and are not judged.

    Raises:
        ConfigError: The model is no functional one, or a layer's map has no known side.
    """
    if not getattr(model, "_nodes_by_depth", None):
        raise checks.ConfigError(
            "An audit needs a functional model. "
            + checks.received(model=model.name, type=type(model).__name__)
        )
    walk = _Walk()
    for tensor in model.inputs:
        walk.fields[id(tensor)] = fields.PIXEL if len(tensor.shape) == 4 else None
    return tuple(walk.through(model, ""))


def summarise(layers: Sequence[Layer]) -> Summary:
    """Returns the sums over the layers of an audit."""
    finite = [f for f in (x.receptive_field for x in layers) if f and all(map(math.isfinite, f))]
    return Summary(
        layers=len(layers),
        judged=sum(layer.judged for layer in layers),
        departing=sum(bool(layer.departures) for layer in layers),
        parameters=sum(layer.parameters for layer in layers),
        flops=sum(layer.flops for layer in layers),
        departing_flops=sum(layer.flops for layer in layers if layer.departures),
        receptive_field=max(finite, default=(1, 1)),
    )


def groups(layers: Sequence[Layer]) -> tuple[Group, ...]:
    """Returns what departs alike, that with the most operations first."""
    members: dict[conventions.Departure, list[Layer]] = {}
    for layer in layers:
        for departure in layer.departures:
            members.setdefault(departure, []).append(layer)
    found = [Group(d, len(own), sum(x.flops for x in own)) for d, own in members.items()]
    return tuple(sorted(found, key=lambda group: (-group.flops, -group.layers)))


class _Walk:
    """What is known on the way through a graph.

    Attributes:
        fields: Identity of a tensor to its receptive field.
        padded: Identity of a padded tensor to the shape before, and the zeros of each side.
        counted: Identities of the layers whose parameters were counted.
    """

    def __init__(self) -> None:
        self.fields: dict[int, fields.Field | None] = {}
        self.padded: dict[int, tuple[tuple[Any, ...], Any]] = {}
        self.counted: set[int] = set()

    def through(self, model: Any, prefix: str) -> Iterator[Layer]:
        """Yields the layers of a functional model whose inputs have fields already."""
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                inner = _functional(node.operation)
                if inner is not None:
                    self._enter(inner, node)
                    yield from self.through(inner, f"{prefix}{node.operation.name}/")
                    for outside, inside in zip(node.outputs, inner.outputs, strict=True):
                        self.fields[id(outside)] = self.fields[id(inside)]
                else:
                    self._note(node)
                    if isinstance(node.operation, keras.layers.Layer):
                        yield self._layer(node, prefix)

    def _enter(self, inner: Any, node: Any) -> None:
        for inside, outside in zip(inner.inputs, node.input_tensors, strict=True):
            self.fields[id(inside)] = self.fields.get(id(outside))

    def _note(self, node: Any) -> None:
        """Notes the fields of a node's outputs, and padding that belongs to the next window."""
        tensors = node.input_tensors
        if not tensors:
            return
        shape = tuple(tensors[0].shape)
        field = fields.after(node.operation, shape, [self.fields.get(id(t)) for t in tensors])
        for output in node.outputs:
            self.fields[id(output)] = field
        if isinstance(node.operation, keras.layers.ZeroPadding2D):
            self.padded[id(node.outputs[0])] = (shape, node.operation.padding)

    def _layer(self, node: Any, prefix: str) -> Layer:
        layer, output = node.operation, node.outputs[0]
        field = self.fields.get(id(output))
        first = id(layer) not in self.counted
        self.counted.add(id(layer))
        row = Layer(
            name=prefix + layer.name,
            kind=type(layer).__name__,
            kernel=None,
            strides=None,
            padding="",
            filters=None,
            parameters=layer.count_params() if first else 0,
            flops=flops.flops(layer, output),
            receptive_field=field and (_whole(field[0].size), _whole(field[1].size)),
            output=tuple(output.shape[1:]),
        )
        return dataclasses.replace(row, **self._judgement(layer, node))

    def _judgement(self, layer: Any, node: Any) -> dict[str, Any]:
        """Returns the attributes of a row that the rules speak of."""
        output = node.outputs[0]
        if isinstance(layer, keras.layers.InputLayer):
            sides = tuple(output.shape[1:3])
            known = len(output.shape) == 4 and all(sides)
            return {
                "judged": known,
                "departures": conventions.of_image(sides) if known else (),
            }
        tensor = node.input_tensors[0]
        field = self.fields.get(id(tensor))
        if len(tensor.shape) != 4 or _is_squeezed(tensor, field):
            return {}
        if isinstance(layer, keras.layers.Dense):
            return _judged_dense(layer, tensor, output)
        window = fields.window_of(layer, tensor.shape)
        if window is None:
            return {}
        shape, padding = tuple(tensor.shape), layer.padding
        if padding == "valid" and id(tensor) in self.padded:
            shape, zeros = self.padded[id(tensor)]
            padding = "x".join(dict.fromkeys(f"{a}+{b}" for a, b in zeros))
        return _judged_window(layer, window, shape, padding, output)


def _judged_dense(layer: Any, tensor: Any, output: Any) -> dict[str, Any]:
    """Judges a dense layer on a map, which is a 1x1 convolution (Lin et al., 2014, section 3.1)."""
    geometry = conventions.Geometry(
        (1, 1), (1, 1), (1, 1), tuple(tensor.shape[1:3]), tuple(output.shape[1:3])
    )
    return {
        "kernel": (1, 1),
        "strides": (1, 1),
        "padding": "same",
        "filters": layer.units,
        "judged": True,
        "departures": conventions.of_convolution(geometry, layer.units),
    }


def _judged_window(
    layer: Any, window: fields.Window, shape: Sequence[Any], padding: str, output: Any
) -> dict[str, Any]:
    channels = int(output.shape[-1])
    geometry = conventions.Geometry(
        window.kernel, window.strides, window.dilation,
        before=tuple(shape[1:3]),
        after=tuple(output.shape[1:3]),
    )  # fmt: skip
    pools = isinstance(layer, POOLINGS)
    return {
        "kernel": window.kernel,
        "strides": window.strides,
        "padding": padding,
        "filters": None if pools else channels,
        "judged": True,
        "departures": conventions.of_pooling(geometry)
        if pools
        else conventions.of_convolution(geometry, channels),
    }


def _functional(operation: Any) -> Any | None:
    """Returns the graph of a nested model, None for a layer or a model without one."""
    if not isinstance(operation, keras.Model):
        return None
    graph = getattr(operation, "_functional", None) or operation  # that of a Sequential model
    return graph if getattr(graph, "_nodes_by_depth", None) else None


def _is_squeezed(tensor: Any, field: fields.Field | None) -> bool:
    """Returns whether a map [b, 1, 1, c] is that of a global pooling."""
    return tuple(tensor.shape[1:3]) == (1, 1) and field is not None and fields.sees_all(field)


def _whole(size: float) -> float:
    return size if math.isinf(size) else int(size)
