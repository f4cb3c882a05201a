"""Vision transformers: rows of tokens in place of maps, at any resolution.

The encoder of a transformer is one layer in KerasHub. Here it is taken apart into Keras' own
layers, so that it has stages, every stage an end, and a saved model needs Keras alone.
"""

import math
from typing import Any

import keras
import numpy as np

from finetune_kit import checks
from finetune_kit.data import sizes

Grid = tuple[int, int]  # patches, or windows, below each other and beside each other


def as_map(tokens: Any, grid: Grid | None = None) -> Any:
    """Returns the patches of a row of tokens as a map.

    Args:
        tokens: Symbolic [b, p + h * w, c]: p tokens that stand for no place, such as those of
            classes, and then the patches, row by row.
        grid: (h, w); None is the largest square that there are tokens for.

    Returns:
        [b, h, w, c].
    """
    count, width = (int(n) for n in tokens.shape[1:])
    high, wide = grid or (math.isqrt(count),) * 2
    others = count - high * wide
    if others:
        tokens = keras.layers.Cropping1D((others, 0), name="patches")(tokens)
    return keras.layers.Reshape((high, wide, width), name="map")(tokens)


def grid_of(model: keras.Model, x: Any, patch: Grid) -> Grid:
    """Returns how many patches are below each other and beside each other.

    Args:
        model: For whose name it is.
        x: Symbolic images [b, h, w, 3].
        patch: Height and width of a patch.

    Raises:
        ConfigError: A side of the images is no multiple of the patches'.
    """
    size = (int(x.shape[1]), int(x.shape[2]))
    if size[0] % patch[0] or size[1] % patch[1]:
        raise checks.ConfigError(
            f"{model.name} needs images whose side is a multiple of {sizes.shown(patch)} px. "
            + checks.received(image_size=sizes.canonical(size))
        )
    return size[0] // patch[0], size[1] // patch[1]


def interpolated(embeddings: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns position embeddings for another number of patches, [p + h * w, c].

    The patches' embeddings are resized as an image, bicubically (Dosovitskiy et al., 2021, "An
    Image is Worth 16x16 Words", section 3.2; bicubic as Touvron et al., 2021, "Training
    data-efficient image transformers", section 3), those of other tokens are kept.

    Args:
        embeddings: float [p + g * g, c].
        grid: (h, w).
    """
    own = math.isqrt(len(embeddings))
    if grid == (own, own):
        return embeddings
    others, patches = np.split(embeddings, [len(embeddings) - own * own])
    square = patches.reshape(own, own, -1)
    resized = keras.ops.image.resize(square, grid, interpolation="bicubic", antialias=True)
    flat = np.asarray(keras.ops.convert_to_numpy(resized)).reshape(grid[0] * grid[1], -1)
    return np.concatenate([others, flat])


def is_known(model: keras.Model) -> bool:
    """Returns whether a KerasHub model is a transformer that `rebuilt` can take apart."""
    return type(model).__name__ in ("ViTBackbone", "DeiTBackbone")


def rebuilt(model: keras.Model, x: Any, *, keep_weights: bool = True) -> Any:
    """Returns the map of patches that a ViT or DeiT of KerasHub makes of images.

    It is made by Keras' own layers. Positions are those of a square, interpolated to the patches.

    The embeddings of class tokens are added to those of their positions, which gives the same.

    Args:
        model: `keras_hub.models.ViTBackbone` or `DeiTBackbone`; nothing is shared with it.
        x: Symbolic images [b, h, w, 3], scaled.
        keep_weights: False draws new weights.

    Raises:
        ConfigError: A side of the images is no multiple of the patches'.
    """
    _, embedding, encoder = model.layers
    copier = Copier(keep_weights)
    grid = grid_of(model, x, (int(model.patch_size[0]), int(model.patch_size[1])))
    x = _embedded(embedding, x, grid, copier)
    x = copier.dropped(x, encoder.dropout_rate, "tokens")
    for number, block in enumerate(encoder.encoder_layers, start=1):
        x = _block(block, x, f"block_{number}", copier)
    return as_map(copier.copy(encoder.layer_norm, "norm")(x), grid)


def _embedded(embedding: Any, x: Any, grid: Grid, copier: "Copier") -> Any:
    """Returns patches with class tokens before them, and positions added."""
    x = copier.copy(embedding.patch_embedding, "patch_embedding")(x)
    width = int(x.shape[-1])
    x = keras.layers.Reshape((grid[0] * grid[1], width), name="tokens")(x)
    names = ("class_token", "distillation_token")
    first = [np.asarray(getattr(embedding, n))[0] for n in names if hasattr(embedding, n)]
    position = embedding.position_embedding
    values = np.asarray(getattr(position, "embeddings", position))
    values = interpolated(values.reshape(-1, width), grid)
    values[: len(first)] += np.concatenate(first) if first else 0
    if first:
        x = keras.layers.ZeroPadding1D((len(first), 0), name="class_tokens")(x)
    layer = keras.layers.Embedding(
        len(values), width, name="position_embedding",
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
    )  # fmt: skip
    places = keras.ops.ones_like(keras.ops.mean(x, axis=-1), dtype="int32")
    x = keras.layers.Add(name="embedded")([x, layer(keras.ops.cumsum(places, axis=1) - 1)])
    copier.fill(layer, [values])
    return x


def _block(block: Any, x: Any, name: str, copier: "Copier") -> Any:
    """Returns what a block of an encoder makes of tokens [b, n, c]."""
    after = getattr(block, "output_layer", None)
    widen, narrow = (
        (block.mlp.dense, after.dense) if after else (block.mlp.dense_1, block.mlp.dense_2)
    )
    rate = block.dropout_rate
    y = copier.copy(block.layer_norm_1, f"{name}_norm_1")(x)
    y = copier.copy(block.mha, f"{name}_attention")(y, y)
    y = y if after else copier.dropped(y, rate, f"{name}_attended")
    x = keras.layers.Add(name=f"{name}_add_1")([x, y])
    y = copier.copy(block.layer_norm_2, f"{name}_norm_2")(x)
    y = copier.copy(widen, f"{name}_widen")(y)
    y = y if after else copier.dropped(y, rate, f"{name}_wide")
    y = copier.copy(narrow, f"{name}_narrow")(y)
    return keras.layers.Add(name=f"{name}_add_2")([x, copier.dropped(y, rate, f"{name}_narrowed")])


class Copier:
    """Makes layers like others, in Keras' present precision."""

    def __init__(self, keep_weights: bool) -> None:
        self._keep_weights = keep_weights

    def copy(self, layer: Any, name: str) -> Any:
        """Returns a function that calls a copy of a layer, which then has its weights."""
        policy = keras.mixed_precision.dtype_policy().name
        made = type(layer).from_config({**layer.get_config(), "name": name, "dtype": policy})

        def call(*inputs: Any) -> Any:
            output = made(*inputs)
            self.fill(made, layer.get_weights())
            return output

        return call

    def fill(self, layer: keras.layers.Layer, values: list[np.ndarray]) -> None:
        """Sets weights, unless they are to stay as drawn."""
        if self._keep_weights:
            layer.set_weights(values)

    def dropped(self, x: Any, rate: float, name: str) -> Any:
        """Returns a tensor behind dropout, itself where nothing is dropped."""
        return keras.layers.Dropout(rate, name=f"{name}_dropout")(x) if rate else x
