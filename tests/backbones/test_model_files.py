"""Models of one's own that cannot be a backbone: refused in a line, as early as possible."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks
from finetune_kit.backbones import catalogue, model_files


def images(*shape):
    """Returns raw images, float32 [2, *shape] in [0, 255]."""
    return np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype(np.float32)


class Doubled(layers.Layer):
    """A layer that Keras does not know."""

    def call(self, x):
        """Returns twice the input."""
        return x * 2


class Subclassed(keras.Model):
    """A model without a graph."""

    def __init__(self, **values):
        super().__init__(**values)
        self.conv = layers.Conv2D(3, 3)

    def call(self, x):
        """Returns what the convolution makes of images."""
        return self.conv(x)


def saved(path, model):
    """Saves a model and returns its path as text."""
    model.save(path)
    return str(path)


def on_images(make, shape=(8, 8, 3)):
    """Returns a model of one convolution and what `make` adds."""
    pixels = keras.Input(shape)
    return keras.Model(pixels, make(layers.Conv2D(2, 3)(pixels)))


def test_a_subclass_is_refused_as_file_and_as_object(tmp_path) -> None:
    model = Subclassed()
    model(images(8, 8, 3))
    path = saved(tmp_path / "sub.keras", model)
    with pytest.raises(checks.ConfigError, match=r"sub.keras', a subclass of keras.Model \(Subc"):
        backbones.load(path)
    with pytest.raises(checks.ConfigError, match="functional or sequential.*type='Subclassed'"):
        backbones.load(model)


def test_layers_that_keras_does_not_know_are_named(tmp_path) -> None:
    model = on_images(Doubled(name="mine"))
    path = saved(tmp_path / "custom.keras", model)
    with pytest.raises(checks.ConfigError, match=r"Keras knows.*with mine \(Doubled\)\. Import"):
        backbones.load(path)
    np.testing.assert_allclose(
        backbones.load(model).model(images(8, 8, 3)), model(images(8, 8, 3)), rtol=1e-5
    )


def test_python_code_is_not_run(tmp_path) -> None:
    path = saved(tmp_path / "code.keras", on_images(layers.Lambda(lambda x: x * 2)))
    with pytest.raises(checks.UntrustedFileError, match="which holds Python code"):
        backbones.load(path)


def wrong_models():
    """Returns models that take no images, or have no map, by what is said of them."""
    vector = keras.Input((8,))
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    flat = layers.Dense(2)(layers.Flatten()(one))
    return {
        r"must take images \[b, h, w, ch": keras.Model(vector, layers.Dense(2)(vector)),
        "one input and one output|with inputs": keras.Model([one, two], layers.Add()([one, two])),
        "takes images of 5 channels. Received: channels=3": on_images(lambda x: x, (8, 8, 5)),
        "needs a feature map": keras.Model(one, flat),
    }


@pytest.mark.parametrize("said", wrong_models())
def test_other_models_are_refused_in_a_line(tmp_path, said) -> None:
    model = wrong_models()[said]
    for given in (model, saved(tmp_path / "wrong.keras", model)):
        with pytest.raises(checks.ConfigError, match=said) as caught:
            backbones.load(given)
        assert "\n" not in str(caught.value)


def test_a_size_that_it_cannot_take_is_refused_in_a_line() -> None:
    pixels = keras.Input((16, 16, 3))
    x = layers.Conv2D(2, 3, 2)(layers.Conv2D(2, 7)(pixels))
    model = keras.Model(pixels, layers.Reshape((4, 4, 2))(x), name="fixed")
    assert backbones.load(model).model.output_shape == (None, 4, 4, 2)
    with pytest.raises(checks.ConfigError, match="fixed takes .*Received: image_size=20") as caught:
        backbones.load(model, image_size=20)
    assert "\n" not in str(caught.value)
    with pytest.raises(checks.ConfigError, match="fixed .*Received: image_size=6"):
        backbones.load(model, image_size=6)


def test_what_a_model_of_ones_own_cannot_be_told(tmp_path) -> None:
    path = saved(tmp_path / "own.keras", on_images(layers.ReLU()))
    for given in (path, on_images(layers.ReLU())):
        with pytest.raises(checks.WeightsError, match="brings its own weights. Received: weights="):
            backbones.load(given, weights="imagenet")
        with pytest.raises(checks.ConfigError, match="takes no arguments. Received: backbone_args"):
            backbones.load(given, arguments={"alpha": 1})
        with pytest.raises(checks.ConfigError, match="preprocessing must be one of none, unit, tf"):
            backbones.load(given, preprocessing="inception")
    with pytest.raises(checks.ConfigError, match="mobilenet scales pixels itself; --prep"):
        backbones.load("mobilenet", weights="none", preprocessing="tf")


def test_files_are_looked_at_without_keras(tmp_path) -> None:
    path = saved(tmp_path / "own.keras", on_images(layers.ReLU(), (24, 20, 3)))
    assert catalogue.image_size(path) == 24 and catalogue.image_size(path, 7) == 7
    assert catalogue.canonical(path) == path
    (tmp_path / "damaged.keras").write_bytes((tmp_path / "own.keras").read_bytes()[:500])
    with zipfile.ZipFile(tmp_path / "list.keras", "w") as archive:
        archive.writestr(model_files.CONFIG, json.dumps([1]))
    code = (
        "import sys\n"
        "from finetune_kit import checks\n"
        "from finetune_kit.backbones import catalogue\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(catalogue.image_size(name))\n"
        "    except checks.KitError as error: print(type(error).__name__, error)\n"
        "sys.exit(bool({'keras', 'tensorflow'} & set(sys.modules)))"
    )
    names = [path, "nowhere.keras", *(str(tmp_path / f"{x}.keras") for x in ("damaged", "list"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=True
    )
    own_side, missing, damaged, listed = done.stdout.splitlines()
    assert own_side == "24"
    assert missing.startswith("WeightsError") and "'nowhere.keras', which does not exist" in missing
    assert damaged.startswith("WeightsError") and "whole .keras file" in damaged
    assert listed.startswith("ConfigError")
