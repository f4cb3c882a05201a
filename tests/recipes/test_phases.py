"""Every recipe's phases: the table it promises, and what they leave as it was, bit for bit."""

import importlib

import keras
import numpy as np
import pytest

from apps.finetune import RECIPES
from finetune_kit import backbones, checks, data, strategy, training
from finetune_kit.strategy.candidates import CANDIDATES
from recipes import (
    discriminative,
    from_scratch,
    gradual_unfreezing,
    last_stages,
    settings,
    surgical,
)

GROUPS = ("stem", "stage_1", "stage_2", "head")
WITHOUT_BATCH_NORM = ("vgg16", "convnext_tiny")
TUNED = {"epochs": 6, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from tests.recipes import coloured

    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares"))


def phases_of(name: str, photos: str, groups=GROUPS, **values):
    if name == "auto":
        # It runs whichever candidate is advised; this one opens a stage and freezes the others.
        tuning = strategy.Tuning(augment="none", **{**TUNED, "learning_rate": 0.01})
        return CANDIDATES["surgical"].phases(groups, tuning, shift="input")
    method = importlib.import_module(f"recipes.{name}")
    tuned = {} if method.Config.__mro__[1] is settings.Settings else {**TUNED, **values}
    if name == "surgical":
        tuned = {"stage": groups[1], **tuned}
    if name == "selective_joint":
        tuned = {"source_data": photos, **tuned}
    return method.phases(method.Config(data=photos, workdir="unused", **tuned), groups)


def multipliers(phases) -> list[list[float]]:
    return [list(phase.multipliers.values()) for phase in phases]


def test_head_only_solves_the_head_alone(photos) -> None:
    (phase,) = phases_of("head_only", photos)
    assert phase.solved and phase.trained == ("head",)


def test_last_stages_opens_as_many_as_it_is_told(photos) -> None:
    config = last_stages.Config(data=photos, workdir="w", stages=2, **TUNED)
    probe, tuned = last_stages.phases(config, GROUPS)
    assert probe.solved and list(tuned.multipliers.values()) == [0, 1, 1, 1][:1] + [1, 1, 1]
    assert last_stages.Config.__dataclass_fields__["stages"].default == 1
    with pytest.raises(checks.ConfigError, match="stages must lie in"):
        last_stages.phases(last_stages.Config(data=photos, workdir="w", stages=4, **TUNED), GROUPS)


def test_full_finetune_begins_with_a_random_head(photos) -> None:
    phases = phases_of("full_finetune", photos)
    assert multipliers(phases) == [[1, 1, 1, 1]] and not phases[0].solved


def test_probe_then_finetune_solves_and_then_opens_all(photos) -> None:
    probe, tuned = phases_of("probe_then_finetune", photos)
    assert probe.solved and multipliers([tuned]) == [[1, 1, 1, 1]]


def test_discriminative_rates_rise_geometrically_to_the_ratio(photos) -> None:
    config = discriminative.Config(data=photos, workdir="w", ratio=0.01, **TUNED)
    _, tuned = discriminative.phases(config, GROUPS)
    np.testing.assert_allclose(list(tuned.multipliers.values()), [0.01, 0.1, 1, 1])


def test_gradual_unfreezing_opens_the_last_stage_first(photos) -> None:
    config = gradual_unfreezing.Config(data=photos, workdir="w", ratio=0.25, **TUNED)
    phases = gradual_unfreezing.phases(config, GROUPS)
    np.testing.assert_allclose(
        multipliers(phases), [[0, 0, 0, 1], [0, 0, 1, 1], [0, 0.5, 1, 1], [0.25, 0.5, 1, 1]]
    )
    assert [phase.epochs for phase in phases] == [0, 1, 1, 4]


def test_batch_norm_only_opens_the_batch_norm_of_every_stage(photos) -> None:
    probe, tuned = phases_of("batch_norm_only", photos)
    assert probe.solved and multipliers([tuned]) == [[1, 1, 1, 1]]
    assert (tuned.layers, tuned.batch_norm) == ("batch_norm", "frozen")


def test_surgical_opens_the_stage_that_is_named(photos) -> None:
    config = surgical.Config(data=photos, workdir="w", stage="stage_1", **TUNED)
    probe, tuned = surgical.phases(config, GROUPS)
    assert probe.solved and multipliers([tuned]) == [[0, 1, 0, 1]]
    for stage in ("stage_3", "head", "auto"):
        config = surgical.Config(data=photos, workdir="w", stage=stage, **TUNED)
        with pytest.raises(checks.ConfigError, match="stage must be one of stem, stage_1, stage_2"):
            surgical.phases(config, GROUPS)


def test_from_scratch_trains_all_and_its_batch_norm(photos) -> None:
    (phase,) = phases_of("from_scratch", photos)
    assert phase.batch_norm == "trainable" and set(phase.multipliers.values()) == {1.0}
    with pytest.raises(checks.ConfigError, match="weights must be one of none"):
        from_scratch.Config(data=photos, workdir="w", weights="imagenet")


def test_the_settings_reach_the_phase(photos) -> None:
    (phase,) = phases_of(
        "full_finetune",
        photos,
        schedule="step",
        halve_every=3,
        augment="strong",
        batch_norm="trainable",
        warmup_epochs=2.0,
    )
    assert phase.learning_rate == 0.01 and phase.epochs == 6
    assert phase.schedule.name == "step" and phase.schedule.halve_every == 3
    assert phase.schedule.warmup_epochs == 2.0
    assert phase.augment == "strong" and phase.batch_norm == "trainable"


def test_the_warm_up_never_takes_more_than_half_of_the_epochs(photos) -> None:
    (phase,) = phases_of("full_finetune", photos, epochs=3, warmup_epochs=9.0)
    assert phase.schedule.warmup_epochs == 1.5


class Watcher(keras.callbacks.Callback):
    """Keeps the weights at the beginning and at the end of every phase."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.whole, self.spans = model, []

    def on_train_begin(self, logs: object = None) -> None:
        self.spans.append((values_of(self.whole),))

    def on_train_end(self, logs: object = None) -> None:
        self.spans[-1] += (values_of(self.whole),)


def values_of(model: keras.Model) -> dict[str, bytes]:
    return {variable.path: np.array(variable).tobytes() for variable in model.weights}


def check_frozen(recipe: str, photos: str, network: str, arguments: dict, size: int) -> None:
    """Runs a recipe's phases and compares every variable before and after each, bit for bit."""
    if recipe == "batch_norm_only" and network in WITHOUT_BATCH_NORM:
        with pytest.raises(checks.ConfigError, match=f"needs a network with.* of '{network}'"):
            compare(recipe, photos, network, arguments, size)
    else:
        compare(recipe, photos, network, arguments, size)


def compare(recipe: str, photos: str, network: str, arguments: dict, size: int) -> None:
    """Does the work of `check_frozen`."""
    images = data.load(photos, image_size=size, seed=0, per_class=4)
    backbone = backbones.load(network, image_size=size, weights="none", arguments=arguments)
    classifier = backbones.attach_head(backbone, images.num_classes)
    stages = len(classifier.groups) - 1
    phases = phases_of(recipe, photos, classifier.groups, epochs=stages, learning_rate=1e-3)
    # Folds would train every phase four times over.
    images = data.ImageData(**{**vars(images), "folds": ()})
    begin = values_of(classifier.model)
    watcher = Watcher(classifier.model)
    options = training.Options(batch_size=6, guard=False)
    training.run(classifier, phases, images, options, callbacks=[watcher])

    group_of = {
        variable.path: (group, isinstance(layer, keras.layers.BatchNormalization))
        for group in classifier.groups
        for layer in classifier.layers_of(group)
        for variable in layer.weights
    }
    assert group_of.keys() == begin.keys()
    fitted = [phase for phase in phases if not phase.solved]
    assert len(watcher.spans) == len(fitted)
    if phases[0].solved:
        after = watcher.spans[0][0] if fitted else values_of(classifier.model)
        watcher.spans.insert(0, (begin, after))
    for phase, (before, after) in zip(phases, watcher.spans, strict=True):
        for path, (group, is_norm) in group_of.items():
            frozen = not phase.multipliers[group] or (is_norm and phase.batch_norm == "frozen")
            if phase.layers == "batch_norm" and group != "head":
                frozen = not is_norm or ("/moving_" in path and phase.batch_norm == "frozen")
            if frozen:
                assert before[path] == after[path], f"{phase.name} changed {path}"
        moved = {group_of[path][0] for path in before if before[path] != after[path]}
        assert moved == set(phase.trained), phase.name


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("network", "arguments"), [("mobilenet", {"alpha": 0.25}), ("vgg16", {})])
def test_what_is_frozen_stays_bit_identical(recipe, photos, network, arguments) -> None:
    check_frozen(recipe, photos, network, arguments, 32)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("network", ["resnet50_v2", "efficientnet_b0", "convnext_tiny"])
def test_what_is_frozen_stays_bit_identical_in_large_networks(recipe, photos, network) -> None:
    check_frozen(recipe, photos, network, {}, 32)


def test_phases_are_complete_tables(photos) -> None:
    for recipe in RECIPES:
        strategy.check(phases_of(recipe, photos), GROUPS)
