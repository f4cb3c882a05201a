"""`finetune-kit pretrain` on a toy: weights that load, and a card that tells how they were made."""

import json

import keras
import numpy as np
import pytest

from apps import finetune, main, pretrain
from finetune_kit import backbones, checks, console, data, features, training
from finetune_kit.backbones import card
from recipes import head_only
from tests.recipes import coloured


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns (work directory, source, card) of a finished run."""
    root = tmp_path_factory.mktemp("pretrain")
    source = coloured.write(root / "squares", per_class=20)
    config = pretrain.Config(
        data=str(source),
        workdir=str(root / "run"),
        validation_fraction=0.2,
        epochs=1,
        batch_size=16,
        terms="made up",
        seed=3,
    )
    return root / "run", source, pretrain.run(config)


def test_the_weights_load_as_the_bundled_ones_do(run) -> None:
    workdir, source, _ = run
    weights = workdir / "bundled" / pretrain.WEIGHTS
    trained = backbones.load("bundled", weights=str(weights))
    fresh = backbones.load("bundled", weights="none", seed=3)
    pairs = zip(trained.model.weights, fresh.model.weights, strict=True)
    assert all(np.any(np.array(one) != np.array(other)) for one, other in pairs)


def test_the_card_says_how_the_weights_were_made(run) -> None:
    workdir, source, made = run
    found = card.read(workdir / "bundled")
    assert found.terms == "made up" and found.class_names == ("blue", "green", "red")
    assert found.accuracy["n"] == 12
    command = found.recipe["command"]
    assert command.startswith("finetune-kit pretrain --data=") and "--seed=3" in command
    assert "--workdir=runs/pretrain" in command and str(workdir) not in command
    assert found.recipe["epochs"] == 1
    assert found.accuracy == made.accuracy


def test_the_cards_figures_are_those_of_the_weights(run) -> None:
    workdir, source, found = run
    model = backbones.load("bundled", weights=str(workdir / "bundled" / pretrain.WEIGHTS)).model
    images = data.load(source, image_size=32, seed=3, validation_fraction=0.2).train
    maps = model.predict(images.store.batch(images.indices).astype(np.float32), verbose=0)
    features = maps.mean(axis=(1, 2))
    np.testing.assert_allclose(found.feature_mean, features.mean(axis=0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.feature_covariance, np.cov(features.T), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(
        found.prototypes[1], features[images.labels == 1].mean(axis=0), rtol=1e-3, atol=1e-5
    )


def test_the_cards_held_out_rows_are_those_of_the_test_split(run) -> None:
    workdir, source, found = run
    model = backbones.load("bundled", weights=str(workdir / "bundled" / pretrain.WEIGHTS)).model
    images = data.load(source, image_size=32, seed=3, validation_fraction=0.2)
    pixels, held = (
        split.store.batch(split.indices).astype(np.float32) for split in (images.train, images.test)
    )
    rows = model.predict(held, verbose=0).mean(axis=(1, 2))
    np.testing.assert_allclose(found.features, rows, rtol=5e-3, atol=1e-3)
    first = model.get_layer("block_1_conv_1_bn").input
    x = keras.Model(model.inputs[0], first).predict(pixels, verbose=0).astype(np.float64)
    mean, variance = found.moments["block_1_conv_1_bn"]
    np.testing.assert_allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(variance, x.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6)
    assert len(found.moments) == 7


def test_the_statistics_of_batch_norm_are_those_of_the_training_images(run) -> None:
    workdir, _, found = run
    model = backbones.load("bundled", weights=str(workdir / "bundled" / pretrain.WEIGHTS)).model
    # Normalised by the batch, as all layers before it: only of the first layer's input the two
    # agree to the last digits.
    first = model.get_layer("block_1_conv_1_bn")
    mean, variance = found.moments["block_1_conv_1_bn"]
    np.testing.assert_allclose(first.moving_mean, mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, variance, rtol=1e-3, atol=1e-6)
    for tap, (mean, variance) in found.moments.items():
        layer = model.get_layer(tap)
        np.testing.assert_allclose(layer.moving_mean, mean, rtol=0.02, atol=0.02)
        np.testing.assert_allclose(layer.moving_variance, variance, rtol=0.05, atol=1e-3)


def test_a_mixture_with_rotations(run, tmp_path) -> None:
    _, source, _ = run
    config = pretrain.Config(
        data=str(source), also="fractals:2x12", rotation=0.3, workdir=str(tmp_path / "run"),
        epochs=1, batch_size=16, validation_fraction=0.2,
    )  # fmt: skip
    found = pretrain.run(config)
    # Nothing that is added is what a target could resemble.
    assert found.class_names == ("blue", "green", "red")
    assert found.trained_on.startswith(f"{source} + fractals:2x12 (")
    assert found.prototypes.shape[0] == 3 and len(found.moments) == 7  # no second head
    assert found.recipe["rotation"] == 0.3 and "--also=fractals:2x12" in found.recipe["command"]
    with pytest.raises(checks.DataError, match="fractals: needs at least 2 classes"):
        pretrain.Config(data=str(source), also="fractals:1x1", workdir="w")


def test_a_mixture_is_described_among_the_classes_of_its_first_source(
    run, tmp_path, monkeypatch
) -> None:
    workdir, source, _ = run
    seen = []

    def spied(classifier, phases, images, *others, **options):
        seen.append(images)
        return trained(classifier, phases, images, *others, **options)

    def confused(classifier, split):
        # Nothing looks as much like a blue square as a fractal does, but blue comes next.
        guesses = np.full((len(split), 5), 0.05)
        guesses[np.arange(len(split)), split.labels], guesses[:, 3] = 0.3, 0.5
        return guesses

    trained = training.run
    monkeypatch.setattr(training, "run", spied)
    monkeypatch.setattr(features, "predict", confused)
    config = pretrain.Config(
        data=str(source), also="fractals:2x12", workdir=str(tmp_path / "run"),
        validation_fraction=0.2, weights=str(workdir / "bundled" / pretrain.WEIGHTS),
    )  # fmt: skip
    found = pretrain.run(config)
    assert found.accuracy["value"] == 1 and found.accuracy["n"] == 12
    # The head is solved on those images alone.
    (images,) = seen
    assert images.num_classes == 5
    assert all(set(split.labels) == {0, 1, 2} for split in images.splits().values())


def test_what_cannot_be_a_run_is_refused(run, capsys, untouched_process) -> None:
    workdir, source, _ = run
    assert main.run(["pretrain", f"--data={source}", f"--workdir={workdir}"]) == 5
    assert main.run(["pretrain", f"--workdir={workdir}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "must not hold another run" in lines[0] and "pretrain needs --data" in lines[1]
    with pytest.raises(checks.ConfigError, match="image_size must lie in"):
        pretrain.Config(data=str(source), workdir="w", image_size=256)


def test_a_network_of_ones_own_is_trained_and_fine_tuned(run, tmp_path, capsys) -> None:
    _, source, _ = run
    words = [f"--data={source}", f"--workdir={tmp_path / 'own'}", "--backbone=spec:4-8|16",
             "--epochs=1", "--batch_size=16", "--validation_fraction=0.2"]  # fmt: skip
    console.activate(plain=True)
    try:
        assert pretrain.main(words) == 0
        assert capsys.readouterr().out.endswith(f"card  {tmp_path / 'own' / 'backbone'}\n")
        made = tmp_path / "own" / "backbone"
        config = head_only.Config(
            data=str(source), workdir=str(tmp_path / "tuned"), tensorboard=False,
            backbone="spec:4-8|16", weights=str(made / "backbone.weights.h5"),
            source_card=str(made / "card.npz"), min_loaded=1.0,
        )  # fmt: skip
        report = head_only.run(config)
    finally:
        console.deactivate()
    # Kernels of 3, 4 and 8 channels, and four numbers of BatchNorm a filter.
    count = 9 * (3 * 4 + 4 * 8 + 8 * 16) + 4 * (4 + 8 + 16)
    line = f"15 tensors loaded (100.0% of {count:,} parameters), 0 missing"
    assert line in capsys.readouterr().out
    found = report.backbone["keys"]
    assert (found["loaded"], found["parameters"], found["share"]) == (15, count, 1.0)
    assert found["missing"] == {"count": 0, "examples": []}
    assert report.backbone["name"] == "spec:4-8|16"
    card_made = card.read_file(made / "card.npz")
    assert card_made.feature_mean.shape == (16,) and len(card_made.moments) == 3
    assert "--backbone='spec:4-8|16'" in card_made.recipe["command"] or (
        "'--backbone=spec:4-8|16'" in card_made.recipe["command"]
    )
    starved = [f"--data={source}", f"--workdir={tmp_path / 'x'}", "--backbone=spec:4-8|16",
               "--min_loaded=2"]  # fmt: skip
    with pytest.raises(checks.ConfigError, match="min_loaded must lie in"):
        finetune.main(["head_only", *starved])


def test_the_card_is_plain_json(run) -> None:
    text = (run[0] / "bundled" / card.CARD).read_text(encoding="utf-8")
    assert json.loads(text)["image_size"] == 32
