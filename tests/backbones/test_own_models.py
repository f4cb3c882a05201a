"""A user's own model as a backbone: the same features, on raw pixels, at any size."""

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue, own, source_head
from finetune_kit.similarity import preprocessing
from tests.similarity import nets


def images(*shape, seed=0):
    """Returns raw images, float32 [2, *shape] in [0, 255]."""
    return np.random.default_rng(seed).uniform(0, 255, (2, *shape)).astype(np.float32)


def randomised(model, seed=0):
    """Returns the model with every weight drawn anew, so that no two layers are alike."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.uniform(0.05, 0.6, w.shape) for w in model.get_weights()])
    return model


def block(x, filters, name, stride=2):
    """Returns a convolution, BatchNorm and ReLU."""
    x = layers.Conv2D(filters, 3, stride, "same", name=f"{name}_conv")(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_norm")(x))


def body(pixels):
    """Returns a map of an eighth of the side."""
    x = block(block(pixels, 4, "a"), 6, "b")
    return layers.Add(name="join")([block(x, 8, "c"), layers.Conv2D(8, 1, 2, name="skip")(x)])


def plain(channels=3, side=16):
    """Returns a classifier of 5 classes on a body, and the map inside it."""
    pixels = keras.Input((side, side, channels))
    features = body(pixels)
    x = layers.GlobalAveragePooling2D()(features)
    model = keras.Model(pixels, layers.Dense(5, activation="softmax", name="scores")(x))
    randomised(model)
    return model, keras.Model(pixels, features)


def test_the_top_is_taken_off_and_the_body_is_left_as_it_was() -> None:
    model, features = plain()
    before = model.get_weights()
    backbone = backbones.load(model)
    assert (backbone.image_size, backbone.weights, backbone.source_classes) == (16, "own", 5)
    assert backbone.preprocessing == "none" and backbone.card is None
    pixels = images(16, 16, 3)
    expected = np.asarray(features(pixels))
    assert expected.std() > 0
    np.testing.assert_allclose(backbone.model(pixels), expected, rtol=1e-5)
    for weight in backbone.model.weights:
        weight.assign(weight + 1)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_stages_are_those_of_its_graph() -> None:
    stages = backbones.load(plain()[0]).stages
    assert [stage.name for stage in stages] == ["stem", "stage_1", "stage_2"]
    assert [stage.output.shape[1:] for stage in stages] == [(8, 8, 4), (4, 4, 6), (2, 2, 8)]
    assert set(stages[-1].layers) == {"c_conv", "c_norm", "c_relu", "skip", "join"}


def test_the_head_that_was_taken_off_is_that_of_the_source_classes() -> None:
    model, _ = plain()
    backbone = backbones.load(model)
    head, reason = source_head.find(backbone)
    assert reason == ""
    logits = np.asarray(head(backbone.model(images(16, 16, 3))), np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = model(images(16, 16, 3))
    np.testing.assert_allclose(odds / odds.sum(axis=1, keepdims=True), expected, rtol=1e-4)


TOPS = {
    "no top": lambda x: x,
    "average": lambda x: layers.GlobalAveragePooling2D()(x),
    "maximum": lambda x: layers.Dense(5)(layers.GlobalMaxPooling2D()(x)),
    "flattened": lambda x: layers.Dense(5)(layers.Dropout(0.5)(layers.Flatten()(x))),
    "mean": lambda x: layers.Dense(5)(keras.ops.mean(x, axis=(1, 2))),
    "convolution": lambda x: layers.Reshape((5,))(
        layers.Conv2D(5, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
}


@pytest.mark.parametrize("top", TOPS)
def test_the_map_is_found_before_any_top(top) -> None:
    pixels = keras.Input((16, 16, 3))
    x = body(pixels)
    whole = randomised(keras.Model(pixels, TOPS[top](x)))
    backbone = backbones.load(whole, image_size=32)
    assert backbone.model.output_shape == (None, 4, 4, 8)
    at_16 = backbones.load(whole).model(images(16, 16, 3))
    np.testing.assert_allclose(at_16, keras.Model(pixels, x)(images(16, 16, 3)), rtol=1e-5)


def encoder(pixels, blocks=5, tokens=16, width=8):
    """Returns the tokens of a small transformer without a class token."""
    x = layers.Conv2D(width, 4, 4, name="patches")(pixels)
    x = layers.Reshape((tokens, width))(x)
    for number in range(blocks):
        y = layers.LayerNormalization(name=f"norm_{number}")(x)
        x = x + layers.MultiHeadAttention(2, 4, name=f"attention_{number}")(y, y)
    return layers.LayerNormalization(name="norm")(x)


@pytest.mark.parametrize(
    "top", [layers.GlobalAveragePooling1D(), layers.Flatten(), lambda x: keras.ops.mean(x, axis=1)]
)
def test_a_transformer_gives_the_map_of_its_tokens(top) -> None:
    pixels = keras.Input((16, 16, 3))
    rows = encoder(pixels)
    model = keras.Model(pixels, layers.Dense(3)(top(rows)), name="own_vit")
    backbone = backbones.load(randomised(model))
    assert backbone.model.output_shape == (None, 4, 4, 8) and backbone.source_classes is None
    expected = np.asarray(keras.Model(pixels, rows)(images(16, 16, 3)))
    given = backbone.model(images(16, 16, 3))
    np.testing.assert_allclose(given, expected.reshape(2, 4, 4, 8), rtol=1e-3, atol=1e-4)
    held = [[n for n in s.layers if n.startswith("attention")] for s in backbone.stages]
    numbers = [["0"], ["1"], ["2"], ["3", "4"]]
    assert held == [[], *([f"attention_{n}" for n in part] for part in numbers)]
    with pytest.raises(checks.ConfigError, match="own_vit takes .*Received: image_size=32"):
        backbones.load(model, image_size=32)


def test_a_head_sees_the_average_over_tokens_of_several_stages() -> None:
    pixels = keras.Input((16, 16, 3))
    backbone = backbones.load(randomised(keras.Model(pixels, encoder(pixels))))
    features = backbones.attach_head(backbone, 3, stages=2).features(images(16, 16, 3))
    before = keras.Model(backbone.model.inputs[0], backbone.stages[-2].output)
    rows = np.asarray(before(images(16, 16, 3))).mean(axis=1)
    last = np.asarray(backbone.model(images(16, 16, 3))).mean(axis=(1, 2))
    np.testing.assert_allclose(features, np.concatenate([rows, last], axis=1), rtol=1e-4)


def test_squeeze_and_excitation_is_no_top() -> None:
    pixels = keras.Input((16, 16, 3))
    x = block(pixels, 4, "a")
    gate = layers.Dense(4, activation="sigmoid")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply(name="gated")([x, layers.Reshape((1, 1, 4))(gate)])
    model = keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    backbone = backbones.load(randomised(model))
    assert backbone.stages[-1].layers[-1] == "gated"
    expected = keras.Model(pixels, x)(images(16, 16, 3))
    np.testing.assert_allclose(backbone.model(images(16, 16, 3)), expected, rtol=1e-5)


def guide():
    """Returns what Keras' guide to transfer learning makes, and its map at inference."""
    inner_pixels = keras.Input((16, 16, 3))
    base = keras.Model(inner_pixels, body(inner_pixels), name="base")
    base.trainable = False
    pixels = keras.Input((16, 16, 3))
    scale = layers.Normalization(name="scale")
    x = layers.RandomRotation(0.5)(layers.RandomFlip()(pixels))
    features = base(layers.Rescaling(1 / 127.5, offset=-1)(scale(x)), training=False)
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(features))
    model = randomised(keras.Model(pixels, layers.Dense(4)(x)))
    scale.adapt(np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3))
    return model, base, scale


def test_a_model_in_a_model_is_unfolded_and_augmentations_are_left_out(tmp_path) -> None:
    model, base, scale = guide()
    path = str(tmp_path / "guide.keras")
    model.save(path)
    backbone = backbones.load(path)
    assert len(backbone.stages) == 3 and "a_conv" in backbone.stages[0].layers
    assert not any("random" in layer.name for layer in backbone.model.layers)
    pixels = images(16, 16, 3)
    expected = np.asarray(base(np.asarray(scale(pixels)) / 127.5 - 1, training=False))
    assert expected.std() > 0
    for training in (False, None):
        given = backbone.model(pixels, training=training)
        np.testing.assert_allclose(given, expected, rtol=1e-4)
    assert backbones.attach_head(backbone, 3).predictor()(pixels).shape == (2, 3)


def test_layers_of_two_models_may_have_the_same_names() -> None:
    def inner(name):
        pixels = keras.Input((8, 8, 3))
        x = layers.Conv2D(3, 3, padding="same", name="conv")(pixels)
        return randomised(keras.Model(pixels, x, name=name), seed=len(name))

    pixels, first, second = keras.Input((8, 8, 3)), inner("one"), inner("three")
    model = keras.Model(pixels, second(first(pixels)))
    backbone = backbones.load(model)
    assert [x.name for x in backbone.model.layers][1:] == ["conv", "three_conv"]
    expected = second(first(images(8, 8, 3)))
    np.testing.assert_allclose(backbone.model(images(8, 8, 3)), expected, rtol=1e-5)


def test_a_layer_that_is_called_twice_stays_one_layer() -> None:
    pixels = keras.Input((8, 8, 3))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    model = randomised(keras.Model(pixels, twice(layers.ReLU()(twice(pixels)))))
    backbone = backbones.load(model)
    assert len(backbone.model.weights) == 2
    np.testing.assert_allclose(backbone.model(images(8, 8, 3)), model(images(8, 8, 3)), rtol=1e-5)


def test_a_resizing_inside_does_not_make_the_layers_behind_it_train() -> None:
    pixels = keras.Input((128, 128, 3))
    x = layers.Resizing(8, 8)(pixels)
    model = randomised(keras.Model(pixels, block(x, 4, "a")))
    backbone = backbones.load(model)
    assert backbone.image_size == 128
    small = np.asarray(layers.Resizing(8, 8)(images(128, 128, 3), training=False))
    kernel, bias, gamma, beta, mean, variance = model.get_weights()
    x = keras.ops.conv(small, kernel, strides=2, padding="same") + bias
    expected = np.maximum(gamma * (np.asarray(x) - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    for run in (backbone.model, keras.Model(backbone.model.inputs[0], backbone.model.outputs[0])):
        np.testing.assert_allclose(run(images(128, 128, 3)), expected, rtol=1e-4)


def test_what_a_call_said_of_training_is_forgotten() -> None:
    pixels = keras.Input((8, 8, 3))
    x = layers.Dropout(0.5)(layers.Conv2D(4, 3)(pixels), training=True)
    x = layers.BatchNormalization(name="norm")(layers.ReLU()(x), training=False)
    model = randomised(keras.Model(pixels, x))
    backbone = backbones.load(model)
    kernel, bias, gamma, beta, mean, variance = model.get_weights()
    answers = np.maximum(np.asarray(keras.ops.conv(images(8, 8, 3), kernel)) + bias, 0)
    expected = gamma * (answers - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(backbone.model(images(8, 8, 3)), expected, rtol=1e-3)
    before = backbone.model.get_layer("norm").get_weights()[2]
    backbone.model(images(8, 8, 3), training=True)
    assert not np.array_equal(backbone.model.get_layer("norm").get_weights()[2], before)


def test_a_sequential_model() -> None:
    parts = [layers.Conv2D(4, 3, 2), layers.Flatten(), layers.Dense(2)]
    model = keras.Sequential([keras.Input((9, 9, 3)), *parts])
    backbone = backbones.load(randomised(model))
    assert backbone.model.output_shape == (None, 4, 4, 4)
    np.testing.assert_allclose(
        backbone.model(images(9, 9, 3)), parts[0](images(9, 9, 3)), rtol=1e-5
    )


def test_a_model_of_grey_images_sees_the_grey_value() -> None:
    model, features = plain(channels=1)
    backbone = backbones.load(model)
    assert backbone.model.input_shape == (None, 16, 16, 3)
    pixels = images(16, 16, 3)
    grey = pixels @ np.array([0.2989, 0.587, 0.114], np.float32)
    expected = features(grey[..., None])
    np.testing.assert_allclose(backbone.model(pixels), expected, rtol=1e-3)
    with pytest.raises(checks.ConfigError, match="takes grey images.*none, unit, tf. Received"):
        backbones.load(model, preprocessing="caffe")


@pytest.mark.parametrize(
    ("mode", "scaled"),
    [
        ("none", lambda x: x),
        ("unit", lambda x: x / 255),
        ("tf", keras.applications.mobilenet.preprocess_input),
        ("caffe", keras.applications.resnet.preprocess_input),
        ("torch", keras.applications.densenet.preprocess_input),
    ],
)
def test_preprocessing_is_what_the_model_is_said_to_expect(mode, scaled) -> None:
    model, features = plain()
    backbone = backbones.load(model, preprocessing=mode)
    assert backbone.preprocessing == mode
    expected = np.asarray(features(np.asarray(scaled(images(16, 16, 3).copy()))))
    np.testing.assert_allclose(
        backbone.model(images(16, 16, 3)), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
    )


def expecting(mode):
    """Returns a small network whose first BatchNorm layer has seen photographs in a scaling."""
    pixels = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(pixels)
    x = layers.BatchNormalization(name="norm")(x)
    model = keras.Model(pixels, layers.ReLU()(x))
    keras.utils.set_random_seed(4)
    kernel = np.random.default_rng(4).normal(size=(3, 3, 3, 8)).astype(np.float32)
    model.get_layer("conv").set_weights([kernel])
    photos = np.asarray(nets.photographs(300, seed=8), np.float32)
    values = np.asarray(model.get_layer("conv")(mode(photos.copy())), np.float64)
    moments = [values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))]
    model.get_layer("norm").set_weights([np.ones(8), np.zeros(8), *moments])
    return model


def test_a_wrong_scaling_is_named_and_the_flag_too() -> None:
    model = expecting(keras.applications.mobilenet.preprocess_input)
    photos = nets.split(np.asarray(nets.photographs(64), np.float32))
    said = preprocessing.check(backbones.load(model), photos)
    assert "expect values from -1 to 1, while the network gives them raw values" in said
    assert said.endswith("Try --preprocessing=tf.")
    assert preprocessing.check(backbones.load(model, preprocessing="tf"), photos) == ""


def test_random_weights_on_demand_but_for_those_that_scale_pixels() -> None:
    model, _, scale = guide()
    first, again, other = (backbones.load(model, weights="none", seed=s) for s in (1, 1, 2))
    assert (first.weights, first.source_classes, first.head) == ("none", None, None)
    kernels = [b.model.get_layer("a_conv").get_weights()[0] for b in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])
    assert kernels[0].min() < 0  # its own are not
    np.testing.assert_array_equal(first.model.get_layer("scale").mean, scale.mean)


def test_precision_is_that_of_all_layers_but_those_on_pixels() -> None:
    backbone = backbones.load(guide()[0], precision="mixed_bfloat16")
    kinds = {layer.name: layer.compute_dtype for layer in backbone.model.layers}
    assert kinds["a_conv"] == kinds["c_norm"] == "bfloat16"
    assert kinds["scale"] == "float32"
    assert backbone.model.get_layer("a_conv").kernel.dtype == "float32"


def test_the_longer_side_is_the_default_of_a_model_that_is_not_square() -> None:
    pixels = keras.Input((8, 12, 3))
    model = keras.Model(pixels, layers.Conv2D(2, 3)(pixels))
    assert own.default_size(model) == 12
    assert backbones.load(model).model.output_shape == (None, 10, 10, 2)


def test_a_saved_predictor_is_the_model_with_a_new_head(tmp_path) -> None:
    backbone = backbones.load(plain()[0], preprocessing="caffe")
    classifier = backbones.attach_head(backbone, 3)
    path = tmp_path / "predictor.keras"
    classifier.predictor().save(path)
    loaded = keras.saving.load_model(path)
    expected = keras.ops.softmax(classifier.model(np.rint(images(16, 16, 3))))
    np.testing.assert_allclose(loaded(np.rint(images(16, 16, 3))), expected, atol=1e-6)


def test_pooled_branches_that_do_not_follow_each_other_are_no_head_on_stages() -> None:
    pixels = keras.Input((16, 16, 3))
    x = body(pixels)
    branches = [block(x, 4, name) for name in ("one", "two")]
    vector = layers.Concatenate()([layers.GlobalAveragePooling2D()(y) for y in branches])
    backbone = backbones.load(randomised(keras.Model(pixels, layers.Dense(2)(vector))))
    assert backbone.stages[-1].layers[-1] == "join" and backbone.head is not None


def test_only_a_resizing_before_all_else_is_left_out() -> None:
    augmented = keras.Sequential([layers.RandomFlip(), layers.Resizing(16, 24)])
    first = keras.Sequential([keras.Input((None, None, 3)), augmented, layers.Conv2D(4, 3)])
    assert own.default_size(first) == 24
    assert backbones.load(randomised(first)).model.output_shape == (None, 22, 22, 4)
    pixels = keras.Input((None, None, 3))
    later = layers.Resizing(16, 16)(layers.Conv2D(4, 3)(pixels))
    model = randomised(keras.Model(pixels, layers.Conv2D(4, 3, name="end")(later)))
    assert own.default_size(model) == catalogue.ANY_SIDE
    assert backbones.load(model, image_size=32).model.output_shape == (None, 14, 14, 4)


def test_no_published_accuracy_is_known_of_it(tmp_path) -> None:
    path = str(tmp_path / "own.keras")
    plain()[0].save(path)
    assert backbones.published.top1(path) is None
    assert backbones.load(path).name == path


def test_what_of_ones_own_need_not_be_square() -> None:
    def fixed(height, width):
        pixels = keras.Input((height, width, 3))
        maps = layers.Conv2D(2, 3, 2, "same")(pixels)
        return keras.Model(pixels, layers.Reshape((height // 2, width // 2, 2))(maps))

    own = backbones.load(fixed(4, 8), image_size=(4, 8))
    assert own.image_size == (4, 8) and own.model.output_shape == (None, 2, 4, 2)
    with pytest.raises(checks.ConfigError, match=r"for others. Received: image_size=\(4, 8\)"):
        backbones.load(fixed(8, 8), image_size=(4, 8))
    pixels = keras.Input((8, 8, 3))
    tokens = layers.Reshape((-1, 4))(layers.Conv2D(4, 2, 2)(pixels))
    model = keras.Model(pixels, layers.Dense(5)(layers.GlobalAveragePooling1D()(tokens)))
    assert backbones.load(model).model.output_shape == (None, 4, 4, 4)
    # Eight of them would be two by two patches behind four tokens of another kind.
    with pytest.raises(checks.ConfigError, match=r"image_size=\(4, 8\), its tokens .* a square"):
        backbones.load(model, image_size=(4, 8))
