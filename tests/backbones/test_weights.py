"""Weights files: what their shapes say, and one line for each way in which they are broken."""

import pathlib
import tempfile
import urllib.error

import h5py
import keras
import numpy as np
import pytest
from keras.src.backend import config as keras_config
from keras.src.utils import file_utils

from finetune_kit import checks
from finetune_kit.backbones import weights


def network(filters=4, *, classes=0):
    """Returns two convolutions with BatchNorm between them, with a dense head on request."""
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(filters, 3)(pixels)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(2 * filters, 1)(x)
    if classes:
        x = keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(pixels, x)


def saved(path, **arguments):
    """Saves a network's weights and returns the path."""
    network(**arguments).save_weights(path)
    return path


@pytest.fixture
def file(tmp_path):
    return saved(tmp_path / "net.weights.h5")


@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
@pytest.mark.parametrize("name", ["net.weights.h5", "legacy.h5"])
def test_shapes_are_those_of_the_kernels(tmp_path, name) -> None:
    model = network(classes=5)
    model.save(tmp_path / name) if name == "legacy.h5" else model.save_weights(tmp_path / name)
    expected = sorted(value.shape for value in model.get_weights() if value.ndim >= 2)
    assert sorted(weights.read_shapes(tmp_path / name).kernels) == expected
    assert sorted(weights.kernels(model)) == expected == [(1, 1, 4, 8), (3, 3, 3, 4), (8, 5)]


def test_the_state_of_an_optimizer_is_left_out(tmp_path) -> None:
    model = network()
    model.compile("adam", "mse")
    model.train_on_batch(np.zeros((1, 8, 8, 3)), np.zeros((1, 6, 6, 8)))
    model.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5") as h5:
        assert len(h5["optimizer/vars"]) > 8
    assert len(weights.read_shapes(tmp_path / "net.weights.h5").kernels) == 2


@pytest.mark.parametrize("name", ["nowhere.weights.h5", "."])
def test_a_file_that_is_not_there(tmp_path, name) -> None:
    with pytest.raises(checks.WeightsError, match="needs 'imagenet'.*does not exist"):
        weights.read_shapes(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>\n<html>\n", b"PK\x03\x04" * 99])
def test_a_file_that_is_no_hdf5(tmp_path, content) -> None:
    path = tmp_path / "net.weights.h5"
    path.write_bytes(content)
    with pytest.raises(checks.WeightsError, match="must be HDF5 and whole. Received: '.*net.w"):
        weights.read_shapes(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite(file, value) -> None:
    with h5py.File(file, "a") as h5:
        h5["layers/batch_normalization/vars/3"][1] = value
    with pytest.raises(
        checks.WeightsError, match=r"finite. Received: '.*' with NaN or infinity in .*norm.*vars/3"
    ):
        weights.read_shapes(file)


def test_damage_anywhere_ends_in_one_line(file) -> None:
    whole, model = file.read_bytes(), network()
    generator = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        content = bytearray(whole)
        if trial % 3 == 0:
            content = content[: generator.integers(len(whole))]
        else:
            for position in generator.integers(0, len(whole), 20):
                content[position] = generator.integers(256)
        file.write_bytes(content)
        try:
            weights.read_shapes(file)
            weights.load_weights(model, file)
        except checks.WeightsError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 75


def test_a_file_is_loaded_as_keras_loads_it(tmp_path) -> None:
    source, twin = network(), network()
    source.save_weights(tmp_path / "net.weights.h5")
    weights.load_weights(twin, tmp_path / "net.weights.h5")
    for value, expected in zip(twin.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_a_head_in_the_file_is_left_without_a_warning(tmp_path) -> None:
    source, twin = network(classes=3), network()
    source.save_weights(tmp_path / "net.weights.h5")
    weights.load_weights(twin, tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(twin.get_weights()[0], source.get_weights()[0])


def test_the_weights_of_another_network_are_refused_in_one_line(tmp_path) -> None:
    path = saved(tmp_path / "wide.weights.h5", filters=8)
    with pytest.raises(checks.WeightsError, match="must fit functional.*wide.weights") as caught:
        weights.load_weights(network(), path)
    assert "\n" not in str(caught.value)


class Blocks(keras.layers.Layer):
    """Convolutions in lists of lists, which Keras once did not save."""

    def __init__(self) -> None:
        super().__init__(name="blocks")
        self.blocks = [[keras.layers.Conv2D(3, 1)] for _ in range(2)]

    def build(self, shape):
        """Makes the weights."""
        for (layer,) in self.blocks:
            layer.build(shape)

    def call(self, x):
        """Returns the images convolved twice."""
        return self.blocks[1][0](self.blocks[0][0](x))


def test_a_file_that_leaves_layers_at_random_is_refused(tmp_path) -> None:
    path = tmp_path / "net.weights.h5"
    pixels = keras.Input((8, 8, 3))
    model = keras.Model(pixels, Blocks()(pixels))
    model.save_weights(path)
    weights.load_weights(model, path)
    with h5py.File(path, "a") as h5:
        del h5["layers/blocks/blocks"]
    with pytest.raises(checks.WeightsError, match="must fit .*no matching group|freshly"):
        weights.load_weights(model, path)


def test_leftover_is_what_the_network_does_not_need() -> None:
    found = weights.FileShapes(((3, 3, 3, 8), (8, 8), (8, 8), (8, 5)))
    assert weights.leftover([(3, 3, 3, 8), (8, 8)], found) == [(8, 8), (8, 5)]
    assert weights.leftover([(8, 8), (8, 8), (8, 5), (3, 3, 3, 8)], found) == []
    assert weights.leftover([(8, 8)] * 3, found) is None
    assert weights.leftover([(3, 3, 3, 9)], found) is None


@pytest.mark.parametrize(
    ("rest", "classes"),
    [
        ([], None),
        ([(1024, 1000)], 1000),
        ([(1, 1, 256, 1001)], 1001),
        ([(10, 10)], 10),
        # VGG16 and MobileNetV3Small, in any order.
        ([(25088, 4096), (4096, 4096), (4096, 1000)], 1000),
        ([(4096, 1000), (25088, 4096), (4096, 4096)], 1000),
        ([(1, 1, 1024, 7), (1, 1, 576, 1024)], 7),
    ],
)
def test_classes_are_the_width_of_the_last_layer_of_the_head(rest, classes) -> None:
    assert weights.head_width(rest) == classes


@pytest.mark.parametrize(("filters", "alpha"), [(8, 0.25), (16, 0.5), (24, 0.75), (48, 1.4)])
def test_the_likeliest_width_is_told_by_the_first_convolution(filters, alpha) -> None:
    found = weights.FileShapes(((1, 1, 3, 99), (3, 3, 64, 1), (3, 3, 3, filters), (9, 3, 3)))
    order = weights.alphas_by_stem(found)
    assert order[0] == alpha
    assert sorted(order) == [0.25, 0.35, 0.5, 0.75, 1.0, 1.3, 1.4]
    assert weights.alphas_by_stem(weights.FileShapes(()))[0] == 1.0


def fails(monkeypatch, *, home, error):
    """Makes Keras' downloads fail; returns what Keras raises and where it would have saved."""
    targets = []

    def retrieve(origin, target, hook):
        targets.append(target)
        raise error

    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(home))
    monkeypatch.setattr(file_utils, "urlretrieve", retrieve)
    with pytest.raises(Exception) as caught:  # noqa: B017, PT011  Keras raises it bare
        file_utils.get_file("net_no_top.h5", "https://x.org/a/net_no_top.h5", cache_subdir="models")
    return caught.value, targets[0]


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("[Errno -2] Name or service not known"),
        urllib.error.HTTPError("https://x.org", 404, "Not Found: see https://x.org/", {}, None),
    ],
)
def test_advice_names_the_file_and_the_place_where_keras_looks(
    monkeypatch, tmp_path, error
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    failure, target = fails(monkeypatch, home=tmp_path, error=error)
    advice = weights.download_advice(failure, "MobileNet")
    assert "Download https://x.org/a/net_no_top.h5 elsewhere" in advice
    assert f"save it as {target}, or give --weights=FILE or --weights=none." in advice
    assert "\n" not in advice


def test_advice_knows_the_default_place(monkeypatch, tmp_path) -> None:
    (tmp_path / ".keras").mkdir()
    monkeypatch.delenv("KERAS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    failure, target = fails(
        monkeypatch, home=tmp_path / ".keras", error=urllib.error.URLError("no route")
    )
    assert f"save it as {target}, or" in weights.download_advice(failure, "MobileNet")


def test_advice_knows_where_keras_turns_without_a_place_to_write(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "nowhere"))
    advice = weights.download_advice(Exception("on https://x.org/net.h5: None"), "MobileNet")
    assert str(pathlib.Path(tempfile.gettempdir()) / ".keras" / "models" / "net.h5") in advice


def test_advice_without_an_address_says_what_happened() -> None:
    advice = weights.download_advice(ConnectionResetError(104, "reset\nby peer"), "MobileNet")
    assert "MobileNet cannot be had: [Errno 104] reset by peer. Try again" in advice
    assert "--weights=none" in advice
    assert "\n" not in advice
