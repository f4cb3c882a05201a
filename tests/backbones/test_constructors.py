"""Every network of `keras.applications`: load, stages, a step, a cut, save and reload."""

import keras
import numpy as np
import pytest

from finetune_kit import backbones, data, features, results, strategy, training
from finetune_kit.backbones import catalogue
from recipes import discriminative
from tests.recipes import coloured

# The smallest of every family; its arguments make it smaller still.
SMALLEST = {
    "convnext_tiny": {},
    "densenet121": {},
    "efficientnet_b0": {},
    "efficientnet_v2_b0": {},
    "inception_resnet_v2": {},
    "inception_v3": {},
    "mobilenet": {"alpha": 0.25},
    "mobilenet_v2": {"alpha": 0.35},
    "mobilenet_v3_small": {"alpha": 0.75},
    "nasnet_mobile": {},
    "resnet50": {},
    "resnet50_v2": {},
    "vgg16": {},
    "xception": {},
}
LARGER = [name for name in catalogue.ENTRIES if name not in (*SMALLEST, catalogue.BUNDLED)]
FEW = 6  # images, and as many in a batch: one step


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares"))


def images_of(photos, side) -> data.ImageData:
    """Returns few training images and nothing to choose by."""
    images = data.load(photos, image_size=side, seed=0)
    few = images.train.take(np.arange(0, len(images.train), len(images.train) // FEW)[:FEW])
    return data.ImageData(**{**vars(images), "train": few, "validation": None, "folds": ()})


def check(name, arguments, photos, tmp_path) -> None:
    """Takes a network through all that a run does with one."""
    side = catalogue.entry(name).min_size
    backbone = backbones.load(name, image_size=side, weights="none", arguments=arguments)
    images = images_of(photos, side)
    classifier = backbones.attach_head(backbone, images.num_classes)
    pixels = images.train.store.batch(images.train.indices).astype(np.float32)
    check_step(classifier, images, photos)
    check_cut(classifier, pixels)
    # Eagerly: tracing would take most of the time.
    expected = np.array(classifier.predictor()(pixels))
    assert np.isfinite(expected).all() and np.ptp(expected) > 0
    results.save_model(classifier.predictor(), images.class_names, tmp_path)
    model, names = results.load_model(tmp_path)
    assert names == images.class_names
    np.testing.assert_array_equal(model(pixels), expected)


def check_step(classifier, images, photos) -> None:
    """One step moves every stage, the earlier the less."""
    config = discriminative.Config(
        data=photos, workdir="unused", epochs=1, learning_rate=1e-3, augment="none",
        schedule="constant", warmup_epochs=0.0,
    )  # fmt: skip
    (phase,) = [p for p in discriminative.phases(config, classifier.groups) if not p.solved]
    variables = {
        variable.path: (group, variable)
        for group in classifier.groups
        for layer in classifier.layers_of(group)
        for variable in layer.trainable_weights
    }
    before = {path: np.array(variable) for path, (_, variable) in variables.items()}
    # Lion's step has the length of the rate, whatever the gradient: the ratio is exact.
    options = training.Options(
        optimizer="lion", weight_decay=0.0, clip_norm=0.0, batch_size=FEW, guard=False
    )
    outcome = training.run(classifier, (phase,), images, options)
    assert [row["epoch"] for row in outcome.history] == [1]
    for group in classifier.groups:
        moved = [np.abs(np.array(v) - before[p]).max() for p, (g, v) in variables.items()
                 if g == group]  # fmt: skip
        np.testing.assert_allclose(max(moved), 1e-3 * phase.multipliers[group], rtol=0.02)
    strategy.check((phase,), classifier.groups)


def check_cut(classifier, pixels) -> None:
    """What is before a cut and what is behind it are the whole."""
    expected = classifier.model(pixels)
    stages = len(classifier.backbone.stages)
    found = features.cut(classifier, stages - 1)
    drawn = any(layer._seed_generators for layer in classifier.backbone.model._flatten_layers())
    assert found is not None or drawn  # none behind layers that draw random numbers
    if found is not None:
        prefix = keras.Model(classifier.model.inputs[0], list(found.tensors))
        np.testing.assert_array_equal(found.suffix(prefix(pixels)), expected)


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_network_of_every_family(name, photos, tmp_path) -> None:
    check(name, SMALLEST[name], photos, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGER)
def test_every_larger_network(name, photos, tmp_path) -> None:
    check(name, {}, photos, tmp_path)
    keras.backend.clear_session(free_memory=True)
