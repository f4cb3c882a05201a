"""Swin transformers: attention within windows of a map, at any resolution.

A stage of theirs is one layer in KerasHub, with its sizes fixed. Here it is taken apart into Keras'
own layers on maps [b, h, w, c], so that there are stages, every stage an end, and a saved model
needs Keras alone. The network is that of Liu et al., 2021, "Swin Transformer: Hierarchical Vision
Transformer using Shifted Windows", section 3.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.backbones import tokens

MASKED = -100.0  # added to what attention must not see; the authors' own constant


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a square map is cut into windows.

    Attributes:
        side: Of the map.
        window: Side of a window, at most that of the map.
        shift: By how much windows are moved against the map's corner; 0 where one holds it all.
    """

    side: int
    window: int
    shift: int

    @classmethod
    def of(cls, side: int, *, window: int, shifted: bool) -> "Windows":
        """Returns the windows of a map; one that is no larger than a window is one window."""
        fits = side <= window
        return cls(side, min(side, window), window // 2 if shifted and not fits else 0)

    @property
    def border(self) -> int:
        """Rows and columns by which the map is padded to whole windows."""
        return -self.side % self.window

    @property
    def along(self) -> int:
        """Windows along a side."""
        return (self.side + self.border) // self.window

    def mask(self) -> np.ndarray:
        """Returns what is added to attention, float32 [windows, 1, n, n].

        A shifted window at the border holds parts of both ends of the map, which must not see each
        other (section 3.2, "Efficient batch computation").
        """
        k, total = self.window, self.side + self.border
        edges = np.array([total - k, total - self.shift])
        part = np.searchsorted(edges, np.arange(total), side="right")
        parts = 3 * part[:, None] + part[None, :]
        cells = parts.reshape(self.along, k, self.along, k).transpose(0, 2, 1, 3)
        rows = cells.reshape(self.along**2, 1, k * k)
        return np.where(rows[..., None] == rows[..., None, :], 0.0, MASKED).astype(np.float32)

    def offsets(self, table: int) -> np.ndarray:
        """Returns the row of a table of relative positions for every pair of places, int32 [n * n].

        Args:
            table: Side of the windows that the table was made for; those of a smaller window are
                among theirs.
        """
        y, x = np.divmod(np.arange(self.window**2), self.window)
        dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
        rows = (dy + table - 1) * (2 * table - 1) + dx + table - 1
        return np.asarray(rows, np.int32).reshape(-1)


def is_swin(model: keras.Model) -> bool:
    """Returns whether a KerasHub model is a Swin transformer that `rebuilt` can take apart."""
    return type(model).__name__ == "SwinTransformerBackbone"


def rebuilt(model: keras.Model, x: Any, *, keep_weights: bool = True) -> Any:
    """Returns the map that a Swin transformer of KerasHub makes of images, by Keras' own layers.

    Args:
        model: `keras_hub.models.SwinTransformerBackbone`; nothing is shared with it.
        x: Symbolic images [b, s, s, 3], scaled.
        keep_weights: False draws new weights.

    Raises:
        ConfigError: The side of the images is no multiple of the patches'.
    """
    size, patch = int(x.shape[1]), int(model.patch_size)
    if size % patch:
        raise checks.ConfigError(
            f"{model.name} needs images whose side is a multiple of {patch} px. "
            + checks.received(image_size=size)
        )
    copier, embedding = tokens.Copier(keep_weights), model.patch_embedding
    x = copier.copy(embedding.proj, "patch_embedding")(x)
    if embedding.norm is not None:
        x = copier.copy(embedding.norm, "patch_norm")(x)
    x = copier.dropped(x, model.dropout_rate, "patches")
    for s, stage in enumerate(model.stages, start=1):
        for b, block in enumerate(stage.blocks):
            windows = Windows.of(
                int(x.shape[1]), window=int(model.window_size), shifted=bool(b % 2)
            )
            x = _block(block, x, windows, f"stage_{s}_block_{b + 1}", copier)
        if stage.downsample is not None:
            x = _merged(stage.downsample, x, f"stage_{s}_merge", copier)
    return copier.copy(model.norm, "norm")(x)


def _block(block: Any, x: Any, windows: Windows, name: str, copier: tokens.Copier) -> Any:
    """Returns what a block makes of a map: attention within windows, then two dense layers."""
    y = copier.copy(block.norm1, f"{name}_norm_1")(x)
    y = _attention(block.attn, y, windows, name, copier)
    x = keras.layers.Add(name=f"{name}_add_1")([x, _paths(block, y, f"{name}_path_1")])
    y = copier.copy(block.norm2, f"{name}_norm_2")(x)
    y = copier.copy(block.mlp.fc1, f"{name}_widen")(y)
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = copier.dropped(y, block.mlp.dropout_rate, f"{name}_wide")
    y = copier.copy(block.mlp.fc2, f"{name}_narrow")(y)
    y = copier.dropped(y, block.mlp.dropout_rate, f"{name}_narrowed")
    return keras.layers.Add(name=f"{name}_add_2")([x, _paths(block, y, f"{name}_path_2")])


def _paths(block: Any, x: Any, name: str) -> Any:
    """Returns a map behind stochastic depth (Huang et al., 2016): all of an image's, or nothing."""
    rate = getattr(block.drop_path, "drop_prob", 0.0)
    if not rate:
        return x
    return keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=name)(x)


def _attention(attention: Any, x: Any, windows: Windows, name: str, copier: tokens.Copier) -> Any:
    """Returns attention of every place to those of its window, [b, h, w, c]."""
    border, shift = windows.border, windows.shift
    if border:
        x = keras.layers.ZeroPadding2D(((0, border), (0, border)), name=f"{name}_pad")(x)
    if shift:
        x = keras.ops.roll(x, (-shift, -shift), axis=(1, 2))
    x = _cut(x, windows)
    x = copier.copy(attention.qkv, f"{name}_qkv")(x)
    query, key, value = (
        _by_head(part, attention.num_heads) for part in keras.ops.split(x, 3, axis=-1)
    )
    products = keras.ops.matmul(query * attention.scale, keras.ops.transpose(key, (0, 1, 2, 4, 3)))
    products = products + _bias(attention, query, windows, name, copier)
    if shift:
        products = products + windows.mask()
    weights = keras.layers.Softmax(name=f"{name}_softmax")(products)
    weights = copier.dropped(weights, attention.attn_drop_rate, f"{name}_attention")
    x = keras.ops.transpose(keras.ops.matmul(weights, value), (0, 1, 3, 2, 4))
    x = keras.ops.reshape(x, (-1, *x.shape[1:3], x.shape[3] * x.shape[4]))
    x = copier.copy(attention.proj, f"{name}_attended")(x)
    x = _joined(copier.dropped(x, attention.proj_drop_rate, f"{name}_projected"), windows)
    if shift:
        x = keras.ops.roll(x, (shift, shift), axis=(1, 2))
    if border:
        x = keras.layers.Cropping2D(((0, border), (0, border)), name=f"{name}_crop")(x)
    return x


def _cut(x: Any, windows: Windows) -> Any:
    """Returns a map [b, h, w, c] as its windows, [b, windows, n, c]."""
    along, k, width = windows.along, windows.window, int(x.shape[-1])
    x = keras.ops.reshape(x, (-1, along, k, along, k, width))
    x = keras.ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return keras.ops.reshape(x, (-1, along * along, k * k, width))


def _joined(x: Any, windows: Windows) -> Any:
    """Returns windows as the map that they are of."""
    along, k, width = windows.along, windows.window, int(x.shape[-1])
    x = keras.ops.reshape(x, (-1, along, along, k, k, width))
    x = keras.ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return keras.ops.reshape(x, (-1, along * k, along * k, width))


def _by_head(x: Any, heads: int) -> Any:
    """Returns [b, windows, n, c] as [b, windows, heads, n, c / heads]."""
    count, n, width = (int(size) for size in x.shape[1:])
    x = keras.ops.reshape(x, (-1, count, n, heads, width // heads))
    return keras.ops.transpose(x, (0, 1, 3, 2, 4))


def _bias(attention: Any, query: Any, windows: Windows, name: str, copier: tokens.Copier) -> Any:
    """Returns the bias of every pair of places in a window, [b, 1, heads, n, n]."""
    rows, heads = attention.relative_position_bias_table.shape
    layer = keras.layers.Embedding(
        rows, heads, name=f"{name}_position_bias",
        embeddings_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
    )  # fmt: skip
    n = windows.window**2
    # A graph begins at its images, so the rows are a zero of each image and a constant.
    zero = keras.ops.cast(keras.ops.zeros_like(keras.ops.mean(query, axis=(1, 2, 3, 4))), "int32")
    offsets = windows.offsets(int(attention.win_h))
    bias = layer(keras.ops.expand_dims(zero, -1) + offsets)
    copier.fill(layer, [np.asarray(attention.relative_position_bias_table)])
    bias = keras.ops.transpose(keras.ops.reshape(bias, (-1, n, n, heads)), (0, 3, 1, 2))
    return keras.ops.expand_dims(bias, 1)


def _merged(merging: Any, x: Any, name: str, copier: tokens.Copier) -> Any:
    """Returns a map of half the side and twice the width: four neighbours become one."""
    side, width = int(x.shape[1]), int(x.shape[-1])
    if side % 2:
        x = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(x)
    half = -(-side // 2)
    x = keras.ops.reshape(x, (-1, half, 2, half, 2, width))
    # Columns change more slowly than rows among the four.
    x = keras.ops.transpose(x, (0, 1, 3, 4, 2, 5))
    x = keras.ops.reshape(x, (-1, half, half, 4 * width))
    x = copier.copy(merging.norm, f"{name}_norm")(x)
    return copier.copy(merging.reduction, f"{name}_reduction")(x)
