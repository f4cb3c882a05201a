"""Weights from elsewhere: a saved Keras model, or a safetensors file of torchvision or timm.

Both are matched by name and shape. What fits is loaded and what does not is reported; see `keys`.
"""

import pathlib
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import keys, kinds, torch_forms

# What decides what a layer of given weights computes.
COMPUTES = ("strides", "padding", "dilation_rate", "groups", "epsilon", "activation")
# Parts of a layer in a state dict of torch; BatchNorm's step counter is no weight.
COUNTER = "num_batches_tracked"
PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def read_safetensors(path: str) -> dict[str, np.ndarray]:
    """Returns name to tensor, in the file's own layout, float32.

    Raises:
        EnvironmentFault: The package safetensors is not installed.
        WeightsError: No such file, damaged, or a value that is not finite.
    """
    _refuse_absent(path)
    kinds.refuse_unreadable(path)
    import safetensors

    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # what is raised depends on where a file is damaged
        raise checks.WeightsError(
            f"A .safetensors file must be whole. Received: {path!r}, {_one_line(error)}"
        ) from error
    found = {
        name: tensor.astype(np.float32)
        for name, tensor in tensors.items()
        if not name.endswith(COUNTER)
    }
    _refuse_infinite(path, found.items())
    return found


def load_torch(
    model: keras.Model, form: torch_forms.Form, tensors: Mapping[str, np.ndarray]
) -> keys.KeyReport:
    """Loads a state dict of torch into a network that `torch_forms.as_torch` returned.

    Args:
        model: The network, which is changed.
        form: Of its family.
        tensors: What `read_safetensors` returned.

    Raises:
        WeightsError: The body of the file's network has layers that this one has not.
    """
    names = form.names(model)
    place, called, values = {}, {}, {}
    for layer, variable in keys.variables(model):
        key = f"{layer.name}/{variable.name}"
        place[key] = variable
        source = f"{names.get(layer.name, layer.name)}.{PARTS.get(variable.name, variable.name)}"
        called[key] = source
        if source in tensors:
            values[key] = _in_keras_layout(layer, tensors[source])
    taken = set(called.values())
    rest = {name: tensor for name, tensor in tensors.items() if name not in taken}
    body = {name.partition(".")[0] for name in names.values()}
    # A bn2 beside bn1 belongs to the head of timm's MobileNets; squeeze and excitation, say, would
    # be in the body, and all that this network needs would be there as well.
    foreign = [name for name in rest if name.partition(".")[0] in body]
    if foreign:
        raise checks.WeightsError(
            f"The file must be of {model.name} itself. Received: {len(foreign)} tensors that it "
            f"has no place for: {', '.join(foreign[: keys.EXAMPLES])}"
        )
    return keys.assign(model, {**values, **rest}, place, source_names=called)


def torch_head(
    report: keys.KeyReport, tensors: Mapping[str, np.ndarray], width: int
) -> keras.Model | None:
    """Returns the head of a state dict, from a map [b, h, w, c] to logits; None if it has another.

    It has one that is known where all that the network leaves unused is one dense layer on its map,
    which torchvision's and timm's networks average first.

    Args:
        report: What `load_torch` returned.
        tensors: What `read_safetensors` returned.
        width: Channels of the network's map, c.
    """
    kernels = [name for name in report.unused if tensors[name].ndim == 2]
    stem = kernels[0].removesuffix(".weight") if kernels else ""
    bias = f"{stem}.bias"
    if set(report.unused) - {bias} != {f"{stem}.weight"} or tensors[kernels[0]].shape[1] != width:
        return None
    kernel = tensors[kernels[0]].T
    given = [kernel, tensors[bias]] if bias in tensors else [kernel]
    dense = keras.layers.Dense(
        kernel.shape[1], use_bias=len(given) == 2, dtype="float32", name="predictions"
    )
    maps = keras.Input((None, None, width), dtype="float32")
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(maps)
    head = keras.Model(maps, dense(pooled))
    dense.set_weights(given)
    return head


def _in_keras_layout(layer: Any, tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor of torch in Keras' order of axes.

    Kernels [out, in, h, w] become [h, w, in, out], depthwise ones [c · m, 1, h, w] become
    [h, w, c, m].
    """
    if tensor.ndim != 4:
        return tensor
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        channels = tensor.shape[0] // layer.depth_multiplier
        return tensor.reshape(channels, -1, *tensor.shape[2:]).transpose(2, 3, 0, 1)
    return tensor.transpose(2, 3, 1, 0)


def read_keras(path: str) -> keras.Model:
    """Returns the model in a `.keras` file; runs no code that a file may hold.

    Raises:
        WeightsError: No such file, damaged, of layers that Keras does not know, or a value that is
            not finite.
        UntrustedFileError: The model holds Python code, such as a Lambda layer.
    """
    _refuse_absent(path)
    if not zipfile.is_zipfile(path):
        raise checks.WeightsError(
            f"A .keras file must be whole. Received: {path!r}, which is no archive"
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # by the kind of damage, Keras raises nearly anything
        if "safe_mode" in str(error):
            raise checks.UntrustedFileError(
                f"A model must be made of Keras layers alone. Received: {path!r}, which holds "
                "Python code."
            ) from error
        raise checks.WeightsError(
            f"A .keras file must be whole. Received: {path!r}, {_one_line(error)}"
        ) from error
    _refuse_infinite(
        path, ((v.path, keras.ops.convert_to_numpy(v)) for _, v in keys.variables(model))
    )
    return model


def load_keras(model: keras.Model, saved: keras.Model, path: str) -> keys.KeyReport:
    """Loads a saved model into a network whose layers have the same names.

    Names that Keras gave by counting, such as conv2d_7, are counted anew in both.

    Args:
        model: The network, which is changed.
        saved: What `read_keras` returned; may hold the network as a model within it.
        path: Of the file, for errors.

    Raises:
        WeightsError: Layers of one name compute differently, or two layers have one name.
    """
    own, theirs = _named(model), _named(saved)
    doubled = [name for name, count in Counter(name for name, _ in theirs).items() if count > 1]
    shared = [name for name in doubled if name in dict(own)]
    if shared:
        raise checks.WeightsError(
            f"A .keras file must hold each layer of {model.name} once. Received: {path!r} with "
            f"several of the name {shared[0]}"
        )
    _refuse_unlike(model, saved, dict(own), dict(theirs), path)
    place, values = (
        {f"{name}/{part}": v for name, layer in named for part, v in _own_by_name(layer).items()}
        for named in (own, theirs)
    )
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in values.items()}
    return keys.assign(model, arrays, place)


def _named(model: keras.Model) -> list[tuple[str, Any]]:
    """Returns (name, layer) of all layers, with names from Keras' counter counted anew."""
    counts: Counter[str] = Counter()
    named = []
    for layer in keys.layers(model):
        kind = type(layer).__name__.lower()
        stem = re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == kind:
            if _own(layer):
                named.append((f"{stem}:{counts[stem]}", layer))
                counts[stem] += 1
        elif not isinstance(layer, keras.Model):
            named.append((layer.name, layer))
    return named


def _own(layer: Any) -> list[Any]:
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _own_by_name(layer: Any) -> dict[str, Any]:
    """Returns the variables of a layer, those without a name of their own by their place."""
    return {
        f"variable:{i}" if re.fullmatch(r"variable(_\d+)?", v.name) else v.name: v
        for i, v in enumerate(_own(layer))
    }


def _refuse_unlike(
    model: keras.Model,
    saved: keras.Model,
    own: Mapping[str, Any],
    theirs: Mapping[str, Any],
    path: str,
) -> None:
    """Refuses weights that were trained for other strides, paddings, constants or pixels."""
    differences = [
        f"{name} has {part}={before[part]!r}, not {after[part]!r}"
        for name, layer in own.items()
        if name in theirs
        for before, after in [(theirs[name].get_config(), layer.get_config())]
        for part in COMPUTES
        if part in before and part in after and before[part] != after[part]
    ]
    scaled, scales = _scales(saved), _scales(model)
    if scaled and scaled != scales:
        differences.append(f"pixels are scaled by {scaled[0][0]}, not by {scales[0][0]}"
                           if scales else f"pixels are scaled by {scaled[0][0]}")  # fmt: skip
    if differences:
        raise checks.WeightsError(
            f"The weights must be those of {model.name}, computed alike. Received: {path!r}, in "
            f"which {'; '.join(differences[: keys.EXAMPLES])}"
            f"{'; …' if len(differences) > keys.EXAMPLES else ''}"
        )


def _scales(model: keras.Model) -> list[tuple[Any, Any]]:
    return [
        (layer.scale, layer.offset)
        for layer in keys.layers(model)
        if isinstance(layer, keras.layers.Rescaling)
    ]


def _refuse_absent(path: str) -> None:
    if not pathlib.Path(path).is_file():
        raise checks.WeightsError(
            f"--weights needs 'imagenet', 'none' or a weights file. Received: {path!r}, which does "
            "not exist."
        )


def _refuse_infinite(path: str, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    bad = next((name for name, tensor in tensors if not np.isfinite(tensor).all()), None)
    if bad is not None:
        raise checks.WeightsError(
            f"Weights must be finite. Received: {path!r} with NaN or infinity in {bad}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
