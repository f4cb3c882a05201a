"""A backbone with a head for new classes."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from finetune_kit import checks
from finetune_kit.backbones import types

HEAD = "head"
FEATURES = "pooled_features"


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A backbone, average pooling and a dense head, sharing their variables in three views.

    Attributes:
        backbone: The pretrained network.
        model: float32 [b, height, width, N] in [0, 255] to logits float32 [b, C].
        features: The same input to pooled features float32 [b, d].
        head: The dense layer from features to logits, named `head`.
    """

    backbone: types.Backbone
    model: keras.Model
    features: keras.Model
    head: keras.layers.Dense

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the stages from input to output, then `head`."""
        return (*(stage.name for stage in self.backbone.stages), HEAD)

    def layers_of(self, group: str) -> list[keras.layers.Layer]:
        """Returns the leaf layers of a stage or of the head, each once.

        Raises:
            ConfigError: No such group.
        """
        checks.one_of("group", group, self.groups)
        if group == HEAD:
            return [self.head]
        stage = next(stage for stage in self.backbone.stages if stage.name == group)
        found = [
            leaf for name in stage.layers for leaf in _leaves(self.backbone.model.get_layer(name))
        ]
        return list({id(leaf): leaf for leaf in found}.values())

    def predictor(self) -> keras.Model:
        """Returns the model that is saved: raw images of any size to probabilities.

        float32 [b, h, w, N] in [0, 255] to float32 [b, C] that sum to 1. It resizes as the kit's
        decoder does (which reduces large JPEGs before; see `data.decode.MARGIN` for what differs
        where they come at full size), holds Keras' own layers alone and was never compiled, so it
        loads wherever Keras is installed.
        """
        height, width, channels = self.model.inputs[0].shape[1:]
        raw = keras.Input((None, None, channels), name="image", dtype="float32")
        resize = keras.layers.Resizing(
            height, width, antialias=True, name="resize", dtype="float32"
        )
        # Keras' image layers hold that they train unless told otherwise, and so would every layer
        # behind them: BatchNorm would normalise with the batch at hand and forget its statistics.
        pixels = keras.ops.round(resize(raw, training=False))
        softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
        return keras.Model(raw, softmax(self.model(pixels)), name="classifier")


def attach_head(
    backbone: types.Backbone,
    num_classes: int,
    *,
    stages: int = 1,
    dropout: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """Returns the backbone with global average pooling and a fresh dense head.

    Args:
        backbone: The pretrained network.
        num_classes: C, at least 2.
        stages: The head sees the pooled features at the end of this many stages, counted from the
            last, side by side in the order of depth; 0 is all (Evci et al., 2022, "Head2Toe",
            section 3, without its selection of features).
        dropout: Share of features in [0, 1) that the head does not see in training.
        seed: Draws the head's weights (Glorot & Bengio, 2010, section 4.2.1) and the dropout.

    Raises:
        ConfigError: A value out of range, or the backbone has fewer stages.
    """
    checks.in_range("num_classes", num_classes, 2)
    checks.in_range("dropout", dropout, 0.0, 1.0, open_high=True)
    features = _pooled(backbone, stages)
    head = keras.layers.Dense(
        num_classes,
        name=HEAD,
        dtype="float32",
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
    )
    x = features
    if dropout:
        x = keras.layers.Dropout(dropout, seed=seed, name="head_dropout", dtype="float32")(x)
    pixels = backbone.model.inputs[0]
    return Classifier(backbone, keras.Model(pixels, head(x)), keras.Model(pixels, features), head)


def _pooled(backbone: types.Backbone, count: int) -> Any:
    """Returns the averages over the maps at the end of the last stages, float32 [b, d]."""
    if not 0 <= count <= len(backbone.stages):
        raise checks.ConfigError(
            f"The head sees the features of 1 to {len(backbone.stages)} stages of this network, or "
            f"of all with 0. {checks.received(stages=count)}"
        )
    last = backbone.model.outputs[0]
    others = backbone.stages[-count:-1]  # with 0, all but the last one
    if not others:
        return _average(FEATURES, last)
    pooled = [_average(f"pooled_{stage.name}", stage.output) for stage in others]
    pooled.append(_average(f"pooled_{backbone.stages[-1].name}", last))
    return keras.layers.Concatenate(name=FEATURES, dtype="float32")(pooled)


def _average(name: str, x: Any) -> Any:
    """Returns the average over the positions of a map [b, h, w, c], or of tokens [b, n, c]."""
    if len(x.shape) == 3:
        return keras.layers.GlobalAveragePooling1D(name=name, dtype="float32")(x)
    return keras.layers.GlobalAveragePooling2D(name=name, dtype="float32")(x)


def _leaves(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers below a layer that own variables or have no layers of their own."""
    children = list(layer._layers)
    if not children or layer._trainable_variables or layer._non_trainable_variables:
        yield layer
    for child in children:
        yield from _leaves(child)
