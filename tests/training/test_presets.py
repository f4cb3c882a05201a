"""The optimizers of the source text (S9) against NumPy transcriptions of the corrected formulas."""

import keras
import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.training import optimizers, presets

STEPS = 7


def start():
    """Returns two weights, float64."""
    generator = np.random.default_rng(0)
    return [generator.normal(size=(3, 2)), generator.normal(size=4)]


def gradients(scale):
    """Returns STEPS gradients of the two weights, one element of them zero throughout."""
    generator = np.random.default_rng(1)
    steps = [[scale * generator.normal(size=w.shape) for w in start()] for _ in range(STEPS)]
    for step in steps:
        step[1][2] = 0.0
    return steps


def run(optimizer, steps, weights=None):
    """Returns the weights after every step of a Keras optimizer."""
    weights = start() if weights is None else weights
    variables = [keras.Variable(w.astype("float32"), name=f"w{i}") for i, w in enumerate(weights)]
    path = []
    for step in steps:
        optimizer.apply([keras.ops.convert_to_tensor(g, "float32") for g in step], variables)
        path.append([np.array(variable) for variable in variables])
    return path


def follow(rule, steps, weights=None):
    """Returns the weights after every step of `rule(gradients so far)`, which is subtracted."""
    weights = start() if weights is None else weights
    path = []
    for t in range(1, len(steps) + 1):
        past = [[step[i] for step in steps[:t]] for i in range(len(weights))]
        weights = [w - rule(g) for w, g in zip(weights, past, strict=True)]
        path.append(weights)
    return path


def assert_same_path(actual, expected):
    before = start()
    for found, wanted in zip(actual, expected, strict=True):
        for w0, a, b in zip(before, found, wanted, strict=True):
            np.testing.assert_allclose(a - w0, b - w0, rtol=2e-5, atol=3e-7)


def momentum(rate):
    """Returns the sum over the past with weights 0.9 ** age: v <- 0.9 v + rate g."""
    return lambda past: rate * sum(0.9**age * g for age, g in enumerate(reversed(past)))


def adagrad(rate):
    """Sums from zero; epsilon once, outside of the sum."""
    return lambda past: rate * past[-1] / np.sqrt(sum(g**2 for g in past) + 1e-6)


def rmsprop(rate):
    def rule(past):
        mean = sum(0.1 * 0.9**age * g**2 for age, g in enumerate(reversed(past)))
        return rate * past[-1] / np.sqrt(mean + 1e-6)

    return rule


def adam(rate, epsilon=1e-8):
    """Kingma & Ba, 2015, end of section 2: epsilon hat beside the root of the raw moment."""

    def rule(past):
        t = len(past)
        first = sum(0.1 * 0.9**age * g for age, g in enumerate(reversed(past)))
        second = sum(0.001 * 0.999**age * g**2 for age, g in enumerate(reversed(past)))
        return rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * first / (np.sqrt(second) + epsilon)

    return rule


@pytest.mark.parametrize("scale", [1.0, 1e-3])  # epsilon decides at 1e-3: g ** 2 is about 1e-6
@pytest.mark.parametrize(
    ("name", "rule", "rate"),
    [
        ("sgd", lambda rate: lambda past: rate * past[-1], 0.1),
        ("momentum", momentum, 0.1),
        ("adagrad", adagrad, 0.1),
        ("rmsprop", rmsprop, 0.01),
        ("adam", adam, 0.01),
    ],
)
def test_source_optimizers_follow_the_corrected_formulas(name, rule, rate, scale) -> None:
    optimizer = optimizers.build(name, learning_rate=rate, preset="source")
    steps = gradients(scale)
    assert_same_path(run(optimizer, steps), follow(rule(rate), steps))


def test_the_formulas_tell_the_corrections_apart() -> None:
    steps = gradients(1e-3)
    actual = run(optimizers.build("adagrad", learning_rate=0.1, preset="source"), steps)

    def epsilon_each_step(past):
        return 0.1 * past[-1] / np.sqrt(sum(g**2 + 1e-6 for g in past))

    def from_a_tenth(past):
        return 0.1 * past[-1] / np.sqrt(0.1 + sum(g**2 for g in past) + 1e-6)

    for other in (epsilon_each_step, from_a_tenth):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_same_path(actual, follow(other, steps))


def first_step(name, rate):
    weights, ones = [np.zeros(3)], [[np.array([1.0, -1.0, 5.0])]]
    optimizer = optimizers.build(name, learning_rate=rate, preset="source")
    return -run(optimizer, ones, weights)[0][0]


def test_first_adam_step_as_printed_would_be_16_6_times_too_large() -> None:
    actual = first_step("adam", 0.001)
    np.testing.assert_allclose(actual, [0.001, -0.001, 0.001], rtol=1e-5)  # subtracted
    gradient = np.array([1.0, -1.0, 5.0])
    # Powers of two in the place of powers of t, and the root of the raw second moment.
    printed = 0.001 * (0.1 * gradient / (1 - 0.9**2)) / np.sqrt(0.001 * gradient**2)
    np.testing.assert_allclose(printed / actual, 16.6, atol=0.05)


def test_first_rmsprop_step_at_the_printed_rate_would_be_3_16() -> None:
    np.testing.assert_allclose(np.abs(first_step("rmsprop", 1.0)), 3.16, atol=0.003)
    np.testing.assert_allclose(np.abs(first_step("rmsprop", 0.001)), 0.00316, atol=3e-6)


def test_first_adagrad_step_has_the_length_of_the_rate() -> None:
    np.testing.assert_allclose(np.abs(first_step("adagrad", 0.01)), 0.01, rtol=1e-5)
    plain = run(optimizers.build("adagrad", learning_rate=0.01), [[np.ones(3)]], [np.zeros(3)])
    np.testing.assert_allclose(-plain[0][0], 0.01 / np.sqrt(1.1), rtol=1e-5)  # Keras' 0.1


def test_nesterov_looks_ahead() -> None:
    # Sutskever et al., 2013, in the form whose weights are the point looked ahead to.
    steps = gradients(1.0)
    ahead = follow(lambda past: 0.9 * momentum(0.1)(past) + 0.1 * past[-1], steps)
    assert_same_path(run(optimizers.build("nesterov", learning_rate=0.1), steps), ahead)


def test_adamw_shrinks_weights_by_rate_times_decay() -> None:
    steps, weights = gradients(1.0), start()
    actual = run(optimizers.build("adamw", learning_rate=0.01, weight_decay=0.3), steps)
    expected = []
    for t in range(1, STEPS + 1):
        past = [[step[i] for step in steps[:t]] for i in range(2)]
        weights = [
            (1 - 0.01 * 0.3) * w - adam(0.01, epsilon=1e-7)(g)
            for w, g in zip(weights, past, strict=True)
        ]
        expected.append(weights)
    assert_same_path(actual, expected)


@pytest.mark.parametrize("name", presets.OPTIMIZERS)
def test_every_name_makes_its_optimizer_with_and_without_decay(name) -> None:
    for decay in (0.0, 0.01):
        made = optimizers.build(name, learning_rate=0.01, weight_decay=decay)
        assert type(made).__name__ == presets.OPTIMIZERS[name].constructor
        assert made.weight_decay == decay
        settings = made.get_config()
        assert all(settings[key] == value for key, value in presets.OPTIMIZERS[name].keras.items())
        run(made, gradients(1.0)[:1])


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(checks.ConfigError, match="optimizer='adamx'. Did you mean 'adam"):
        presets.arguments("adamx", "keras")
    with pytest.raises(checks.ConfigError, match="preset must be one of keras, source. Received"):
        presets.arguments("adam", "book")


def test_the_source_text_has_five_optimizers() -> None:
    with pytest.raises(
        checks.ConfigError,
        match="The preset 'source' has sgd, momentum, adagrad, rmsprop, adam. Received: .*'lion'",
    ):
        presets.arguments("lion", "source")
