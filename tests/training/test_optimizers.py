"""Rates by variable: against Keras' own optimizers, to the bit, and against NumPy."""

import keras
import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.training import optimizers

BASES = list(optimizers.LAYERWISE)
STEPS = 4
SHAPES = {"stem/kernel": (3, 2), "stem/bias": (2,), "head/kernel": (2, 4)}


def make(base, rate=0.02, **arguments):
    """Returns a plain optimizer, with decay unless it is told otherwise."""
    return base(rate, **{"weight_decay": 0.1, **arguments})


def variables():
    """Returns three float32 variables with paths of two parts."""
    generator = np.random.default_rng(0)
    made = []
    for path, shape in SHAPES.items():
        layer, name = path.split("/")
        with keras.name_scope(layer):
            made.append(keras.Variable(generator.normal(size=shape).astype("float32"), name=name))
    return made


def gradients(steps=STEPS, scale=1.0):
    generator = np.random.default_rng(1)
    return [[scale * generator.normal(size=s) for s in SHAPES.values()] for _ in range(steps)]


def run(optimizer, steps=None):
    """Returns the values of the three variables before the first and after every step."""
    weights = variables()
    path = [[np.array(w) for w in weights]]
    for step in gradients() if steps is None else steps:
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in step], weights)
        path.append([np.array(w) for w in weights])
    return path


def layerwise(plain, *multipliers, **arguments):
    table = dict(zip(SHAPES, multipliers, strict=True))
    return optimizers.with_multipliers(plain, table, **arguments)


def assert_equal_paths(actual, expected):
    for found, wanted in zip(actual, expected, strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("base", BASES)
def test_multipliers_of_one_are_the_plain_optimizer_bit_for_bit(base) -> None:
    assert_equal_paths(run(layerwise(make(base), 1.0, 1.0, 1.0)), run(make(base)))


@pytest.mark.parametrize("base", BASES)
def test_a_multiplier_is_the_plain_optimizer_at_a_part_of_the_rate(base) -> None:
    actual = run(layerwise(make(base), 0.5, 0.5, 1.0))
    half, whole = run(make(base, 0.01)), run(make(base))
    expected = [[h[0], h[1], w[2]] for h, w in zip(half, whole, strict=True)]
    assert_equal_paths(actual, expected)
    assert not np.array_equal(half[-1][0], whole[-1][0])


@pytest.mark.parametrize("base", BASES)
def test_a_multiplier_of_zero_moves_nothing(base) -> None:
    path = run(layerwise(make(base), 0.0, 1.0, 0.0))
    np.testing.assert_array_equal(path[-1][0], path[0][0])
    np.testing.assert_array_equal(path[-1][2], path[0][2])
    assert np.isfinite(path[-1][1]).all()
    assert not np.array_equal(path[-1][1], path[0][1])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_multiplier_of_a_hundredth_makes_steps_100_times_shorter(name) -> None:
    base = getattr(keras.optimizers, name)
    path = run(layerwise(make(base), 0.01, 1.0, 1.0), gradients(1))
    plain = run(make(base), gradients(1))
    # A float32 step keeps 7 digits of the weight, so 4 or so of a step 1e-4 of its size.
    ratio = (path[1][0] - path[0][0]) / (plain[1][0] - plain[0][0])
    np.testing.assert_allclose(ratio, 0.01, rtol=5e-3)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_decay_shrinks_each_variable_at_its_own_rate(name) -> None:
    # Without a gradient, a step is the decay alone.
    plain = getattr(keras.optimizers, name)(0.5, weight_decay=0.1)
    path = run(layerwise(plain, 0.2, 1.0, 0.0), gradients(3, scale=0.0))
    for i, factor in enumerate((1 - 0.2 * 0.5 * 0.1, 1 - 0.5 * 0.1, 1.0)):
        np.testing.assert_allclose(path[-1][i], factor**3 * path[0][i], rtol=1e-6)


def test_strong_decay_is_that_of_keras_to_the_last_bit() -> None:
    plain = keras.optimizers.SGD(0.37, weight_decay=1.7)
    assert_equal_paths(
        run(layerwise(plain, 1.0, 1.0, 1.0), gradients(30)), run(plain, gradients(30))
    )


def test_muon_decays_what_adam_updates_by_its_other_decay() -> None:
    plain = keras.optimizers.Muon(0.5, weight_decay=0.1, adam_weight_decay=0.4)
    path = run(layerwise(plain, 0.2, 0.2, 1.0), gradients(1, scale=0.0))
    for i, factor in enumerate((1 - 0.2 * 0.5 * 0.1, 1 - 0.2 * 0.5 * 0.4, 1 - 0.5 * 0.1)):
        np.testing.assert_allclose(path[1][i], factor * path[0][i], rtol=1e-6)


def test_variables_excluded_from_decay_stay_excluded() -> None:
    plain = keras.optimizers.SGD(0.5, weight_decay=0.1)
    plain.exclude_from_weight_decay(var_names=["bias"])
    path = run(layerwise(plain, 1.0, 1.0, 1.0), gradients(1, scale=0.0))
    np.testing.assert_array_equal(path[1][1], path[0][1])
    np.testing.assert_allclose(path[1][0], 0.95 * path[0][0], rtol=1e-6)


def clipped_to_norm(step, limit):
    return [g * min(1.0, limit / np.linalg.norm(g)) for g in step]


def clipped_together(step, limit):
    norm = np.sqrt(sum((g**2).sum() for g in step))
    return [g * min(1.0, limit / norm) for g in step]


def clipped_by_value(step, limit):
    return [np.clip(g, -limit, limit) for g in step]


@pytest.mark.parametrize("limit", [0.7, 100.0])
@pytest.mark.parametrize(
    ("argument", "clip"),
    [
        ("clipnorm", clipped_to_norm),
        ("global_clipnorm", clipped_together),
        ("clipvalue", clipped_by_value),
    ],
)
def test_gradients_are_clipped_before_the_multipliers(argument, clip, limit) -> None:
    plain = keras.optimizers.SGD(0.1, **{argument: limit})
    path = run(layerwise(plain, 0.25, 1.0, 3.0))
    weights = path[0]
    for step in gradients():
        parts = zip(weights, clip(step, limit), (0.25, 1.0, 3.0), strict=True)
        weights = [w - 0.1 * m * g for w, g, m in parts]
    for a, b in zip(path[-1], weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_averages_follow_the_weights() -> None:
    optimizer = layerwise(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8), 0.5, 1.0, 0.0)
    weights = variables()
    expected = None
    for step in gradients():
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in step], weights)
        now = [np.array(w) for w in weights]
        expected = (
            now
            if expected is None
            else [0.8 * e + 0.2 * w for e, w in zip(expected, now, strict=True)]
        )
    pairs = optimizers.averages(optimizer)
    assert [variable.path for variable, _ in pairs] == list(SHAPES)
    for (_, average), value in zip(pairs, expected, strict=True):
        np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyError), optimizers.averaged(optimizer):
        for variable, value in zip(weights, expected, strict=True):
            np.testing.assert_allclose(variable, value, rtol=1e-5, atol=1e-6)
        raise KeyError
    for variable, value in zip(weights, now, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_without_averages_the_weights_stay() -> None:
    optimizer = layerwise(keras.optimizers.SGD(0.1), 1.0, 1.0, 1.0)
    optimizer.build(variables())
    assert optimizers.averages(optimizer) == []
    with optimizers.averaged(optimizer):
        pass


def test_accumulated_gradients_make_one_step_of_their_mean() -> None:
    plain = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2, weight_decay=0.1)
    path = run(layerwise(plain, 0.5, 1.0, 0.0))
    steps = gradients()
    for i, multiplier in enumerate((0.5, 1.0, 0.0)):
        w, rate = path[0][i], 0.1 * multiplier
        np.testing.assert_array_equal(path[1][i], w)
        for first, second in (steps[:2], steps[2:]):
            w = (1 - 0.1 * rate) * w - rate * (first[i] + second[i]) / 2
        np.testing.assert_allclose(path[-1][i], w, rtol=1e-5, atol=1e-6)


def test_schedules_of_keras_set_the_global_rate() -> None:
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
    path = run(layerwise(keras.optimizers.SGD(schedule), 0.5, 1.0, 2.0))
    for i, multiplier in enumerate((0.5, 1.0, 2.0)):
        w = path[0][i]
        for t, step in enumerate(gradients()):
            w = w - multiplier * 0.1 / (1 + 0.5 * t) * step[i]
        np.testing.assert_allclose(path[-1][i], w, rtol=1e-5, atol=1e-6)


def test_the_rate_can_be_set_between_steps() -> None:
    optimizer = layerwise(keras.optimizers.SGD(0.1), 0.5, 1.0, 2.0)
    weights, (first, second) = variables(), gradients(2)
    expected = [np.array(w) for w in weights]
    for rate, step in ((0.1, first), (0.01, second)):
        optimizer.learning_rate = rate
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in step], weights)
        parts = zip(expected, step, (0.5, 1.0, 2.0), strict=True)
        expected = [w - rate * m * g for w, g, m in parts]
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_loss_scaling_works_around_multipliers() -> None:
    plain = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=8.0, name="loss_scale"
    )
    optimizer = layerwise(plain, 0.5, 1.0, 0.0)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert optimizer.initial_scale == 8.0
    bad = [[np.full(shape, np.inf) for shape in SHAPES.values()]]
    (step,) = gradients(1)
    # The first step is left out and the scale halved: the gradients of the second are 4 times g.
    path = run(optimizer, [*bad, [4.0 * g for g in step]])
    assert float(optimizer.dynamic_scale) == 4.0
    assert_equal_paths([path[1]], [path[0]])
    for i, multiplier in enumerate((0.5, 1.0, 0.0)):
        expected = path[0][i] - 0.1 * multiplier * step[i]
        np.testing.assert_allclose(path[2][i], expected, rtol=1e-5, atol=1e-6)


def network(policy="float32"):
    """Returns a classifier of two dense layers, always with the same weights and paths."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh", name="body", dtype=policy)(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def examples():
    generator = np.random.default_rng(0)
    return generator.normal(size=(24, 4)).astype("float32"), generator.integers(0, 3, 24)


def fit(model, optimizer):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    history = model.fit(*examples(), batch_size=6, epochs=2, shuffle=False, verbose=0)
    return history.history["loss"]


AVERAGED = {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"global_clipnorm": 0.1},
        {"clipnorm": 0.1, **AVERAGED},
        {"gradient_accumulation_steps": 2, "clipvalue": 0.05},
        {"gradient_accumulation_steps": 2, "global_clipnorm": 0.1, **AVERAGED},
    ],
)
def test_all_settings_of_keras_are_kept_bit_for_bit(settings) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(0.05, 8)
    plain = keras.optimizers.AdamW(schedule, **settings)
    assert_equal_paths(run(layerwise(plain, 1.0, 1.0, 1.0)), run(plain))


def test_in_a_graph_multipliers_of_one_are_the_plain_optimizer() -> None:
    plain, other = network(), network()
    rates = {v.path: 1.0 for v in other.trainable_variables}
    optimizer = keras.optimizers.AdamW(
        0.05, gradient_accumulation_steps=2, global_clipnorm=0.1, **AVERAGED
    )
    made = optimizers.with_multipliers(optimizer, rates)
    assert fit(other, made) == fit(plain, optimizer)
    for a, b in zip(plain.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_network_in_half_precision_trains_at_its_rates() -> None:
    model = network("mixed_float16")
    before = model.get_weights()
    rates = {v.path: float("head" in v.path) for v in model.trainable_variables}
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.05))
    losses = fit(model, optimizers.with_multipliers(scaled, rates))
    assert losses[1] < losses[0]
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [False, False, True, True]


def test_only_known_optimizers_have_rates_by_variable() -> None:
    class Mine(keras.optimizers.SGD):
        pass

    with pytest.raises(checks.ConfigError, match="Rates by variable need one of .*Adam.*='Mine'"):
        optimizers.with_multipliers(Mine(0.1), {"w": 1.0})
    again = optimizers.with_multipliers(layerwise(keras.optimizers.SGD(0.1), 1, 1, 1), {"w": 0.5})
    assert again.multipliers == {"w": 0.5}


def test_multipliers_must_be_at_least_zero() -> None:
    with pytest.raises(checks.ConfigError, match=r"multiplier of 'w' must lie in \[0, inf\)"):
        optimizers.with_multipliers(keras.optimizers.SGD(0.1), {"w": -1.0})


def test_multipliers_must_name_what_trains() -> None:
    table = dict.fromkeys(SHAPES, 1.0)
    del table["stem/bias"]
    optimizer = optimizers.with_multipliers(keras.optimizers.SGD(0.1), table | {"tail/bias": 1.0})
    with pytest.raises(
        checks.ConfigError, match=r"Missing: stem/bias \(1\). Unknown: tail/bias \(1\)"
    ):
        optimizer.build(variables())


def test_two_variables_of_one_path_are_refused() -> None:
    twice = [keras.Variable(np.ones(2, "float32"), name="w") for _ in range(2)]
    optimizer = optimizers.with_multipliers(keras.optimizers.SGD(0.1), {"w": 1.0})
    with pytest.raises(checks.ConfigError, match="a path of its own. Received: 'w' twice"):
        optimizer.build(twice)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"learning_rate": -0.1}, r"learning_rate must lie in \[0, inf\)"),
        ({"learning_rate": 0.1, "weight_decay": -0.1}, r"weight_decay must lie in \[0, inf\)"),
        ({"learning_rate": 0.1, "clip_norm": -1.0}, r"clip_norm must lie in \[0, inf\)"),
        ({"learning_rate": 0.1, "ema": 1.0}, r"ema must lie in \[0, 1\)"),
    ],
)
def test_optimizers_by_name_check_their_settings(values, match) -> None:
    with pytest.raises(checks.ConfigError, match=match):
        optimizers.build("adam", **values)


def test_optimizers_by_name_clip_all_gradients_together_and_average() -> None:
    made = optimizers.build("sgd", learning_rate=0.1, clip_norm=0.7, ema=0.9)
    path = run(made, gradients(1))
    for a, b, g in zip(path[1], path[0], clipped_together(gradients(1)[0], 0.7), strict=True):
        np.testing.assert_allclose(a, b - 0.1 * g, rtol=1e-5, atol=1e-6)
    assert (made.use_ema, made.ema_momentum) == (True, 0.9)
    assert not optimizers.build("sgd", learning_rate=0.1).use_ema
    assert_equal_paths(
        run(optimizers.build("sgd", learning_rate=0.02)), run(keras.optimizers.SGD(0.02))
    )
