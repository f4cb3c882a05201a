"""Operations counted by hand, and those that the papers report."""

import keras
import pytest
from keras import layers

from finetune_kit.backbones import flops


def of(layer, *shape):
    """Returns the operations of a layer that has been called on one image of a shape."""
    layer(keras.Input(shape))
    return flops.flops(layer)


@pytest.mark.parametrize(
    ("layer", "shape", "operations"),
    [
        # Outputs x multiply-adds for each x 2.
        (layers.Conv2D(8, 3, padding="same"), (10, 12, 4), (10 * 12 * 8) * (3 * 3 * 4) * 2),
        (layers.Conv2D(8, (3, 5)), (10, 12, 4), (8 * 8 * 8) * (3 * 5 * 4) * 2),
        (layers.Conv2D(8, 3, 2, "same"), (9, 9, 4), (5 * 5 * 8) * (3 * 3 * 4) * 2),
        (layers.Conv2D(8, 3, dilation_rate=2), (9, 9, 4), (5 * 5 * 8) * (3 * 3 * 4) * 2),
        (layers.Conv2D(8, 7, padding="same", groups=4), (6, 6, 4), (6 * 6 * 8) * (7 * 7 * 1) * 2),
        (layers.Conv1D(8, 3), (10, 4), (8 * 8) * (3 * 4) * 2),
        (layers.Conv3D(2, 3), (5, 5, 5, 4), (27 * 2) * (27 * 4) * 2),
        (layers.DepthwiseConv2D(3, padding="same"), (10, 12, 4), (10 * 12 * 4) * 9 * 2),
        (
            layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=3),
            (8, 8, 4),
            (4 * 4 * 12) * 9 * 2,
        ),
        (layers.DepthwiseConv1D(3), (10, 4), (8 * 4) * 3 * 2),
        (
            layers.SeparableConv2D(8, 3, 2, "same", depth_multiplier=2),
            (8, 8, 4),
            ((4 * 4 * 8) * 9 + (4 * 4 * 8) * 8) * 2,
        ),
        (layers.SeparableConv1D(8, 3), (10, 4), ((8 * 4) * 3 + (8 * 8) * 4) * 2),
        (layers.Dense(7), (5,), 5 * 7 * 2),
        (layers.Dense(7), (4, 4, 5), 16 * 5 * 7 * 2),
        (layers.BatchNormalization(), (10, 12, 4), 0),
        (layers.ReLU(), (10, 12, 4), 0),
        (layers.MaxPooling2D(), (10, 12, 4), 0),
    ],
)
def test_operations_of_a_layer(layer, shape, operations) -> None:
    assert of(layer, *shape) == operations


def test_layers_inside_models_and_sequences_are_counted() -> None:
    inner = keras.Sequential([layers.ReLU(), layers.Conv2D(4, 2, strides=2)], name="down")
    pixels = keras.Input((8, 8, 3))
    x = inner(layers.Conv2D(3, 1)(pixels))
    by_hand = 64 * 3 * 3 * 2 + (16 * 4) * (4 * 3) * 2
    assert flops.flops(keras.Model(pixels, x)) == by_hand
    outer = keras.Input((8, 8, 3))
    nested = keras.Model(outer, layers.Flatten()(keras.Model(pixels, x)(outer)))
    assert sum(map(flops.flops, nested.layers)) == by_hand


def whole(constructor, **arguments):
    """Returns the operations of a network of keras.applications, in units of 1e9."""
    model = getattr(keras.applications, constructor)(weights=None, **arguments)
    return sum(map(flops.flops, model.layers)) / 1e9


def test_vgg16_without_head_takes_30_7_billion() -> None:
    """Thirteen 3x3 convolutions at 224 to 14 pixels (Simonyan & Zisserman, 2015, table 1)."""
    widths = [(224, 3, 64), (224, 64, 64), (112, 64, 128), (112, 128, 128), (56, 128, 256)]
    widths += [(56, 256, 256)] * 2 + [(28, 256, 512)] + [(28, 512, 512)] * 2 + [(14, 512, 512)] * 3
    by_hand = sum(2 * side**2 * 9 * a * b for side, a, b in widths) / 1e9
    assert by_hand == pytest.approx(30.7, abs=0.05)
    assert whole("VGG16", include_top=False, input_shape=(224, 224, 3)) == by_hand


def test_mobilenet_takes_1_14_billion() -> None:
    """Howard et al., 2017, table 8: 569 million multiply-adds."""
    assert whole("MobileNet", input_shape=(224, 224, 3)) == pytest.approx(2 * 0.569, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("constructor", "side", "billions"),
    [
        # Multiply-adds: He et al., 2016, table 1 (3.8, with stride in the 1x1); Sandler et al.,
        # 2018, table 4; Huang et al., 2017, figure 3; Chollet, 2017; Liu et al., 2022, table 9.
        ("ResNet50", 224, 3.86),
        ("MobileNetV2", 224, 0.300),
        ("DenseNet121", 224, 2.83),
        ("Xception", 299, 8.4),
        ("ConvNeXtTiny", 224, 4.46),
    ],
)
def test_other_networks_take_what_their_papers_say(constructor, side, billions) -> None:
    counted = whole(constructor, input_shape=(side, side, 3))
    assert counted == pytest.approx(2 * billions, rel=0.03)


def test_attention_of_vit_b_16() -> None:
    """torchvision's table of pretrained weights has 17.56 billion multiply-adds at 224 px."""
    attention, wide, narrow = (
        layers.MultiHeadAttention(12, 64),
        layers.Dense(3072),
        layers.Dense(768),
    )
    x = keras.Input((197, 768))
    narrow(wide(attention(x, x)))
    block = sum(map(flops.flops, (attention, wide, narrow)))
    patches = of(layers.Conv2D(768, 16, 16), 224, 224, 3)
    assert (12 * block + patches) / 2 == pytest.approx(17.56e9, rel=5e-4)


def test_attention_with_values_of_another_width() -> None:
    attention = layers.MultiHeadAttention(2, 3, value_dim=5)
    x = keras.Input((7, 8))
    attention(x, x)
    projections = 2 * 7 * (8 * 6 + 8 * 6 + 8 * 10 + 10 * 8)
    assert flops.flops(attention) == projections + 2 * 2 * 7 * 7 * (3 + 5)
