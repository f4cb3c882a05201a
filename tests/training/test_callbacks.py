"""What happens between two steps of a real fit: the rate, the watch over the loss (S7), the bar."""

import math

import keras
import numpy as np
import pytest

from finetune_kit.training import callbacks

SIZE = 4  # images a batch


class Counted(keras.layers.Layer):
    """The identity; counts how often Python comes by, once a trace."""

    traces = 0

    def call(self, inputs):
        Counted.traces += 1
        return inputs


@pytest.fixture(scope="module")
def echo():
    """Returns a model whose loss for an image is the image times a weight."""
    inputs = keras.Input((1,))
    layer = keras.layers.Dense(1, use_bias=False, name="weight")
    model = keras.Model(inputs, Counted()(layer(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss=lambda _, predicted: predicted[:, 0])
    return model


def fit(model, losses, watchers, *, epochs=1):
    """Trains at the present rate from weight 1; `losses` holds one number for each image."""
    model.set_weights([np.ones((1, 1))])
    images = np.reshape(np.asarray(losses, "float32"), (-1, 1))
    zeros = np.zeros(len(images))
    return model.fit(
        images, zeros, batch_size=SIZE, epochs=epochs, shuffle=False, verbose=0, callbacks=watchers
    )


class Spy(keras.callbacks.Callback):
    """Notes the rate and the weight after each step."""

    def __init__(self):
        super().__init__()
        self.rates, self.weights = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))
        self.weights.append(float(self.model.get_weights()[0][0, 0]))


def test_each_step_is_made_at_the_rate_of_its_middle(echo) -> None:
    spy = Spy()
    rates = callbacks.Rates(lambda epoch: 0.01 / (1 + epoch), first_epoch=0, steps=4)
    fit(echo, np.ones(16), [rates, spy], epochs=3)
    middles = [epoch + (batch + 0.5) / 4 for epoch in range(3) for batch in range(4)]
    expected = [0.01 / (1 + t) for t in middles]
    np.testing.assert_allclose(spy.rates, expected, rtol=1e-6)
    # The gradient is 1, so a step is the rate: it was set before the step, not after it.
    np.testing.assert_allclose(spy.weights, 1 - np.cumsum(expected), rtol=1e-5)
    assert rates.current == pytest.approx(expected[-1], rel=1e-6)


def test_epochs_count_from_the_beginning_of_the_phase(echo) -> None:
    seen = []
    rates = callbacks.Rates(lambda epoch: seen.append(epoch) or 0.0, first_epoch=7, steps=2)
    images, zeros = np.ones((8, 1)), np.zeros(8)
    echo.fit(images, zeros, batch_size=4, initial_epoch=7, epochs=9, verbose=0, callbacks=[rates])
    assert np.concatenate(seen).tolist() == [0.25, 0.75, 1.25, 1.75]


def test_another_schedule_needs_no_new_trace(echo) -> None:
    fit(echo, np.ones(8), [callbacks.Rates(lambda epoch: 0.1, first_epoch=0, steps=2)])
    traces = Counted.traces
    schedule = keras.optimizers.schedules.CosineDecay(0.3, 3)
    fit(echo, np.ones(16), [callbacks.Rates(schedule, first_epoch=0, steps=4)], epochs=3)
    assert Counted.traces == traces > 0


def test_the_rate_reaches_the_optimizer_below_a_loss_scale() -> None:
    inner = keras.optimizers.SGD(0.0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.LossScaleOptimizer(inner), loss="mse")
    rates = callbacks.Rates(lambda epoch: 0.25, first_epoch=0, steps=1)
    rates.set_model(model)
    rates.on_epoch_begin(0)
    rates.on_train_batch_begin(0)
    assert float(inner.learning_rate) == 0.25


def watch(images, *, guard=True, num_classes=2):
    return callbacks.Watch(images=images, batch_size=SIZE, num_classes=num_classes, guard=guard)


def batches(*means, last=SIZE):
    """Returns a loss for every image such that the batches have these means."""
    spread = np.array([-0.3, 0.1, 0.4, -0.2])
    parts = [m + spread for m in means[:-1]]
    tail = spread[:last] - spread[:last].mean()
    return np.concatenate([*parts, means[-1] + tail])


def watched(echo, losses, *, epochs=1, **settings):
    """Returns the watch after a fit with rate 0, and the steps that were made."""
    watcher, spy = watch(len(losses), **settings), Spy()
    echo.optimizer.learning_rate = 0.0
    fit(echo, losses, [watcher, spy], epochs=epochs)
    return watcher, len(spy.rates)


def test_an_explosion_is_seen_in_the_loss_of_its_own_batch(echo) -> None:
    # The running mean is 2.9, below the ceiling of 4 * 2; the batch is above it.
    losses = batches(2.0, 1.0, 1.5, 0.5, 1.25, 8.5, 1.0)
    watcher, steps = watched(echo, losses)
    assert watcher.exploded == "the loss went from 2 to 8.5 in 6 steps"
    assert steps == 6
    assert not watcher.diverged


@pytest.mark.parametrize(("peak", "explodes"), [(7.99, False), (8.01, True)])
def test_the_ceiling_is_four_times_the_first_loss(echo, peak, explodes) -> None:
    # In the last batch, which is a smaller one, of two images.
    watcher, steps = watched(echo, batches(2.0, 1.0, 3.0, peak, last=2))
    assert bool(watcher.exploded) is explodes
    assert steps == 4


def test_losses_are_recovered_in_later_epochs_too(echo) -> None:
    # Noise in the running mean adds up; ten times the least step of the ceiling is left.
    losses = batches(2.0, 7.999, 0.1, 7.999, last=1)
    watcher, steps = watched(echo, losses, epochs=5)
    assert (watcher.exploded, watcher.diverged, steps) == (None, False, 20)


def test_an_explosion_in_the_first_batch_of_a_later_epoch_is_seen(echo) -> None:
    class Jump(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.set_weights([np.full((1, 1), 5.0)])

    echo.optimizer.learning_rate = 0.0
    watcher = watch(8)
    fit(echo, batches(2.0, 1.0), [watcher, Jump()], epochs=3)
    assert watcher.exploded == "the loss went from 2 to 10 in 5 steps"


@pytest.mark.parametrize(("peak", "explodes"), [(9.2, False), (9.22, True)])
def test_guessing_is_the_least_ceiling(echo, peak, explodes) -> None:
    # 4 * log 10 = 9.2103.
    watcher, _ = watched(echo, batches(0.01, 0.02, peak), num_classes=10)
    assert bool(watcher.exploded) is explodes


@pytest.mark.parametrize(("step", "seen"), [(20, True), (21, False)])
def test_the_guard_stands_for_twenty_steps(echo, step, seen) -> None:
    means = [1.0] * 25
    means[step - 1] = 50.0
    watcher, steps = watched(echo, batches(*means))
    assert bool(watcher.exploded) is seen
    assert steps == (20 if seen else 25)


def test_a_first_loss_that_is_no_number_is_no_fault_of_the_rate(echo) -> None:
    watcher, steps = watched(echo, batches(math.nan, 1.0, 1.0))
    assert (watcher.exploded, watcher.diverged, steps) == (None, True, 1)


@pytest.mark.parametrize(("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_later_loss_that_is_no_number_is_an_explosion(echo, bad, shown) -> None:
    watcher, steps = watched(echo, batches(1.0, bad, 1.0))
    assert watcher.exploded == f"the loss went from 1 to {shown} in 2 steps"
    assert (watcher.diverged, steps) == (False, 2)


def test_after_the_guard_the_loss_is_looked_at_every_50_steps(echo) -> None:
    means = [1.0] * 70
    means[29] = math.nan
    watcher, steps = watched(echo, batches(*means))
    assert (watcher.exploded, watcher.diverged, steps) == (None, True, 50)


def test_without_a_guard_the_end_of_the_epoch_tells(echo) -> None:
    watcher, steps = watched(echo, batches(1.0, 90.0, math.nan, 1.0), guard=False, epochs=3)
    assert (watcher.exploded, watcher.diverged, steps) == (None, True, 4)


def softmax(rate):
    """Returns the watch and the steps of a softmax regression on 24 images of three classes."""
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 24)
    images = np.eye(3)[labels] + generator.normal(size=(24, 3))
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss)
    watcher, spy = watch(24, num_classes=3), Spy()
    model.fit(images, labels, batch_size=SIZE, epochs=4, verbose=0, callbacks=[watcher, spy])
    return watcher, len(spy.rates)


def test_a_rate_that_is_too_high_is_seen_and_a_good_one_passes() -> None:
    watcher, steps = softmax(1000.0)
    assert watcher.exploded
    assert 1 < steps < callbacks.GUARDED_STEPS
    watcher, steps = softmax(0.1)
    assert (watcher.exploded, watcher.diverged, steps) == (None, False, 24)


def test_the_meter_moves_by_one_a_step_and_shows_what_there_is() -> None:
    class Progress:
        calls = []

        def advance(self, n, **shown):
            self.calls.append((n, shown))

    meter = callbacks.Meter(Progress(), "head")
    meter.on_train_batch_end(0, {"loss": np.float32(0.5), "accuracy": 1, "other": 3})
    meter.on_train_batch_end(1)
    assert Progress.calls == [
        (1, {"phase": "head", "loss": 0.5, "accuracy": 1.0}),
        (1, {"phase": "head"}),
    ]
