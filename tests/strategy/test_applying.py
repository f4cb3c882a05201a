"""What trains is what was planned, bit for bit, whatever the flags were before."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones, checks, strategy
from finetune_kit.backbones import Classifier
from finetune_kit.strategy import applying


def block(x, name, stride=2):
    """Returns a convolution, BatchNorm and ReLU."""
    x = layers.Conv2D(4, 3, stride, "same", name=f"{name}_conv")(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def nested(name):
    """Returns a model of 8 x 8 maps that halves them."""
    pixels = keras.Input((8, 8, 4))
    return keras.Model(pixels, block(pixels, f"{name}_inner"), name=name)


def classify(pixels, x, *, classes=3):
    """Returns a classifier on the model between two tensors."""
    keras.utils.set_random_seed(0)
    model = keras.Model(pixels, x, name="own")
    backbone = backbones.Backbone("own", model, backbones.find_stages(model), 16, "none")
    return backbones.attach_head(backbone, classes, dropout=0.1)


def own():
    """Returns a classifier of three stages, one of them a model inside the model."""
    pixels = keras.Input((16, 16, 3), name="pixels")
    x = block(pixels, "first", stride=1)
    x = nested("middle")(layers.Conv2D(4, 3, 2, "same", name="bridge")(x))
    x = block(x, "last", stride=1)
    return classify(pixels, block(x, "end"))


GROUPS = ("stem", "stage_1", "stage_2", "stage_3", "head")
# Group to the names of its layers with weights, BatchNorm apart.
PLAIN = {
    "stem": {"first_conv"},
    "stage_1": {"bridge"},
    "stage_2": {"middle_inner_conv", "last_conv"},
    "stage_3": {"end_conv"},
    "head": {"head"},
}
NORMS = {
    "stem": {"first_norm"},
    "stage_1": set(),
    "stage_2": {"middle_inner_norm", "last_norm"},
    "stage_3": {"end_norm"},
    "head": set(),
}


def phase(trained, **values):
    """Returns a phase in which some groups train."""
    multipliers = {group: float(group in trained) for group in GROUPS}
    given = {"name": "tune", "multipliers": multipliers, "learning_rate": 0.1, "epochs": 1}
    return strategy.Phase(**{**given, **values})


def planned(trained, batch_norm="frozen"):
    """Returns the paths of the variables that should train, by hand."""
    paths = set()
    for group in trained:
        paths |= {f"{n}/{part}" for n in PLAIN[group] for part in ("kernel", "bias")}
        if batch_norm == "trainable":
            paths |= {f"{name}/{part}" for name in NORMS[group] for part in ("gamma", "beta")}
    return paths


def paths_of(model):
    """Returns the paths of what a model would train."""
    paths = [variable.path for variable in model.trainable_variables]
    assert len(set(paths)) == len(paths)
    return set(paths)


SETS = [
    chosen for n in range(1, 6) for chosen in itertools.combinations(GROUPS, n)
]  # every set of groups that is not empty


@pytest.mark.parametrize("batch_norm", ["frozen", "trainable"])
def test_exactly_what_is_planned_trains_in_every_plan(batch_norm) -> None:
    classifier = own()
    assert classifier.groups == GROUPS
    for trained in SETS:
        if batch_norm == "frozen" or set(trained) - {"head"}:
            strategy.apply(classifier, phase(trained, batch_norm=batch_norm))
            assert paths_of(classifier.model) == planned(trained, batch_norm), trained


@pytest.mark.parametrize("batch_norm", ["frozen", "trainable"])
def test_batch_norm_alone_trains_in_the_stages_that_are_open(batch_norm) -> None:
    classifier = own()
    for trained in SETS:
        alone = phase(trained, layers="batch_norm", batch_norm=batch_norm)
        paths = {f"{n}/{part}" for g in trained for n in NORMS[g] for part in ("gamma", "beta")}
        if not paths:
            with pytest.raises(checks.ConfigError, match="BatchNorm alone needs.* of 'own'"):
                strategy.apply(classifier, alone)
            continue
        strategy.apply(classifier, alone)
        head = {"head/kernel", "head/bias"} if "head" in trained else set()
        assert paths_of(classifier.model) == paths | head, trained


def test_batch_norm_follows_its_stage_and_its_policy() -> None:
    classifier = own()
    for trained in SETS:
        for batch_norm in ("frozen", "trainable"):
            strategy.apply(classifier, phase(trained, batch_norm=batch_norm))
            for group, layer in (
                (g, x)
                for g in GROUPS
                for x in classifier.layers_of(g)
                if isinstance(x, layers.BatchNormalization)
            ):
                assert layer.trainable == (batch_norm == "trainable" and group in trained)


def scramble(classifier, generator) -> None:
    """Writes flags at random on models, layers and variables, in a random order."""
    backbone = classifier.backbone.model
    targets = [
        *(classifier.model, classifier.features, backbone, backbone.get_layer("middle")),
        *classifier.model._flatten_layers(),
        *(v for v in classifier.model.weights if "moving" not in v.path),
    ]
    for position in generator.integers(0, len(targets), 12):
        targets[position].trainable = bool(generator.integers(2))


def test_flags_of_before_do_not_matter() -> None:
    classifier = own()
    generator = np.random.default_rng(0)
    for trial in range(200):
        scramble(classifier, generator)
        trained = SETS[generator.integers(len(SETS))]
        batch_norm = ("frozen", "trainable")[generator.integers(2)]
        strategy.apply(classifier, phase(trained, batch_norm=batch_norm))
        assert paths_of(classifier.model) == planned(trained, batch_norm), trial


@pytest.mark.parametrize(
    "history",
    [
        (True,),  # no operation in TensorFlow where the flag stands so already
        (False,),
        (False, True),  # opens BatchNorm and all
        (True, False),
    ],
)
@pytest.mark.parametrize("view", ["model", "features", "backbone"])
def test_the_traps_of_a_parents_flag(history, view) -> None:
    classifier = own()
    parent = classifier.backbone.model if view == "backbone" else getattr(classifier, view)
    for group in ("stage_2", "stem"):
        for flag in history:
            parent.trainable = flag
        strategy.apply(classifier, phase((group, "head")))
        assert paths_of(classifier.model) == planned((group, "head"))


def values_of(classifier):
    """Returns the values of all variables with a path, by path."""
    return {
        variable.path: variable.numpy()
        for variable in classifier.model.variables
        if "seed" not in variable.path
    }


@pytest.mark.parametrize(
    ("trained", "batch_norm"),
    [
        (("head",), "frozen"),
        (("stage_2",), "frozen"),
        (("stage_2", "head"), "trainable"),
        (("stem", "stage_3"), "trainable"),
        (GROUPS, "frozen"),
    ],
)
def test_a_step_moves_what_is_planned_and_not_a_bit_of_the_rest(trained, batch_norm) -> None:
    classifier = own()
    before = values_of(classifier)
    strategy.apply(classifier, phase(trained, batch_norm=batch_norm))
    classifier.model.compile(keras.optimizers.SGD(0.1), "mse")
    generator = np.random.default_rng(1)
    images = generator.uniform(-9, 9, (8, 16, 16, 3)).astype(np.float32)
    classifier.model.train_on_batch(images, generator.normal(size=(8, 3)))
    after = values_of(classifier)
    moved = {path for path, value in after.items() if not np.array_equal(value, before[path])}
    expected = planned(trained, batch_norm)
    if batch_norm == "trainable":
        expected |= {
            f"{name}/moving_{part}"
            for group in trained
            for name in NORMS[group]
            for part in ("mean", "variance")
        }
    # A bias before a BatchNorm that takes the mean away has no gradient.
    biases = {path for path in expected if path.endswith("_conv/bias")}
    assert moved - biases == expected - biases
    assert moved <= expected


def test_rates_are_those_of_the_groups_for_what_trains_alone() -> None:
    classifier = own()
    tuned = phase(
        (), multipliers={"stem": 0, "stage_1": 0.1, "stage_2": 0, "stage_3": 0.5, "head": 2}
    )
    strategy.apply(classifier, tuned)
    assert applying.rates_by_path(classifier, tuned) == {
        **dict.fromkeys(("bridge/kernel", "bridge/bias"), 0.1),
        **dict.fromkeys(("end_conv/kernel", "end_conv/bias"), 0.5),
        **dict.fromkeys(("head/kernel", "head/bias"), 2.0),
    }
    opened = dataclasses.replace(tuned, batch_norm="trainable")
    strategy.apply(classifier, opened)
    rates = applying.rates_by_path(classifier, opened)
    assert set(rates) == paths_of(classifier.model)
    assert rates["end_norm/gamma"] == rates["end_norm/beta"] == 0.5


def test_two_variables_of_one_path_are_refused_where_both_train() -> None:
    pixels = keras.Input((16, 16, 4), name="pixels")
    x = pixels
    for name in ("one", "two"):
        inner = keras.Input((16, 16, 4) if name == "one" else (8, 8, 4))
        x = keras.Model(inner, layers.Conv2D(4, 3, 2, "same", name="conv")(inner), name=name)(x)
    classifier = classify(pixels, x)
    assert classifier.groups == ("stem", "stage_1", "head")
    tuned = phase((), multipliers={"stem": 0, "stage_1": 1, "head": 1})
    strategy.apply(classifier, tuned)
    assert len(applying.rates_by_path(classifier, tuned)) == 4
    both = phase((), multipliers={"stem": 0.1, "stage_1": 1, "head": 1})
    strategy.apply(classifier, both)
    with pytest.raises(checks.ConfigError, match="path of its own. Received: 'conv/kernel' twice"):
        applying.rates_by_path(classifier, both)


@pytest.mark.parametrize(
    ("multipliers", "words"),
    [
        ({"stem": 1, "head": 1}, "Missing: stage_1, stage_2, stage_3"),
        ({**dict.fromkeys(GROUPS, 1.0), "top": 1.0}, "Unknown: top"),
    ],
)
def test_a_plan_for_another_network_changes_no_flag(multipliers, words) -> None:
    classifier = own()
    strategy.apply(classifier, phase(("stem",)))
    with pytest.raises(checks.ConfigError, match=words):
        strategy.apply(classifier, phase((), multipliers=multipliers))
    assert paths_of(classifier.model) == planned(("stem",))


@pytest.mark.parametrize("order", [("stem", "head"), ("stage_1", "head"), ("stem", "stage_1")])
def test_a_layer_in_two_groups_is_refused_in_any_plan(order) -> None:
    pixels = keras.Input((16, 16, 4), name="pixels")
    shared = layers.Conv2D(4, 3, 2, "same", name="shared")
    classifier = classify(pixels, shared(shared(pixels)))
    assert classifier.groups == ("stem", "stage_1", "head")
    multipliers = {group: float(group in order) for group in classifier.groups}
    with pytest.raises(
        checks.ConfigError, match="one group.*Received: 'shared/kernel' in stem and stage_1"
    ):
        strategy.apply(classifier, phase((), multipliers=multipliers))


def test_statistics_in_two_groups_are_refused_too() -> None:
    pixels = keras.Input((16, 16, 4), name="pixels")
    norm = layers.BatchNormalization(center=False, scale=False, name="norm")
    x = norm(layers.Conv2D(4, 3, 1, "same", name="first")(pixels))
    classifier = classify(pixels, norm(layers.Conv2D(4, 3, 2, "same", name="second")(x)))
    multipliers = {"stem": 1, "stage_1": 0, "head": 1}
    with pytest.raises(checks.ConfigError, match="'norm/moving_mean' in stem and stage_1"):
        strategy.apply(classifier, phase((), multipliers=multipliers))


def test_a_layer_may_be_called_twice_in_one_group_and_without_weights_anywhere() -> None:
    pixels = keras.Input((16, 16, 4), name="pixels")
    twice, relu = layers.Conv2D(4, 3, 1, "same", name="twice"), layers.ReLU(name="relu")
    x = relu(twice(relu(twice(pixels))))
    classifier = classify(pixels, relu(layers.Conv2D(4, 3, 2, "same", name="end")(x)))
    tuned = phase((), multipliers={"stem": 0.5, "stage_1": 0, "head": 1})
    strategy.apply(classifier, tuned)
    assert applying.rates_by_path(classifier, tuned) == {
        **dict.fromkeys(("twice/kernel", "twice/bias"), 0.5),
        **dict.fromkeys(("head/kernel", "head/bias"), 1.0),
    }


@pytest.mark.parametrize("frozen_before", [False, True])
@pytest.mark.parametrize("missing", [0, 2])
def test_a_layer_in_no_group_is_refused_whatever_its_flag(missing, frozen_before) -> None:
    classifier = own()
    stages = classifier.backbone.stages
    fewer = tuple(stage for i, stage in enumerate(stages) if i != missing)
    classifier.model.trainable = not frozen_before
    bare = dataclasses.replace(
        classifier, backbone=dataclasses.replace(classifier.backbone, stages=fewer)
    )
    multipliers = dict.fromkeys(bare.groups, 1.0)
    with pytest.raises(
        checks.ConfigError,
        match=r"Every layer belongs.*(first|last)_conv/bias.* more in no",
    ):
        strategy.apply(bare, phase((), multipliers=multipliers))


def test_statistics_that_would_train_by_gradient_are_refused() -> None:
    classifier = own()
    classifier.backbone.model.get_layer("end_norm").moving_mean.trainable = True
    with pytest.raises(
        checks.ConfigError, match="end_norm/moving_mean would train unplanned, nothing would not"
    ):
        strategy.apply(classifier, phase(GROUPS, batch_norm="trainable"))


def test_a_head_that_is_not_in_the_model_is_refused() -> None:
    classifier = own()
    other = layers.Dense(3, name="other")
    other.build((None, 4))
    pixels = classifier.backbone.model.inputs[0]
    headless = Classifier(classifier.backbone, classifier.features, classifier.features, other)
    assert headless.model.inputs[0] is pixels
    with pytest.raises(
        checks.ConfigError, match="Received: nothing would train unplanned, other/bias, other/ker"
    ):
        strategy.apply(headless, phase(("head",)))
