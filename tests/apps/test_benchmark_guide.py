"""The baselines: the phases of the guide, on the images of a case."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from apps.benchmarks import cases, guide, peers
from finetune_kit import checks, console


def fed(examples, config, **others):
    return guide.batches(examples, image_size=config.image_size, seed=config.seed, **others)


@pytest.fixture
def squares(tmp_path):
    """Three classes of one colour each, 8 images a class."""
    generator = np.random.default_rng(0)
    for label, name in enumerate("rgb"):
        for split, count in (("train", 8), ("test", 5)):
            (tmp_path / "squares" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 60, (40, 50, 3), dtype=np.uint8)
                pixels[..., label] += 180
                file = tmp_path / "squares" / split / name / f"{i}.png"
                Image.fromarray(pixels).save(file)
    return tmp_path / "squares"


def config(squares, **values):
    return guide.Config(
        **{
            "data": str(squares),
            "weights": "none",
            "backbone_args": "alpha=0.25",
            "image_size": 32,
            "per_class": 6,
            **values,
        }
    )


class Fits:
    """What `fit` was asked for, and with which variables open."""

    def __init__(self, monkeypatch) -> None:
        self.seen = []

        def fit(model, batches, *, epochs, verbose) -> None:
            optimizer = model.optimizer
            rate = round(float(optimizer.learning_rate), 9)
            opened = len(model.trainable_variables)
            self.seen.append((type(optimizer).__name__, rate, epochs, opened))
            images, labels = next(iter(batches))
            self.batch = (images.shape, float(np.max(images)), labels.shape)

        monkeypatch.setattr(keras.Model, "fit", fit)
        monkeypatch.setattr(keras.Model, "evaluate", lambda *a, **k: (0.0, 0.5))


def test_the_guide_fits_the_head_and_then_everything(squares, monkeypatch) -> None:
    fits = Fits(monkeypatch)
    line = guide.run(config(squares))
    assert fits.seen == [("Adam", 1e-3, 20, 2), ("Adam", 1e-5, 10, 83)]
    assert fits.batch[0] == (18, 32, 32, 3) and fits.batch[1] > 128, "raw pixels, one batch"
    assert (line["n"], line["test"], line["accuracy"]) == (18, 15, 0.5)


def test_full_fits_everything_for_as_many_epochs(squares, monkeypatch) -> None:
    fits = Fits(monkeypatch)
    guide.run(config(squares, plan="full"))
    assert fits.seen == [("Adam", 1e-4, 30, 83)]


def test_a_seed_draws_the_head_again_and_equally(squares) -> None:
    heads = [
        guide._network(config(squares, seed=seed), 3)[0].layers[-1].get_weights()[0]
        for seed in (0, 0, 1)
    ]
    assert (heads[0] == heads[1]).all() and (heads[0] != heads[2]).any()


def test_augmentation_differs_between_epochs_and_the_test_images_stay(squares) -> None:
    case = cases.draw(squares, per_class=6, seed=0)
    train = fed(case.train, config(squares), training=True, augmented=True)
    sums = [float(np.sum(np.concatenate([x for x, _ in train]), dtype=np.float64)) for _ in "ab"]
    assert sums[0] != sums[1]
    test = fed(case.test, config(squares))
    first, second = (np.concatenate([x for x, _ in test]) for _ in "ab")
    assert (first == second).all() and first.shape == (15, 32, 32, 3)
    labels = np.concatenate([y for _, y in test])
    assert labels.tolist() == [label for _, label in case.test]


def test_the_line_is_one_that_a_peer_writes(squares, monkeypatch, capsys) -> None:
    monkeypatch.setattr(guide, "PHASES", {"guide": ((False, 1e-2, 2), (True, 1e-5, 1))})
    console.activate(plain=True)
    try:
        assert guide.main([f"--data={squares}", "--weights=none", "--backbone=bundled",
                           "--image_size=32", "--per_class=6", "--seed=3"]) == 0  # fmt: skip
    finally:
        console.deactivate()
    out = capsys.readouterr().out
    (figure,) = peers.figures(out, "guide")
    assert (figure.peer, figure.n, figure.test) == ("guide", 18, 15)
    assert 0 <= figure.accuracy <= 1 and figure.seconds > 0 and figure.device
    assert json.loads(out)["data"] == "squares"


def test_images_are_needed() -> None:
    with pytest.raises(checks.ConfigError, match="--data is needed"):
        guide.Config()


@pytest.mark.slow
def test_it_is_the_program_of_the_peers_given_the_same_head(request) -> None:
    """Losses over 6 epochs equal those of a network put together as the peer program does it."""
    shared = request.config.rootpath.parent / "shared"
    if not shared.is_dir():
        pytest.skip("needs the shared weights and sets of images")
    weights = str(shared / "weights" / "mobilenet_v1_0.25_128_imagenet.weights.h5")
    chosen = guide.Config(data=str(shared / "data" / "flowers5"), weights=weights)
    case = cases.draw(chosen.data, per_class=20, seed=0)
    batches = list(fed(case.train[::3], chosen))
    images = np.concatenate([x for x, _ in batches])
    labels = np.concatenate([y for _, y in batches])
    whole = keras.applications.MobileNet(
        alpha=0.25, input_shape=(128, 128, 3), weights=None, classes=1001
    )
    whole.load_weights(weights)
    pooled = next(
        layer for layer in whole.layers if isinstance(layer, keras.layers.GlobalAveragePooling2D)
    )
    body = keras.Model(whole.input, pooled.output)
    pixels = keras.Input((128, 128, 3))
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    features = keras.layers.Flatten()(body(scaled, training=False))
    theirs = keras.Model(pixels, keras.layers.Dense(5)(features))
    ours, _ = guide._network(chosen, 5)
    theirs.layers[-1].set_weights(ours.layers[-1].get_weights())
    losses = []
    for model in (ours, theirs):
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-4), loss)
        fitted = model.fit(images, labels, batch_size=32, shuffle=False, epochs=6, verbose=0)
        losses.append(fitted.history["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
