"""Frozen stages run once an image: the same weights to the last bit, and not run again."""

import dataclasses

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks, data, features, strategy, training
from finetune_kit.backbones import types
from finetune_kit.training import prefixes
from tests.training import squares

GROUPS = ("stem", "stage_1", "head")
OPTIONS = training.Options(batch_size=8)


def phase(name="late", trains=("stage_1", "head"), **values):
    given = {"learning_rate": 0.01, "epochs": 3, "augment": "none"}
    return strategy.Phase(
        name=name, multipliers={g: float(g in trains) for g in GROUPS}, **given | values
    )


def trained(phases, *, keep, images=None, stages=1, dropout=0.0, views=0, **values):
    """Returns weights and history of a run, and the store."""
    classifier = squares.classifier(stages=stages, dropout=dropout)
    options = dataclasses.replace(OPTIONS, keep_activations=keep, views=views, **values)
    store = features.ActivationStore(batch_size=8)
    outcome = training.run(classifier, phases, images or squares.load(), options, activations=store)
    weights = {v.path: np.array(v) for v in classifier.model.weights}
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in outcome.history]
    return weights, rows, store


def assert_equal(first, second):
    for path, value in first[0].items():
        assert value.tobytes() == second[0][path].tobytes(), path
    for one, other in zip(first[1], second[1], strict=True):
        assert one == pytest.approx(other, abs=1e-6, nan_ok=True)


CASES = {
    "the last stage": ([phase()], {}),
    "the head alone, with dropout": ([phase(trains=("head",))], {"dropout": 0.3}),
    "a head on both stages": ([phase()], {"stages": 0}),
    "BatchNorm that trains": ([phase(batch_norm="trainable")], {}),
    "BatchNorm alone": ([phase(layers="batch_norm")], {}),
    "four views": ([phase(augment="light", epochs=6)], {"views": 4}),
    "after a probe": ([strategy.probe(GROUPS), phase()], {}),
    "even sampling": ([phase(augment="light", epochs=6)], {"views": 2, "imbalance": "sampling"}),
    "weights by class": ([phase()], {"imbalance": "weights"}),
    "opening from the top": (
        [phase("head", ("head",)), phase(), phase("all", GROUPS, batch_norm="trainable")], {}
    ),
    "after the stem has trained": ([phase("all", GROUPS), phase()], {}),
    "between probe and tuned": ([strategy.probe(GROUPS), phase()], {"wise": 0.5}),
    "averages": ([phase()], {"ema": 0.9}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_training_without_to_the_last_bit(case) -> None:
    phases, values = CASES[case]
    first, second = (trained(phases, keep=keep, **values) for keep in (True, False))
    assert first[2].tensors > second[2].tensors  # or nothing was compared
    assert_equal(first, second)


def test_folds_train_as_they_do_without() -> None:
    images = squares.load(per_class=9)
    assert images.folds
    phases = [strategy.probe(GROUPS), phase(augment="light", epochs=4)]
    first, second = (trained(phases, keep=k, images=images, views=2) for k in (True, False))
    assert_equal(first, second)
    # Two views to train on, and the image as it is for the probe and, later, for the scores: of
    # every image, whatever the number of folds.
    assert len(images.folds) > 2
    assert first[2].computed <= 4 * len(images.train)


def test_every_image_is_run_once_whatever_the_epochs() -> None:
    images = squares.load()
    n, held = len(images.train), len(images.validation)
    _, _, store = trained([strategy.probe(GROUPS), phase(epochs=7)], keep=True)
    assert store.computed == n + held
    _, _, store = trained([phase(epochs=7, augment="light")], keep=True, views=3)
    assert store.computed == 3 * n + held
    # Opened from the top: once for each cut.
    opened = [phase("head", ("head",)), phase()]
    _, _, store = trained(opened, keep=True)
    assert store.computed == 2 * (n + held)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        (phase(augment="light"), {}),  # new views in every epoch
        (phase(augment="strong", epochs=9), {"views": 2}),  # mixes images of a batch
        (phase(trains=GROUPS), {}),  # nothing is frozen
        (
            phase(trains=("stem", "head")),
            {},
        ),  # frozen stages, but none before the first that trains
        (phase(augment="light", epochs=2), {"views": 2}),  # no view is seen twice
        (phase(), {"keep_activations": False}),
    ],
)
def test_nothing_is_kept_where_it_would_be_wrong_or_would_not_pay(given, options) -> None:
    store = features.ActivationStore()
    found = prefixes.Prefixes(
        squares.classifier(), [given], dataclasses.replace(OPTIONS, **options), store
    )
    assert found.cut(0) is None
    assert found.train(0, squares.load().train) is None
    assert store.computed == 0


def test_without_room_the_frozen_stages_run_in_every_epoch_and_the_run_says_so() -> None:
    classifier = squares.classifier()
    store = features.ActivationStore(memory_mb=0, batch_size=8)
    outcome = training.run(classifier, [phase()], squares.load(), OPTIONS, activations=store)
    assert any("no room" in note for note in outcome.notes)
    expected = trained([phase()], keep=False)
    for variable in classifier.model.weights:
        assert np.array(variable).tobytes() == expected[0][variable.path].tobytes()


def test_past_the_budget_activations_go_to_a_file_that_is_deleted(tmp_path) -> None:
    store = features.ActivationStore(memory_mb=0, directory=tmp_path, batch_size=8)
    classifier = squares.classifier()
    training.run(classifier, [phase()], squares.load(), OPTIONS, activations=store)
    assert store.on_disk > 0
    assert list(tmp_path.glob("*/*.bin"))
    expected = trained([phase()], keep=False)
    for variable in classifier.model.weights:
        assert np.array(variable).tobytes() == expected[0][variable.path].tobytes()
    store.close()
    assert not list(tmp_path.iterdir())


def test_a_view_shows_what_training_shows_when_its_turn_comes() -> None:
    split = squares.load().train
    shown = {}
    stream = data.batches(split, num_classes=3, batch_size=8, seed=5, epochs=5,
                          augmentation="light", views=2)  # fmt: skip
    steps = data.steps_per_epoch(len(split), 8)
    epochs = [[], [], [], [], []]
    for number, (pixels, _) in enumerate(stream):
        epochs[number // steps].append(np.asarray(pixels))
    for view in (0, 1):
        batches = data.view_batches(split, batch_size=8, augmentation="light", seed=5, view=view)
        shown[view] = {image.tobytes() for batch in batches for image in np.asarray(batch)}
    for epoch, batches in enumerate(epochs):
        seen = {image.tobytes() for batch in batches for image in batch}
        assert seen == shown[epoch % 2]
    assert shown[0] != shown[1]


def test_views_need_an_augmentation_of_one_image_at_a_time() -> None:
    split = squares.load().train
    with pytest.raises(checks.ConfigError, match="one image at a time"):
        data.view_batches(split, batch_size=8, augmentation="strong", seed=0, view=0)


def test_there_is_no_cut_behind_a_layer_that_draws_random_numbers() -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="one")(pixels)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="two")(x)
    x = keras.layers.Dropout(0.5, name="noise")(x)
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="three")(x)
    model = keras.Model(pixels, x)
    stages = backbones.find_stages(model)
    assert "noise" in stages[1].layers
    backbone = types.Backbone("toy", model, stages, 16, "none")
    classifier = backbones.attach_head(backbone, 3)
    assert features.cut(classifier, 1) is not None
    assert features.cut(classifier, 2) is None
    assert features.cut(classifier, 0) is None
