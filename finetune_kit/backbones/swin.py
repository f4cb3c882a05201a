"""Swin transformers: attention within windows of a map, at any resolution.

A stage of theirs is one layer in KerasHub, with its sizes fixed. Here it is taken apart into Keras'
own layers on maps [b, h, w, c], so that there are stages, every stage an end, and a saved model
needs Keras alone. The network is that of Liu et al., 2021, "Swin Transformer: Hierarchical Vision
Transformer using Shifted Windows", section 3.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from finetune_kit.backbones import tokens

MASKED = -100.0  # added to what attention must not see; the authors' own constant


@dataclasses.dataclass(frozen=True)
class Cuts:
    """How a side of a map is cut into windows.

    Attributes:
        side: Of the map.
        window: Side of a window, at most that of the map.
        shift: By how much windows are moved against the map's border; 0 where one holds it all.
    """

    side: int
    window: int
    shift: int

    @classmethod
    def of(cls, side: int, *, window: int, shifted: bool) -> "Cuts":
        """Returns the windows of a side; one that is no longer than a window is one window."""
        fits = side <= window
        return cls(side, min(side, window), window // 2 if shifted and not fits else 0)

    @property
    def border(self) -> int:
        """Places by which the map is padded to whole windows."""
        return -self.side % self.window

    @property
    def along(self) -> int:
        """Windows along the side."""
        return (self.side + self.border) // self.window

    @property
    def parts(self) -> np.ndarray:
        """Which part of the map each place of each window belongs to, int [along, window]."""
        total = self.side + self.border
        edges = np.array([total - self.window, total - self.shift])
        return np.searchsorted(edges, np.arange(total), side="right").reshape(self.along, -1)


@dataclasses.dataclass(frozen=True)
class Windows:
    """How a map is cut into windows: along its height and along its width."""

    high: Cuts
    wide: Cuts

    @classmethod
    def of(cls, sides: tokens.Grid, *, window: int, shifted: bool) -> "Windows":
        """Returns the windows of a map of (height, width)."""
        return cls(*(Cuts.of(side, window=window, shifted=shifted) for side in sides))

    @property
    def borders(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns by which the map is padded, as Keras' layers take them."""
        return (0, self.high.border), (0, self.wide.border)

    @property
    def shifts(self) -> tuple[int, int]:
        """By how much windows are moved, down and to the right."""
        return self.high.shift, self.wide.shift

    @property
    def grid(self) -> tokens.Grid:
        """Windows below each other and beside each other."""
        return self.high.along, self.wide.along

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of a window."""
        return self.high.window, self.wide.window

    def mask(self) -> np.ndarray:
        """Returns what is added to attention, float32 [windows, 1, n, n].

        A shifted window at the border holds parts of both ends of the map, which must not see each
        other (section 3.2, "Efficient batch computation").
        """
        parts = 3 * self.high.parts[:, None, :, None] + self.wide.parts[None, :, None, :]
        rows = parts.reshape(math.prod(self.grid), 1, math.prod(self.window))
        return np.where(rows[..., None] == rows[..., None, :], 0.0, MASKED).astype(np.float32)

    def offsets(self, table: int) -> np.ndarray:
        """Returns the row of a table of relative positions for every pair of places, int32 [n * n].

        Args:
            table: Side of the windows that the table was made for; those of a smaller window are
                among theirs.
        """
        y, x = np.divmod(np.arange(math.prod(self.window)), self.wide.window)
        dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
        rows = (dy + table - 1) * (2 * table - 1) + dx + table - 1
        return np.asarray(rows, np.int32).reshape(-1)


def is_known(model: keras.Model) -> bool:
    """Returns whether a KerasHub model is a Swin transformer that `rebuilt` can take apart."""
    return type(model).__name__ == "SwinTransformerBackbone"


def rebuilt(model: keras.Model, x: Any, *, keep_weights: bool = True) -> Any:
    """Returns the map that a Swin transformer of KerasHub makes of images, by Keras' own layers.

    Args:
        model: `keras_hub.models.SwinTransformerBackbone`; nothing is shared with it.
        x: Symbolic images [b, h, w, 3], scaled.
        keep_weights: False draws new weights.

    Raises:
        ConfigError: A side of the images is no multiple of the patches'.
    """
    tokens.grid_of(model, x, (int(model.patch_size),) * 2)
    copier, embedding = tokens.Copier(keep_weights), model.patch_embedding
    x = copier.copy(embedding.proj, "patch_embedding")(x)
    if embedding.norm is not None:
        x = copier.copy(embedding.norm, "patch_norm")(x)
    x = copier.dropped(x, model.dropout_rate, "patches")
    for s, stage in enumerate(model.stages, start=1):
        for b, block in enumerate(stage.blocks):
            sides = (int(x.shape[1]), int(x.shape[2]))
            windows = Windows.of(sides, window=int(model.window_size), shifted=bool(b % 2))
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
    if any(windows.borders[0] + windows.borders[1]):
        x = keras.layers.ZeroPadding2D(windows.borders, name=f"{name}_pad")(x)
    down, right = windows.shifts
    if down or right:
        x = keras.ops.roll(x, (-down, -right), axis=(1, 2))
    x = _cut(x, windows)
    x = copier.copy(attention.qkv, f"{name}_qkv")(x)
    query, key, value = (
        _by_head(part, attention.num_heads) for part in keras.ops.split(x, 3, axis=-1)
    )
    products = keras.ops.matmul(query * attention.scale, keras.ops.transpose(key, (0, 1, 2, 4, 3)))
    products = products + _bias(attention, query, windows, name, copier)
    if down or right:
        products = products + windows.mask()
    weights = keras.layers.Softmax(name=f"{name}_softmax")(products)
    weights = copier.dropped(weights, attention.attn_drop_rate, f"{name}_attention")
    x = keras.ops.transpose(keras.ops.matmul(weights, value), (0, 1, 3, 2, 4))
    x = keras.ops.reshape(x, (-1, *x.shape[1:3], x.shape[3] * x.shape[4]))
    x = copier.copy(attention.proj, f"{name}_attended")(x)
    x = _joined(copier.dropped(x, attention.proj_drop_rate, f"{name}_projected"), windows)
    if down or right:
        x = keras.ops.roll(x, (down, right), axis=(1, 2))
    if any(windows.borders[0] + windows.borders[1]):
        x = keras.layers.Cropping2D(windows.borders, name=f"{name}_crop")(x)
    return x


def _cut(x: Any, windows: Windows) -> Any:
    """Returns a map [b, h, w, c] as its windows, [b, windows, n, c]."""
    (rows, columns), (high, wide), width = windows.grid, windows.window, int(x.shape[-1])
    x = keras.ops.reshape(x, (-1, rows, high, columns, wide, width))
    x = keras.ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return keras.ops.reshape(x, (-1, rows * columns, high * wide, width))


def _joined(x: Any, windows: Windows) -> Any:
    """Returns windows as the map that they are of."""
    (rows, columns), (high, wide), width = windows.grid, windows.window, int(x.shape[-1])
    x = keras.ops.reshape(x, (-1, rows, columns, high, wide, width))
    x = keras.ops.transpose(x, (0, 1, 3, 2, 4, 5))
    return keras.ops.reshape(x, (-1, rows * high, columns * wide, width))


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
    n = math.prod(windows.window)
    # A graph begins at its images, so the rows are a zero of each image and a constant.
    zero = keras.ops.cast(keras.ops.zeros_like(keras.ops.mean(query, axis=(1, 2, 3, 4))), "int32")
    offsets = windows.offsets(int(attention.win_h))
    bias = layer(keras.ops.expand_dims(zero, -1) + offsets)
    copier.fill(layer, [np.asarray(attention.relative_position_bias_table)])
    bias = keras.ops.transpose(keras.ops.reshape(bias, (-1, n, n, heads)), (0, 3, 1, 2))
    return keras.ops.expand_dims(bias, 1)


def _merged(merging: Any, x: Any, name: str, copier: tokens.Copier) -> Any:
    """Returns a map of half the sides and twice the channels: four neighbours become one."""
    high, wide, width = (int(n) for n in x.shape[1:])
    if high % 2 or wide % 2:
        x = keras.layers.ZeroPadding2D(((0, high % 2), (0, wide % 2)), name=f"{name}_pad")(x)
    rows, columns = -(-high // 2), -(-wide // 2)
    x = keras.ops.reshape(x, (-1, rows, 2, columns, 2, width))
    # Columns change more slowly than rows among the four.
    x = keras.ops.transpose(x, (0, 1, 3, 4, 2, 5))
    x = keras.ops.reshape(x, (-1, rows, columns, 4 * width))
    x = copier.copy(merging.norm, f"{name}_norm")(x)
    return copier.copy(merging.reduction, f"{name}_reduction")(x)
