"""`finetune-kit source-card`: from a folder of source images to a network that knows its source."""

import json
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

from apps import main, source_card
from finetune_kit import backbones, checks, similarity
from finetune_kit.backbones import card
from recipes import loading, settings
from tests.recipes import coloured
from tests.similarity import nets

NETWORK = {"backbone": "vgg16", "image_size": 32}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder of 60 labelled images, and one of the same without labels."""
    root = tmp_path_factory.mktemp("source")
    labelled = coloured.write(root / "labelled", per_class=20)
    (root / "flat").mkdir()
    for path in labelled.rglob("*.png"):
        shutil.copy(path, root / "flat" / f"{path.parent.name}_{path.name}")
    (root / "flat" / "notes.txt").write_text("no image")
    return labelled, root / "flat"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Returns a weights file of MobileNet of width 0.25, and of VGG16 (no BatchNorm)."""
    root, files = tmp_path_factory.mktemp("weights"), {}
    for name, arguments in (("mobilenet", {"alpha": 0.25}), ("vgg16", {})):
        network = backbones.load(name, image_size=32, weights="none", arguments=arguments, seed=1)
        files[name] = str(root / f"{name}.weights.h5")
        network.model.save_weights(files[name])
        keras.backend.clear_session()
    return files


@pytest.fixture(scope="module")
def made(source, weights, tmp_path_factory):
    """Returns (card file, card) of VGG16 over the labelled images."""
    output = tmp_path_factory.mktemp("card") / "vgg.npz"
    config = source_card.Config(
        data=str(source[0]), output=str(output), weights=weights["vgg16"], terms="made up",
        **NETWORK,
    )  # fmt: skip
    return output, source_card.run(config)


def test_a_network_without_batch_norm_learns_what_its_source_was(made, weights, source) -> None:
    backbone = backbones.load(
        "vgg16", image_size=32, weights=weights["vgg16"], source_card=str(made[0])
    )
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(source[0].rglob("*.png"))])
    near = similarity.measure(backbone, nets.split(pixels))
    far = similarity.measure(backbone, nets.split(255 - pixels // 3))
    assert near.value.value > 0.95 and near.shift == "none"
    assert far.value.value < near.value.value - 0.1 and far.shift == "unknown"
    assert [depth.tap for depth in near.profile] == [stage.name for stage in backbone.stages]


def test_the_card_says_what_it_was_made_of(made) -> None:
    found = card.read_file(made[0])
    assert found.trained_on.endswith("labelled (60 of 60 images)") and found.terms == "made up"
    assert found.class_names == ("blue", "green", "red") and found.image_size == 32
    assert found.prototypes.shape == (3, 512) and found.features.shape == (60, 512)
    assert list(found.null_quantiles) == [10] and found.accuracy == {}
    command = found.recipe["command"]
    assert command.startswith("finetune-kit source-card --data=")
    assert command.endswith("--output=card.npz") and str(made[0].parent) not in json.dumps(
        found.recipe
    )


def test_the_moments_are_those_of_the_network(made, weights, source) -> None:
    backbone = backbones.load("vgg16", image_size=32, weights=weights["vgg16"])
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(source[0].rglob("*.png"))])
    end = keras.Model(backbone.model.inputs[0], backbone.stages[1].output)
    x = end.predict(pixels.astype(np.float32), verbose=0).astype(np.float64)
    mean, variance = made[1].moments["stage_1"]
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6)


def test_images_without_labels_are_a_sample_too(source, weights, tmp_path) -> None:
    output = tmp_path / "card.npz"
    words = [f"--data={source[1]}", f"--output={output}", "--backbone=mobilenet",
             "--image_size=32", f"--weights={weights['mobilenet']}", "--limit=45"]  # fmt: skip
    assert source_card.main(words) == 0
    found = card.read_file(output)
    assert found.prototypes is None and found.class_names == ()
    assert found.trained_on.endswith("(45 of 60 images)") and len(found.features) == 45
    backbone = backbones.load(
        "mobilenet", image_size=32, weights=weights["mobilenet"], source_card=str(output)
    )
    assert len(backbone.card.moments) == 27
    with pytest.raises(checks.WeightsError, match="made for vgg16, with 5 taps"):
        backbones.load("vgg16", image_size=32, weights=weights["vgg16"], source_card=str(output))


def test_what_cannot_be_a_card_is_refused_at_once(
    source, tmp_path, capsys, untouched_process
) -> None:
    there = tmp_path / "there.npz"
    there.touch()
    folder, output = f"--data={source[0]}", f"--output={tmp_path / 'card.npz'}"
    for code, words, reason in (
        (2, [output], "needs --data"),
        (2, [folder], "needs --output"),
        (2, [folder, "--output=card.txt"], "must end in .npz"),
        (2, [folder, f"--output={there}"], "--output must not exist"),
        (4, [folder, output, "--weights=none"], "needs trained weights"),
        (3, ["--data=/nowhere", output], "which does not exist"),
        (2, [folder, output, "--backbone=vgg17"], "Did you mean vgg1"),
        (2, [folder, output, "--backbone_args=x"], "must look like"),
    ):
        assert main.run(["source-card", *words]) == code, words
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "card.npz").exists() and not there.stat().st_size


def test_too_few_images_are_refused(tmp_path, weights) -> None:
    few = coloured.write(tmp_path / "few", per_class=10)
    config = source_card.Config(data=str(few), output=str(tmp_path / "c.npz"))
    with pytest.raises(checks.DataError, match="at least 40 images. .*images=30"):
        source_card.run(config)


def test_every_command_that_loads_a_network_takes_a_card(made, weights, source) -> None:
    given = {"data": str(source[0]), "weights": weights["vgg16"], **NETWORK}
    config = settings.Source(**given, source_card=str(made[0]))
    backbone = loading.load_backbone(config, weights=config.weights)
    np.testing.assert_array_equal(backbone.card.feature_mean, made[1].feature_mean)
    with pytest.raises(checks.WeightsError, match="source_card='nowhere.npz', which does not"):
        settings.Source(**given, source_card="nowhere.npz")
