"""Receptive fields, parameters, operations and departures against published and counted ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import auditing, building, conventions, network

# Receptive fields of Araujo, Norris & Sim, 2019, in the table of their repository
# (google-research/receptive_field, RECEPTIVE_FIELD_TABLE.md), under Keras' names of the layers.
VGG16 = {
    "block1_conv1": 3, "block1_pool": 6, "block2_conv1": 10, "block2_pool": 16, "block3_conv1": 24,
    "block3_conv2": 32, "block3_pool": 44, "block4_conv1": 60, "block4_conv2": 76,
    "block4_pool": 100, "block5_conv1": 132, "block5_conv2": 164, "block5_pool": 212,
}  # fmt: skip
MOBILENET = {"conv1": 3} | {
    f"conv_pw_{i}": field
    for i, field in enumerate(
        (7, 11, 19, 27, 43, 59, 91, 123, 155, 187, 219, 251, 315), start=1
    )
}  # fmt: skip
RESNET50 = {
    "conv2_block3_out": 35, "conv3_block4_out": 99, "conv4_block6_out": 291,
    "conv5_block3_out": 483,
}  # fmt: skip
INCEPTION_V3 = dict(
    zip(
        [f"mixed{i}" for i in range(11)],
        (63, 95, 127, 159, 351, 543, 735, 927, 1055, 1183, 1311),
        strict=True,
    )
)


def application(name, side=224, **arguments):
    """Returns a network of keras.applications with random weights and without a head."""
    constructor = getattr(keras.applications, name)
    given = {"include_top": False, "weights": None, "input_shape": (side, side, 3)}
    return constructor(**(given | arguments))


def rows(model):
    """Returns name to row of an audit."""
    return {layer.name: layer for layer in auditing.audit(model)}


def fields(model, names):
    """Returns name to receptive field, which must be square."""
    found = rows(model)
    assert all(found[name].receptive_field[0] == found[name].receptive_field[1] for name in names)
    return {name: found[name].receptive_field[0] for name in names}


@pytest.mark.parametrize("side", [224, 160])
def test_the_fields_of_vgg16_are_the_published_ones(side) -> None:
    assert fields(application("VGG16", side), VGG16) == VGG16


def test_the_fields_of_mobilenet_are_the_published_ones_at_any_width() -> None:
    assert fields(application("MobileNet", alpha=0.25), MOBILENET) == MOBILENET


def test_the_fields_of_resnet50_are_the_published_ones() -> None:
    assert fields(application("ResNet50"), RESNET50) == RESNET50


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("InceptionV3", INCEPTION_V3),
        ("InceptionResNetV2", {"conv_7b": 3039}),
        ("ResNet101", {"conv4_block23_out": 835, "conv5_block3_out": 1027}),
        ("ResNet152", {"conv5_block3_out": 1507}),
    ],
)
def test_the_fields_of_deeper_networks_are_the_published_ones(name, published) -> None:
    assert fields(application(name, 299), published) == published


def random_network(seed):
    """Returns a small linear network of windows of every kind, in two branches that are added."""
    generator = np.random.default_rng(seed)
    pixels = x = keras.Input((128, 128, 1))
    ones = keras.initializers.RandomUniform(0.1, 1.0, seed=seed)
    for _ in range(generator.integers(2, 5)):
        stride = int(generator.integers(1, 3))
        # oneDNN's gradient of a 1x1 window with stride 2 over few channels writes past its buffer.
        kernel = tuple(int(k) for k in generator.integers(stride, 5, 2))
        padding = str(generator.choice(["same", "valid"]))
        kind = generator.integers(6)
        if kind == 0:
            x = layers.Conv2D(2, kernel, 1, padding, dilation_rate=2, kernel_initializer=ones)(x)
        elif kind == 1:
            x = layers.DepthwiseConv2D(kernel, stride, padding, depthwise_initializer=ones)(x)
        elif kind == 2:
            x = layers.SeparableConv2D(
                2, kernel, stride, padding, depthwise_initializer=ones, pointwise_initializer=ones
            )(x)
        elif kind == 3:
            x = layers.AveragePooling2D(kernel, stride, padding)(x)
        elif kind == 4:
            x = layers.ZeroPadding2D(((2, 1), (0, 3)))(x)
            x = layers.Cropping2D(((1, 0), (0, 1)))(x)
        else:
            x = layers.Conv2D(2, kernel, stride, padding, kernel_initializer=ones)(x)
        y = layers.Conv2D(2, (3, 1), 1, "same", kernel_initializer=ones)(x)
        z = layers.Conv2D(2, (1, 5), 1, "same", kernel_initializer=ones)(x)
        x = layers.BatchNormalization()(layers.Add()([y, z]))
    return keras.Model(pixels, x)


def brute_force(model, images):
    """Returns height and width of the pixels that move one value in the middle of the output."""
    pixels = tf.Variable(images)
    _, height, width, _ = model.output.shape
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(pixels, training=False)[:, height // 2, width // 2])
    moves = np.abs(tape.gradient(value, pixels).numpy()).sum(axis=(0, 3)) > 0
    spans = [np.flatnonzero(moves.any(axis=axis)) for axis in (1, 0)]
    # At the border of the image a field would be cut off.
    assert all(span[0] > 0 and span[-1] < side - 1 for span, side in zip(spans, moves.shape))  # noqa: B905
    return tuple(span[-1] - span[0] + 1 for span in spans)


@pytest.mark.parametrize("seed", range(12))
def test_a_field_is_the_extent_of_the_gradient(seed) -> None:
    model = random_network(seed)
    images = np.random.default_rng(seed).uniform(size=(1, *model.input.shape[1:]))
    assert auditing.audit(model)[-1].receptive_field == brute_force(model, images)


def test_a_field_behind_max_pooling_is_the_extent_of_the_gradient() -> None:
    pixels = keras.Input((64, 64, 1))
    x = layers.Conv2D(4, 3, padding="same")(pixels)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = layers.MaxPooling2D(2)(layers.Conv2D(4, 5)(x))
    model = keras.Model(pixels, x)
    images = np.random.default_rng(0).normal(size=(200, 64, 64, 1))
    assert auditing.audit(model)[-1].receptive_field == brute_force(model, images) == (15, 15)


def test_paths_that_are_not_aligned_see_their_union() -> None:
    pixels = keras.Input((64, 64, 1))
    same = layers.Conv2D(1, 3, 2, padding="same")(pixels)  # of an even side: pixels 2u to 2u + 2
    even = layers.Conv2D(1, 3, 2)(layers.ZeroPadding2D(1)(pixels))  # 2u - 1 to 2u + 1
    model = keras.Model(pixels, layers.Add()([same, even]))
    images = np.random.default_rng(0).normal(size=(1, 64, 64, 1))
    assert auditing.audit(model)[-1].receptive_field == brute_force(model, images) == (4, 4)


def test_a_global_pooling_sees_everything_and_what_it_gates_does_too() -> None:
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, padding="same", name="before")(pixels)
    gate = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    gate = layers.Conv2D(8, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Conv2D(8, 1, name="behind")(layers.Multiply()([x, gate]))
    found = rows(keras.Model(pixels, x))
    assert found["before"].receptive_field == (3, 3)
    assert found["gate"].receptive_field == found["behind"].receptive_field == (np.inf, np.inf)
    assert not found["gate"].judged and found["gate"].departures == ()
    assert [d.what for d in found["behind"].departures] == ["1x1 kernel"]


@keras.saving.register_keras_serializable("tests")
class Shift(layers.Layer):
    """Moves every map by one pixel; nothing that an audit could know."""

    def call(self, x):
        return keras.ops.roll(x, 1, axis=1)


def test_a_layer_of_unknown_reach_leaves_the_field_unknown() -> None:
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, name="behind")(Shift()(layers.Conv2D(8, 3, name="before")(pixels)))
    found = rows(keras.Model(pixels, x))
    assert found["before"].receptive_field == (3, 3)
    assert found["behind"].receptive_field is None


@pytest.mark.parametrize("name", ["MobileNet", "VGG16", "MobileNetV3Small"])
def test_parameters_and_operations_add_up_to_keras_and_the_published_ones(name) -> None:
    model = application(name)
    summary = auditing.summarise(auditing.audit(model))
    assert summary.parameters == model.count_params()
    # GFLOPs of Araujo et al.'s table, heads left out; MobileNetV3: Howard et al., 2019, table 4.
    published = {"MobileNet": 1.14, "VGG16": 30.71, "MobileNetV3Small": 2 * 0.056}[name]
    assert summary.flops / 1e9 == pytest.approx(published, rel=0.03)


def test_a_small_network_by_hand() -> None:
    pixels = keras.Input((8, 8, 3), name="pixels")
    twice = layers.Conv2D(4, 3, padding="same", use_bias=False, name="twice")
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.MaxPooling2D(2, name="pool")], name="m"
    )
    again = layers.Conv2D(4, 3, padding="same", use_bias=False, name="again")
    x = again(again(layers.BatchNormalization(name="norm")(twice(pixels))))
    found = auditing.audit(keras.Model(pixels, inner(x)))
    assert [layer.name for layer in found][-1] == "m/pool"
    by_name = [(layer.name, layer.parameters, layer.flops) for layer in found if layer.parameters]
    # A 3x3 kernel from 3 or 4 to 4 channels at 64 positions; the second call adds no parameters.
    assert by_name == [
        ("twice", 108, 2 * 64 * 108), ("norm", 16, 0), ("again", 144, 2 * 64 * 144)
    ]  # fmt: skip
    assert sum(layer.flops for layer in found) == 2 * 64 * (108 + 2 * 144)
    assert [layer.receptive_field[0] for layer in found if layer.kernel] == [3, 5, 7, 8]
    assert found[-1].output == (4, 4, 4)


def departures(*stack, side=32, channels=16):
    """Returns the departures of the last of a stack of layers on images of a side."""
    pixels = x = keras.Input((side, side, channels))
    for layer in stack:
        x = layer(x)
    found = auditing.audit(keras.Model(pixels, x))[-1].departures
    return [(departure.rule, departure.what, departure.cost) for departure in found]


@pytest.mark.parametrize(
    ("stack", "side", "rule", "what", "figures"),
    [
        # 49 multiplications against 9, and against 27 in three stacked 3x3 that see 7 pixels.
        ([layers.Conv2D(16, 7, padding="same")], 32, "S4", "7x7 kernel",
         ["49/9 = 5.44", "49/27 = 1.81 times those of 3 stacked"]),
        ([layers.DepthwiseConv2D(9, padding="same")], 32, "S4", "9x9 kernel",
         ["81/9 = 9.00", "81/36 = 2.25 times those of 4 stacked"]),
        ([layers.Conv2D(16, (1, 7), padding="same")], 32, "S4", "1x7 kernel", ["7/9 = 0.78"]),
        ([layers.Conv2D(16, 1)], 32, "S4", "1x1 kernel", ["1/9 = 0.11", "no neighbour"]),
        ([layers.Dense(16)], 32, "S4", "1x1 kernel", ["1/9 = 0.11", "no neighbour"]),
        ([layers.Conv2D(16, 4, padding="same")], 32, "S4", "4x4 kernel", ["no centre"]),
        ([layers.Conv2D(16, 3, 2, "same")], 32, "S4", "stride 2x2 under 3x3",
         ["1/4 of the multiplications"]),
        ([layers.SeparableConv2D(16, 3, (2, 2), "same")], 32, "S4", "stride 2x2 under 3x3",
         ["1/4 of the multiplications"]),
        ([layers.Conv2D(16, 3, padding="same", dilation_rate=2)], 32, "S4", "dilation 2x2",
         ["spans 5x5 and reads 9 values"]),
        # 6 x 6 of 8 x 8 positions remain.
        ([layers.Conv2D(16, 3)], 8, "S4", "no padding, 8x8 to 6x6", ["44% of the positions"]),
        ([layers.Conv2D(24, 3, padding="same")], 32, "S4", "24 filters",
         ["25.0% of tiles of 32 channels"]),
        ([layers.Conv2D(96, 3, padding="same")], 32, "S4", "96 filters",
         ["25.0% of tiles of 128 channels"]),
        ([layers.Conv2D(1000, 3, padding="same")], 32, "S4", "1000 filters",
         ["2.3% of tiles of 32 channels, 2.3% of tiles of 128 channels"]),
        ([layers.Conv2D(384, 3, padding="same")], 32, "S4", "384 filters",
         ["fills tiles of 8 and 32 and 128 channels"]),
        ([layers.MaxPooling2D(3, 2)], 33, "S5", "3x3 window, stride 2x2", ["2.25 times"]),
        ([layers.AveragePooling2D(2, 1)], 33, "S5", "stride 1x1", ["1 of 1 values"]),
        ([layers.MaxPooling2D(2)], 7, "S5", "odd map 7x7", ["18.4% of the values"]),
    ],
)  # fmt: skip
def test_one_departure_and_what_it_costs(stack, side, rule, what, figures) -> None:
    (found,) = departures(*stack, side=side)
    assert found[:2] == (rule, what)
    assert all(figure in found[2] for figure in figures), found[2]


def test_a_stride_beyond_the_kernel_never_reads_the_rest() -> None:
    read = {(y, x) for y in range(0, 32, 2) for x in range(0, 32, 2)}
    unread = 1 - len(read) / 32**2
    found = departures(layers.Conv2D(16, 1, 2, padding="same"))
    assert found[1][1] == "stride 2x2 under 1x1"
    assert f"{unread:.0%} of its input is never read" in found[1][2] and unread == 0.75


def test_overlapping_pooling_reads_what_counting_says() -> None:
    counts = np.zeros((33, 33))
    for y in range(0, 31, 2):
        for x in range(0, 31, 2):
            counts[y : y + 3, x : x + 3] += 1
    ((_, _, cost),) = departures(layers.MaxPooling2D(3, 2), side=33)
    assert f"{counts[4:28, 4:28].mean():.2f} times" in cost


@pytest.mark.parametrize(
    "stack",
    [
        [layers.Conv2D(16, 3, padding="same")],
        [layers.Conv2D(16, 5, padding="same")],
        [layers.ZeroPadding2D(1), layers.Conv2D(16, 3)],
        [layers.ZeroPadding2D(2), layers.Conv2D(16, 5)],
        [layers.MaxPooling2D(2)],
        [layers.MaxPooling2D()],
        [layers.AveragePooling2D(2)],
        [layers.ReLU()],
        [layers.BatchNormalization()],
    ],
)
def test_what_the_rules_ask_for_does_not_depart(stack) -> None:
    assert departures(*stack) == []


def test_padding_by_a_layer_of_its_own_is_the_convolutions() -> None:
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(64, 7, 2, name="stem")(layers.ZeroPadding2D(3)(pixels))
    found = rows(keras.Model(pixels, x))["stem"]
    assert found.padding == "3+3"
    assert [d.what for d in found.departures] == ["7x7 kernel", "stride 2x2 under 7x7"]


@pytest.mark.parametrize(
    ("side", "halvings", "rest", "shares"),
    [(224, 5, 7, (128, 256)), (48, 4, 3, (32, 64)), (299, 0, 299, (256, 512))],
)
def test_a_side_that_is_no_power_of_two(side, halvings, rest, shares) -> None:
    (found,) = auditing.audit(keras.Model(p := keras.Input((side, side, 3)), p))[0].departures
    low, high = (f"{n**2 / side**2:.2f} at {n} px" for n in shares)
    assert (found.rule, found.what) == ("S1", f"side {side}")
    assert f"evenly {halvings} times, to {rest};" in found.cost
    assert found.cost.endswith(f"times {low} and {high}")


@pytest.mark.parametrize("tile", [8, 32, 128])
def test_idle_lanes_are_those_of_channels_laid_into_tiles(tile) -> None:
    for channels in range(1, 300):
        lanes = np.pad(np.ones(channels), (0, -channels % tile))
        assert conventions.wasted(channels, tile) == pytest.approx(1 - lanes.mean())


@pytest.mark.parametrize("side", [32, 64, 128])
def test_the_bundled_network_follows_all_rules(side) -> None:
    found = auditing.audit(network.build(side))
    summary = auditing.summarise(found)
    assert (summary.judged, summary.departing, summary.departing_flops) == (11, 0, 0)
    assert auditing.groups(found) == ()
    # 1 + 2 · 2 · 1, + 1; + 2 · 2 · 2, + 2; + 2 · 2 · 4, + 4; + 2 · 8.
    assert summary.receptive_field == (52, 52)


def test_what_departs_alike_is_counted_together() -> None:
    found = auditing.audit(application("MobileNet", 128, alpha=0.25))
    groups = {group.departure.what: group for group in auditing.groups(found)}
    assert groups["1x1 kernel"].layers == 13
    assert groups["stride 2x2 under 3x3"].layers == 5
    pointwise = [
        layer.flops for layer in found if layer.name.startswith("conv_pw") and layer.kernel
    ]
    assert groups["1x1 kernel"].flops == sum(pointwise)
    flops = [group.flops for group in auditing.groups(found)]
    assert flops == sorted(flops, reverse=True)
    summary = auditing.summarise(found)
    assert summary.departing == 18 and summary.judged == 28


def test_preprocessing_of_every_kind_is_seen_through() -> None:
    # DenseNet121: 11 behind the stem; blocks of 6, 12, 24 and 16 layers at strides 4 to 32, and
    # 2x2 poolings between them: 11 + 48 + 4 + 192 + 8 + 768 + 16 + 1024.
    for name in ("vgg16", "densenet121", "mobilenet"):
        model = backbones.load(name, image_size=64, weights="none").model
        assert auditing.audit(model)[-1].receptive_field == {
            "vgg16": (212, 212), "densenet121": (2071, 2071), "mobilenet": (315, 315)
        }[name]  # fmt: skip


@pytest.mark.parametrize("line", ["8", "16-32|64", "32-32|64-64|128-128|256", "2|4|8|16"])
def test_networks_of_a_specification_follow_all_rules(line) -> None:
    summary = auditing.summarise(auditing.audit(building.build(line, 64)))
    assert summary.departing == 0 and summary.judged > 0


def test_what_is_no_functional_model_is_refused() -> None:
    class Own(keras.Model):
        pass

    with pytest.raises(checks.ConfigError, match="needs a functional model. Received: .*'Own'"):
        auditing.audit(Own())
