"""The exported model is plain Keras and is refused when it is damaged or holds code."""

import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from finetune_kit import checks, results


def predictor(classes=3, size=(8, 8)):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Resizing(*size, antialias=True)(pixels)
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(features))
    return keras.Model(pixels, keras.layers.Dense(classes, activation="softmax")(features))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    model = predictor()
    results.save_model(model, ["cat", "dög", "<b>"], directory)
    return directory, model


def test_the_same_probabilities_come_back(exported) -> None:
    directory, model = exported
    loaded, names = results.load_model(str(directory))
    images = np.random.default_rng(0).integers(0, 256, (2, 11, 7, 3)).astype("float32")
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    assert names == ("cat", "dög", "<b>")
    assert not loaded.compiled


def test_files_are_those_promised(exported) -> None:
    directory, _ = exported
    assert sorted(path.name for path in directory.iterdir()) == ["classes.json", "model.keras"]
    assert json.loads((directory / "classes.json").read_text()) == ["cat", "dög", "<b>"]


def test_the_model_loads_without_this_package(exported, tmp_path) -> None:
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "print(model.predict(np.zeros((1, 5, 9, 3)), verbose=0).shape)\n"
        "assert 'finetune_kit' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(exported[0] / "model.keras")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "(1, 3)", done.stderr


def test_input_size(exported) -> None:
    assert results.input_size(exported[1]) == 8
    assert results.input_size(predictor(size=(8, 12))) == (8, 12)
    assert results.input_size(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])) is None


def test_names_must_fit_the_model(tmp_path) -> None:
    with pytest.raises(checks.ConfigError, match="each of the model's 3 classes. Received: 2"):
        results.save_model(predictor(), ["a", "b"], tmp_path)
    results.save_model(predictor(), ["a", "b", "c"], tmp_path)
    (tmp_path / "classes.json").write_text('["a"]')
    with pytest.raises(checks.WeightsError, match="classes.json must name each .* Received: 1"):
        results.load_model(tmp_path)


def test_code_in_a_model_is_refused(tmp_path) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)])
    results.save_model(model, ["a", "b"], tmp_path)
    with pytest.raises(checks.UntrustedFileError, match="holds Python code"):
        results.load_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("classes.json", None, "names of its classes.*No such file"),
        ("classes.json", b"{", "names of its classes"),
        ("classes.json", b'{"a": 1}', "must be a list of names"),
        ("model.keras", None, "which does not exist"),
        ("model.keras", b"half", "which is damaged"),
    ],
)
def test_missing_and_damaged_files(tmp_path, name, content, words) -> None:
    results.save_model(predictor(), ["a", "b", "c"], tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(checks.WeightsError, match=words):
        results.load_model(tmp_path)


def test_a_zip_that_is_no_model(tmp_path) -> None:
    results.save_model(predictor(), ["a", "b", "c"], tmp_path)
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(checks.WeightsError, match="needs a whole model.keras"):
        results.load_model(tmp_path)


def test_a_folder_that_is_not_there(tmp_path) -> None:
    with pytest.raises(checks.EnvironmentFault, match="folder that can be written"):
        results.save_model(predictor(), ["a", "b", "c"], tmp_path / "none")
