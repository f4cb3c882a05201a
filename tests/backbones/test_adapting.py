"""Dense tops as convolutions, and stems for other channels, against NumPy and Keras by hand."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue, source_head, stems, tops

SHARED = pathlib.Path(__file__).resolve().parents[3] / "shared" / "weights"
QUARTER = SHARED / "mobilenet_v1_0.25_128_imagenet.weights.h5"


def images(h, w=None, channels=3, n=2):
    """Returns raw images, float32 [n, h, w, channels] in [0, 255]."""
    shape = (n, h, w or h, channels)
    return np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)


def randomised(model, seed=0):
    """Returns the model with every weight drawn anew."""
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(0, 0.3, w.shape) ** 2 * 0.5 for w in model.get_weights()])
    return model


def vgg_like(side=(16, 16), classes=5, activation="softmax"):
    """Returns a small network of VGG's kind, and its map."""
    pixels = keras.Input((*side, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv1")(pixels)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv2")(x)
    features = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Dropout(0.5)(layers.Flatten()(features))
    x = layers.Dense(7, activation="relu", name="fc1")(x)
    x = layers.Dense(8, name="fc2")(layers.BatchNormalization(axis=1)(x))
    x = layers.Dense(classes, activation=activation, name="scores")(layers.ReLU()(x))
    return randomised(keras.Model(pixels, x, name="small")), keras.Model(pixels, features)


def test_a_dense_top_gives_the_same_as_convolutions_at_its_own_size() -> None:
    model, _ = vgg_like()
    whole = backbones.fully_convolutional(model, 16)
    assert whole.output_shape == (None, 1, 1, 5)
    assert not any(isinstance(layer, layers.Dense | layers.Flatten) for layer in whole.layers)
    expected = np.asarray(model(images(16)))
    assert expected.std() > 0
    np.testing.assert_allclose(whole(images(16))[:, 0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(24, 24), (16, 32)])
def test_on_larger_images_there_is_a_vector_for_every_window(size) -> None:
    # The map of a window in the middle differs from that of the window alone by what the borders
    # of the convolutions see, so the dense layers are compared on the map.
    model, features = vgg_like()
    whole = backbones.fully_convolutional(model, size)
    h, w = size[0] // 4, size[1] // 4
    assert whole.output_shape == (None, h - 3, w - 3, 5)
    larger = keras.Model(*_body_at(model, size))
    maps = np.asarray(larger(images(*size)))
    dense = keras.Model(features.outputs[0], model.outputs[0])
    scores = np.asarray(whole(images(*size)))
    for row in range(h - 3):
        for column in range(w - 3):
            window = dense(maps[:, row : row + 4, column : column + 4])
            np.testing.assert_allclose(scores[:, row, column], window, rtol=1e-4)


def _body_at(model, size):
    """Returns images and map of the convolutions of `vgg_like`, called by hand at another size."""
    pixels = x = keras.Input((*size, 3))
    for layer in (model.get_layer("conv1"), layers.MaxPooling2D(2), model.get_layer("conv2")):
        x = layer(x)
    return pixels, layers.MaxPooling2D(2)(x)


@pytest.mark.slow
def test_vgg16_with_its_dense_layers() -> None:
    model = keras.applications.VGG16(weights=None, classes=3)
    whole = backbones.fully_convolutional(model, 224)
    pixels = images(224, n=1)
    np.testing.assert_allclose(whole(pixels)[:, 0, 0], model(pixels), rtol=1e-4)
    assert backbones.fully_convolutional(model, 256).output_shape == (None, 2, 2, 3)


POOLED = {
    "average": lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(x)),
    "maximum": lambda x: layers.Dense(3)(layers.GlobalMaxPooling2D()(x)),
    "kept": lambda x: layers.Softmax()(
        layers.Flatten()(layers.Conv2D(3, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)))
    ),
    "hidden": lambda x: layers.Dense(3)(
        layers.LayerNormalization()(
            layers.Dense(4, activation="gelu")(layers.GlobalAveragePooling2D()(x))
        )
    ),
}


@pytest.mark.parametrize("top", POOLED)
def test_a_pooled_top_gives_one_vector_at_any_size(top) -> None:
    pixels = keras.Input((None, None, 3))
    x = layers.Conv2D(4, 3, 2, name="conv")(pixels)
    any_size = randomised(keras.Model(pixels, POOLED[top](x)))
    fixed = keras.Input((9, 9, 3))
    model = keras.Model(fixed, any_size(fixed))
    for size in (9, 20):
        whole = backbones.fully_convolutional(model, size)
        assert whole.output_shape == (None, 1, 1, 3)
        expected = any_size(images(size))
        np.testing.assert_allclose(whole(images(size))[:, 0, 0], expected, rtol=1e-4)


def test_what_cannot_become_convolutions_is_refused() -> None:
    model, _ = vgg_like()
    with pytest.raises(
        checks.ConfigError, match="small with its.*at least 16 x 16 px. Received: i"
    ):
        backbones.fully_convolutional(model, 12)
    pixels = keras.Input((8, 8, 3))
    maps = layers.Conv2D(2, 3)(pixels)
    x = layers.Flatten()(maps)
    normalised = layers.Dense(2)(layers.BatchNormalization(name="places")(x))
    with pytest.raises(checks.ConfigError, match="Received: layer='places', type='BatchNorm"):
        backbones.fully_convolutional(keras.Model(pixels, normalised), 8)
    branches = layers.Add(name="sum")([layers.Dense(2)(x), layers.Dense(2)(x)])
    with pytest.raises(checks.ConfigError, match="stand in a row. Received: .*layer='sum'"):
        backbones.fully_convolutional(keras.Model(pixels, branches), 8)


@pytest.mark.parametrize("size", [16, 24])
def test_hidden_dense_layers_are_kept_on_request(size) -> None:
    model, features = vgg_like()
    backbone = backbones.load(model, image_size=size)
    kept = backbones.keep_dense(backbone)
    places = size // 4 - 3
    assert kept.model.output_shape == (None, places, places, 8)
    assert kept.stages[-1].output is kept.model.outputs[0] and kept.source_classes is None
    names = [name for stage in kept.stages for name in stage.layers]
    assert sorted(names) == sorted(layer.name for layer in kept.model.layers)
    hidden = keras.Model(features.outputs[0], model.layers[-2].output)  # before the scores
    maps = np.asarray(backbone.model(images(size)))
    expected = hidden(maps[:, :4, :4])
    np.testing.assert_allclose(kept.model(images(size))[:, 0, 0], expected, rtol=1e-4)


def test_dense_layers_that_cannot_be_kept() -> None:
    model, _ = vgg_like()
    with pytest.raises(
        checks.ConfigError, match="small with.*at least 16 px. Received: image_size=8"
    ):
        backbones.keep_dense(backbones.load(model, image_size=8))
    arguments = {"alpha": 0.25}
    bare = backbones.load("mobilenet", image_size=32, weights="none", arguments=arguments)
    with pytest.raises(
        checks.ConfigError, match="Received: backbone='mobilenet'. The weights .none"
    ):
        backbones.keep_dense(bare)
    pixels = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(pixels))
    one = keras.Model(pixels, layers.Dense(3)(x))
    with pytest.raises(checks.ConfigError, match="Its head has no hidden layer"):
        backbones.keep_dense(backbones.load(one))


def catalogued(monkeypatch, tmp_path):
    """Puts a small network in the place of VGG16; returns it and its weights file."""

    def network(input_shape=(224, 224, 3), include_top=True, classes=1000, weights=None,
                input_tensor=None, **_):  # fmt: skip
        pixels = keras.Input(input_shape) if input_tensor is None else input_tensor
        x = layers.Conv2D(4, 3, strides=8, padding="same", name="conv")(pixels)
        x = layers.MaxPooling2D(4, name="pool")(x)
        if include_top:
            x = layers.Dense(6, activation="relu", name="fc1")(layers.Flatten(name="flatten")(x))
            x = layers.Dense(classes, name="predictions")(x)
        return keras.Model(keras.utils.get_source_inputs(pixels)[0], x, name="vgg16")

    monkeypatch.setattr(keras.applications, "VGG16", network)
    whole, path = randomised(network(classes=5)), str(tmp_path / "vgg.weights.h5")
    whole.save_weights(path)
    return whole, path


def test_the_head_of_vgg_is_moved_over_larger_images(monkeypatch, tmp_path) -> None:
    whole, path = catalogued(monkeypatch, tmp_path)
    backbone = backbones.load("vgg16", image_size=256, weights=path)
    assert backbone.model.output_shape == (None, 8, 8, 4)
    head, reason = source_head.find(backbone)
    assert reason == "" and head.output_shape == (None, 5)
    maps = images(8, channels=4)
    dense = keras.Model(whole.get_layer("pool").output, whole.output)
    windows = [dense(maps[:, r : r + 7, c : c + 7]) for r in (0, 1) for c in (0, 1)]
    np.testing.assert_allclose(head(maps), np.mean(windows, axis=0), rtol=1e-4)


def test_vgg_keeps_its_dense_layers_from_its_own_size_on(monkeypatch, tmp_path) -> None:
    _, path = catalogued(monkeypatch, tmp_path)
    kept = backbones.keep_dense(backbones.load("vgg16", image_size=256, weights=path))
    assert kept.model.output_shape == (None, 2, 2, 6)
    assert kept.stages[-1].layers[-1] == "fc1"
    with pytest.raises(checks.ConfigError, match="vgg16 with its dense.*224 px. Received: image_s"):
        backbones.keep_dense(backbones.load("vgg16", image_size=128, weights=path))
    kept = backbones.keep_dense(backbones.load("vgg16", image_size=(224, 256), weights=path))
    assert kept.model.output_shape == (None, 1, 2, 6) and kept.image_size == (224, 256)
    for size in ((256, 128), (128, 256)):
        with pytest.raises(checks.ConfigError, match=f"224 px. Received: image_size=.{size[0]}, "):
            backbones.keep_dense(backbones.load("vgg16", image_size=size, weights=path))


def test_images_too_small_for_dense_layers_are_refused_by_name() -> None:
    catalogue.refuse_small("VGG16", 224)
    catalogue.refuse_small("mobilenet", 32)
    for size, received in ((0, 128), (223, 223)):
        with pytest.raises(checks.ConfigError, match=f"at least 224 px. Received: .*={received}"):
            catalogue.refuse_small("VGG16", size)


# One network for every way of scaling pixels; the last two scale them inside.
SCALINGS = {"mobilenet": {"alpha": 0.25}, "vgg16": {}, "densenet121": {}, "mobilenet_v3_small": {},
            "efficientnet_b0": {}}  # fmt: skip


def loaded(name, **values):
    """Returns a network with random weights at 32 px."""
    given = {"image_size": 32, "weights": "none", "arguments": SCALINGS[name], "seed": 3}
    return backbones.load(name, **(given | values))


def first_answers(model, pixels):
    """Returns what the first convolution of a network gives."""
    first = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    return np.asarray(keras.Model(model.inputs[0], first.output)(pixels), np.float64)


@pytest.mark.parametrize("name", ["mobilenet", "vgg16", "densenet121", "mobilenet_v3_small"])
def test_one_channel_is_answered_as_three_equal_ones(name) -> None:
    # Where no kernel reaches over the border; and there too, if all channels are scaled alike.
    grey = images(32, channels=1)
    expected = first_answers(loaded(name).model, np.repeat(grey, 3, axis=-1))
    given = first_answers(loaded(name, channels=1).model, grey)
    scale = np.abs(expected).max()
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(given[inner], expected[inner], atol=2e-5 * scale)
    if name in ("mobilenet", "mobilenet_v3_small"):
        np.testing.assert_allclose(given, expected, atol=2e-5 * scale)


def test_one_channel_on_the_whole_of_a_trained_network() -> None:
    if not QUARTER.is_file():
        pytest.skip(f"needs {QUARTER.name} beside the repository")
    values = {"image_size": 128, "weights": str(QUARTER)}
    grey = images(128, channels=1)
    expected = np.asarray(backbones.load("mobilenet", **values).model(np.repeat(grey, 3, axis=-1)))
    assert expected.std() > 0.1
    one = backbones.load("mobilenet", **values, channels=1)
    np.testing.assert_allclose(one.model(grey), expected, atol=1e-3)


def by_hand(x, source, module, kernel):
    """Returns the answers of a convolution with the kernels of timm's rule, in NumPy."""
    channels = x.shape[-1]
    scaled = np.zeros(x.shape)
    for j in range(channels):
        colours = np.zeros((*x.shape[:3], 3), np.float32)
        colours[..., j % 3] = x[..., j]
        # The scaled channel that comes from red, green or blue.
        scaled[..., j] = module.preprocess_input(colours.copy())[..., source[j % 3]]
    repeated = np.tile(kernel[:, :, source], (1, 1, channels // 3 + 1, 1))[:, :, :channels]
    k = len(kernel)
    out = np.zeros((len(x), x.shape[1] - k + 1, x.shape[2] - k + 1, kernel.shape[-1]))
    for row in range(out.shape[1]):
        for column in range(out.shape[2]):
            window = scaled[:, row : row + k, column : column + k]
            out[:, row, column] = np.einsum("bhwc,hwcf->bf", window, repeated * 3 / channels)
    return out


@pytest.mark.parametrize("channels", [2, 4, 5, 7])
@pytest.mark.parametrize(
    ("name", "source"),
    [("vgg16", [2, 1, 0]), ("densenet121", [0, 1, 2]), ("mobilenet", [0, 1, 2])],
)
def test_kernels_and_scalings_repeat_by_colour(name, source, channels) -> None:
    module = __import__(
        getattr(keras.applications, catalogue.entry(name).constructor).__module__,
        fromlist=["preprocess_input"],
    )
    first = next(x for x in loaded(name).model.layers if isinstance(x, layers.Conv2D))
    x = images(32, channels=channels, n=1)
    answers = by_hand(x, source, module, first.get_weights()[0].astype(np.float64))
    given = first_answers(loaded(name, channels=channels).model, x)
    stride = first.strides[0]
    # Of the answers with padding, those whose kernels lie inside the image.
    places = {"vgg16": (1, -1), "densenet121": (2, -1), "mobilenet": (0, -1)}[name]
    inside = given[:, places[0] : places[1], places[0] : places[1]]
    begin = {"vgg16": 0, "densenet121": 1, "mobilenet": 0}[name]
    expected = answers[:, begin::stride, begin::stride][:, : inside.shape[1], : inside.shape[2]]
    assert inside.shape == expected.shape
    if first.activation is keras.activations.relu:
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(inside, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_everything_behind_the_stem_is_as_it_was(name, channels) -> None:
    backbone, other = loaded(name), loaded(name, channels=channels)
    assert other.model.input_shape == (None, 32, 32, channels)
    assert other.model.output_shape == backbone.model.output_shape
    assert len(other.stages) == len(backbone.stages) and other.preprocessing == ""
    assert np.isfinite(other.model(images(32, channels=channels))).all()
    first = next(x.name for x in backbone.model.layers if isinstance(x, layers.Conv2D))
    differing = [
        layer.name
        for layer in other.model.layers
        if layer.weights
        and any(
            a.shape != b.shape or not np.array_equal(a, b)
            for a, b in zip(
                layer.get_weights(),
                backbone.model.get_layer(layer.name).get_weights(),
                strict=layer.name != first,
            )
        )
    ]
    assert differing == [first]


def test_three_channels_are_left_alone() -> None:
    model = loaded("mobilenet").model
    assert stems.with_channels(model, 3) is model


def test_a_network_inside_is_unfolded_for_its_stem() -> None:
    inner_pixels = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, name="conv")
    inner = keras.Model(inner_pixels, conv(inner_pixels))
    pixels = keras.Input((8, 8, 3))
    model = stems.with_channels(keras.Model(pixels, inner(pixels)), 1)
    expected = conv(np.repeat(images(8, channels=1), 3, axis=-1))
    np.testing.assert_allclose(model(images(8, channels=1)), expected, rtol=1e-3, atol=1e-3)


def test_networks_whose_stem_cannot_be_operated_on() -> None:
    pixels = keras.Input((8, 8, 3))
    conv = layers.Conv2D(2, 3, padding="same")
    refused = {
        "with depthwise": layers.DepthwiseConv2D(3, name="depthwise")(pixels),
        "has none": layers.ReLU()(pixels),
        "channels are mixed": conv(keras.ops.cumsum(pixels, axis=-1)),
        "several layers take": layers.Add()([conv(pixels), layers.Conv2D(2, 1)(pixels)]),
    }
    for said, x in refused.items():
        with pytest.raises(checks.ConfigError, match=f"begins with a scaling.*{said}"):
            stems.with_channels(keras.Model(pixels, x), 4)
    with pytest.raises(checks.ConfigError, match="channels must lie in"):
        loaded("mobilenet", channels=0)


def test_the_map_of_a_head_is_where_it_begins() -> None:
    model, features = vgg_like()
    found = tops.find_map(model)
    assert found is features.outputs[0] or found.name == features.outputs[0].name


@pytest.mark.filterwarnings("ignore:.*input_shape.*is undefined.*")
def test_images_that_are_not_square() -> None:
    values = {"weights": "none", "arguments": {"alpha": 0.25}, "seed": 3}
    backbone = backbones.load("mobilenet", image_size=(64, 96), **values)
    assert backbone.image_size == (64, 96)
    plain = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=None, input_shape=(64, 96, 3)
    )
    plain.set_weights(backbones.load("mobilenet", image_size=32, **values).model.get_weights())
    expected = np.asarray(plain(images(64, 96) / 127.5 - 1))
    assert expected.std() > 0 and expected.shape == (2, 2, 3, 256)
    np.testing.assert_allclose(backbone.model(images(64, 96)), expected, atol=1e-5)
    square = backbones.load("mobilenet", image_size=64, **values)
    # But for the scaling, which Keras names by how many there have been.
    assert [s.layers[2:] for s in backbone.stages] == [s.layers[2:] for s in square.stages]
    predictor = backbones.attach_head(backbone, 3).predictor()
    assert predictor.get_layer("resize").compute_output_shape((1, 50, 50, 3)) == (1, 64, 96, 3)
    assert backbones.load("mobilenet", image_size=(64, 64), **values).image_size == 64
    with pytest.raises(checks.ConfigError, match=r"at least 32 px. Received: image_size=.64, 31"):
        backbones.load("mobilenet", image_size=(64, 31), **values)
