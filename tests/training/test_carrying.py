"""The state of optimizers: carried from phase to phase, saved and loaded, always by path."""

import keras
import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.training import optimizers

BASES = list(optimizers.LAYERWISE)
SHAPES = {"early/kernel": (2, 3), "late/kernel": (2, 3), "late/bias": (3,)}
EARLY, LATE = ["early/kernel"], ["late/kernel", "late/bias"]


@pytest.fixture
def network():
    """Returns path to variable."""
    generator = np.random.default_rng(0)
    made = {}
    for path, shape in SHAPES.items():
        layer, name = path.split("/")
        with keras.name_scope(layer):
            made[path] = keras.Variable(generator.normal(size=shape).astype("float32"), name=name)
    return made


def gradients(steps, seed=1):
    """Returns, for every step, path to gradient."""
    generator = np.random.default_rng(seed)
    return [{path: generator.normal(size=s) for path, s in SHAPES.items()} for _ in range(steps)]


def phase(network, plain, paths, previous=None):
    """Returns a built optimizer for `paths` that goes on from `previous`."""
    trained = [network[path] for path in paths]
    new = optimizers.with_multipliers(
        plain, dict.fromkeys(paths, 1.0), cohorts=optimizers.cohorts(previous, trained)
    )
    new.build(trained)
    if previous is not None:
        optimizers.carry_state(previous, new)
    return new


def train(network, optimizer, steps, paths):
    trained = [network[path] for path in paths]
    for step in steps:
        values = [keras.ops.convert_to_tensor(step[path], "float32") for path in paths]
        optimizer.apply(values, trained)


def alone(plain, path, steps):
    """Returns where a plain optimizer of Keras brings one variable that trains alone."""
    generator = np.random.default_rng(0)
    values = {p: generator.normal(size=s).astype("float32") for p, s in SHAPES.items()}
    variable = keras.Variable(values[path], name="w")
    for step in steps:
        plain.apply([keras.ops.convert_to_tensor(step[path], "float32")], [variable])
    return np.array(variable)


def adam(w, past, rate):
    """Returns where Adam brings a weight whose first step is the first of `past` (NumPy)."""
    m = v = 0.0
    for t, g in enumerate(past, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    return w


@pytest.mark.parametrize("base", BASES)
def test_a_phase_of_the_same_variables_goes_on_as_if_it_were_one(network, base) -> None:
    steps, paths = gradients(6), list(SHAPES)
    first = phase(network, base(0.02), paths)
    train(network, first, steps[:3], paths)
    train(network, phase(network, base(0.02), paths, first), steps[3:], paths)
    actual = {path: np.array(v) for path, v in network.items()}
    generator = np.random.default_rng(0)
    for v, shape in zip(network.values(), SHAPES.values(), strict=True):
        v.assign(generator.normal(size=shape))
    plain = base(0.02)
    train(network, plain, steps, paths)
    for path, variable in network.items():
        np.testing.assert_array_equal(actual[path], variable)


@pytest.mark.parametrize("base", BASES)
def test_a_stage_that_opens_late_starts_like_a_fresh_optimizer(network, base) -> None:
    """The variable that opens stands before the others and has the shape of one of them."""
    steps = gradients(7)
    first = phase(network, base(0.02), LATE)
    train(network, first, steps[:4], LATE)
    train(network, phase(network, base(0.02), list(SHAPES), first), steps[4:], list(SHAPES))
    for path in LATE:
        np.testing.assert_array_equal(network[path], alone(base(0.02), path, steps))
    if base is not keras.optimizers.Nadam:
        fresh = alone(base(0.02), EARLY[0], steps[4:])
        np.testing.assert_array_equal(network[EARLY[0]], fresh)


def test_nadam_begins_with_shorter_steps_where_it_opens_late(network) -> None:
    steps = gradients(41)
    first = phase(network, keras.optimizers.Nadam(0.02), LATE)
    train(network, first, steps[:40], LATE)
    before = np.array(network[EARLY[0]])
    second = phase(network, keras.optimizers.Nadam(0.02), list(SHAPES), first)
    train(network, second, steps[40:], list(SHAPES))
    late = np.abs(network[EARLY[0]] - before)
    fresh = np.abs(alone(keras.optimizers.Nadam(0.02), EARLY[0], steps[40:]) - before)
    assert (late < fresh).all()
    assert (late > 0.4 * fresh).all()


def test_bias_corrections_count_from_the_step_at_which_a_variable_began(network) -> None:
    steps, start = gradients(12), {path: np.array(v) for path, v in network.items()}
    bias = ["late/bias"]
    first = phase(network, keras.optimizers.Adam(0.02), bias)
    train(network, first, steps[:4], bias)
    second = phase(network, keras.optimizers.Adam(0.02), LATE, first)
    train(network, second, steps[4:7], LATE)
    third = phase(network, keras.optimizers.Adam(0.02), list(SHAPES), second)
    train(network, third, steps[7:], list(SHAPES))
    assert int(third.iterations) == 12
    for path, began in (("late/bias", 0), ("late/kernel", 4), ("early/kernel", 7)):
        expected = adam(start[path], [step[path] for step in steps[began:]], 0.02)
        np.testing.assert_allclose(network[path], expected, rtol=2e-5, atol=1e-6, err_msg=path)


def test_stages_may_close_and_open_again(network) -> None:
    steps, start = gradients(12), {path: np.array(v) for path, v in network.items()}
    bias = ["late/bias"]
    plain = keras.optimizers.Adam(0.02)
    first = phase(network, plain, bias)
    train(network, first, steps[:2], bias)
    second = phase(network, plain, LATE, first)
    train(network, second, steps[2:5], LATE)
    third = phase(network, plain, list(SHAPES), second)
    train(network, third, steps[5:7], list(SHAPES))
    fourth = phase(network, plain, LATE, third)
    train(network, fourth, steps[7:10], LATE)
    reopened = np.array(network[EARLY[0]])
    train(network, phase(network, plain, list(SHAPES), fourth), steps[10:], list(SHAPES))
    for path, began in (("late/bias", 0), ("late/kernel", 2)):
        expected = adam(start[path], [step[path] for step in steps[began:]], 0.02)
        np.testing.assert_allclose(network[path], expected, rtol=2e-5, atol=1e-6, err_msg=path)
    expected = adam(reopened, [step[EARLY[0]] for step in steps[10:]], 0.02)
    np.testing.assert_allclose(network[EARLY[0]], expected, rtol=2e-5, atol=1e-6)


def test_a_phase_of_other_variables_alone_starts_afresh(network) -> None:
    steps, start = gradients(9), np.array(network[EARLY[0]])
    first = phase(network, keras.optimizers.Adam(0.02), LATE)
    train(network, first, steps[:5], LATE)
    train(network, phase(network, keras.optimizers.Adam(0.02), EARLY, first), steps[5:], EARLY)
    expected = adam(start, [step[EARLY[0]] for step in steps[5:]], 0.02)
    np.testing.assert_allclose(network[EARLY[0]], expected, rtol=2e-5, atol=1e-6)


def test_cohorts_are_empty_where_all_began_together(network) -> None:
    variables = list(network.values())
    assert optimizers.cohorts(None, variables) == {}
    first = phase(network, keras.optimizers.Adam(0.02), list(SHAPES))
    assert optimizers.cohorts(first, variables[1:]) == {}
    assert optimizers.cohorts(phase(network, keras.optimizers.Adam(0.02), LATE), variables) == {
        "early/kernel": 1,
        "late/kernel": 0,
        "late/bias": 0,
    }


def test_steps_are_counted_in_updates_where_gradients_accumulate(network) -> None:
    steps, start = gradients(10), np.array(network[EARLY[0]])
    plain = keras.optimizers.Adam(0.02, gradient_accumulation_steps=2)
    first = phase(network, plain, LATE)
    train(network, first, steps[:6], LATE)
    train(network, phase(network, plain, list(SHAPES), first), steps[6:], list(SHAPES))
    pairs = [(a[EARLY[0]] + b[EARLY[0]]) / 2 for a, b in (steps[6:8], steps[8:])]
    expected = adam(start, pairs, 0.02)
    np.testing.assert_allclose(network[EARLY[0]], expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("averaged_before", [True, False])
def test_averages_of_fresh_variables_start_at_their_present_value(network, averaged_before) -> None:
    steps = gradients(5)
    plain = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8)
    before = plain if averaged_before else keras.optimizers.SGD(0.1)
    first = phase(network, before, LATE)
    train(network, first, steps[:3], LATE)
    known = {path: np.array(network[path]) for path in SHAPES}
    if averaged_before:
        averages = optimizers.averages(first)
        known |= {variable.path: np.array(average) for variable, average in averages}
        assert not np.array_equal(known["late/bias"], network["late/bias"])
    second = phase(network, plain, list(SHAPES), first)
    for step in steps[3:]:
        train(network, second, [step], list(SHAPES))
        known = {path: 0.8 * known[path] + 0.2 * np.array(network[path]) for path in SHAPES}
    for variable, average in optimizers.averages(second):
        np.testing.assert_allclose(average, known[variable.path], rtol=1e-5, atol=1e-6)


def test_the_rate_is_that_of_the_new_phase(network) -> None:
    first = phase(network, keras.optimizers.SGD(0.1, momentum=0.9), LATE)
    train(network, first, gradients(2), LATE)
    second = phase(network, keras.optimizers.SGD(0.001, momentum=0.9), LATE, first)
    assert float(second.learning_rate) == pytest.approx(0.001)
    assert int(second.iterations) == 2


def test_the_loss_scale_goes_on(network) -> None:
    paths, steps = list(SHAPES), gradients(3)
    start = np.array(network[EARLY[0]])

    def scaled():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02), initial_scale=8.0)

    first = phase(network, scaled(), LATE)
    train(network, first, [{path: np.full(s, np.nan) for path, s in SHAPES.items()}], LATE)
    train(network, first, steps[:1], LATE)
    second = phase(network, scaled(), paths, first)
    assert float(second.dynamic_scale) == 4.0
    train(network, second, steps[1:], paths)
    expected = adam(start, [step[EARLY[0]] / 4 for step in steps[1:]], 0.02)
    np.testing.assert_allclose(network[EARLY[0]], expected, rtol=2e-5, atol=1e-6)


def stored(optimizer):
    store = {}
    optimizer.save_own_variables(store)
    return store


@pytest.mark.parametrize("base", BASES)
def test_every_variable_of_the_state_has_a_key_that_names_its_owner(network, base) -> None:
    optimizer = phase(network, base(0.02, use_ema=True), list(SHAPES))
    keys = [key for key, _ in optimizers.keyed(optimizer.variables)]
    assert len(set(keys)) == len(keys)
    owned = [key for key in keys if "|" in key]
    assert {key.split("|", 1)[1].replace("|", "/") for key in owned} == set(SHAPES)
    single = {"_iterations", "_learning_rate", "_u_product"}
    assert set(keys) - set(owned) <= single
    again = phase(network, base(0.02, use_ema=True), list(SHAPES))
    assert [key for key, _ in optimizers.keyed(again.variables)] == keys


@pytest.mark.parametrize("base", BASES)
def test_state_survives_saving_and_loading(network, base) -> None:
    paths = list(SHAPES)
    first = phase(network, base(0.02), LATE)
    train(network, first, gradients(3), LATE)
    second = phase(network, base(0.02), paths, first)
    train(network, second, gradients(2), paths)
    # With the variables in another order, as no file by order would stand.
    config = second.get_config()
    loaded = type(second).from_config(config)
    loaded.build([network[path] for path in reversed(paths)])
    loaded.load_own_variables(stored(second))
    assert loaded.cohorts == {"early/kernel": 1, "late/kernel": 0, "late/bias": 0}
    start = {path: np.array(v) for path, v in network.items()}
    train(network, second, gradients(3, seed=2), paths)
    expected = {path: np.array(v) for path, v in network.items()}
    for path, v in network.items():
        v.assign(start[path])
    train(network, loaded, gradients(3, seed=2), paths)
    for path, v in network.items():
        np.testing.assert_array_equal(v, expected[path], err_msg=path)


def test_the_state_of_other_variables_is_refused(network) -> None:
    late = phase(network, keras.optimizers.Adam(0.02), LATE)
    early = phase(network, keras.optimizers.Adam(0.02), EARLY)
    with pytest.raises(checks.WeightsError, match=r"must hold 6 variables. Received: 4; .*\|early"):
        late.load_own_variables(stored(early))
    store = stored(early)
    store["_momentums|early|kernel"] = np.ones((3, 3))
    with pytest.raises(
        checks.WeightsError, match=r"must have the shape \(2, 3\). Received: shape=\(3, 3\)"
    ):
        early.load_own_variables(store)


def model(head="head"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(5, activation="tanh", name="body")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name=head)(x))


def fit(compiled):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(24, 4)).astype("float32"), generator.integers(0, 3, 24)
    return compiled.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history["loss"]


def compiled(plain, head="head"):
    made = model(head)
    rates = {v.path: 1.0 if "head" in v.path else 0.1 for v in made.trainable_variables}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(optimizers.with_multipliers(plain, rates), loss)
    return made, rates


@pytest.mark.parametrize(
    "plain",
    [
        keras.optimizers.AdamW(0.02, global_clipnorm=1.0),
        keras.optimizers.Nadam(0.02),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adafactor(0.02)),
    ],
    ids=["adamw", "nadam", "scaled adafactor"],
)
def test_a_saved_model_goes_on_with_the_same_losses(tmp_path, plain) -> None:
    trained, rates = compiled(plain)
    fit(trained)
    trained.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert optimizers.inner(loaded.optimizer).multipliers == rates
    assert fit(loaded) == fit(trained)
    for a, b in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weights_of_a_network_of_other_names_do_not_bring_their_state(tmp_path) -> None:
    for name in ("head", "other_head"):
        made, _ = compiled(keras.optimizers.AdamW(0.02), name)
        made.optimizer.build(made.trainable_variables)
        if name == "head":
            made.save_weights(tmp_path / "head.weights.h5")
    with pytest.raises(ValueError, match="on one side alone"):
        made.load_weights(tmp_path / "head.weights.h5")
