"""Epochs enough for a number of steps, between few and many."""

import math

import pytest

from finetune_kit import strategy


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [
        (1, 32, 30),  # one step an epoch would take 400 epochs
        (320, 32, 30),  # 10 steps: 40
        (640, 32, 20),  # 20 steps: 20
        (641, 32, 19),  # 21 steps: 19.05
        (1280, 32, 10),  # 40 steps: 10
        (50_000, 32, 10),  # 1563 steps: 0.26
        (640, 64, 30),  # 10 steps: 40
    ],
)
def test_400_steps_within_10_to_30_epochs(images, batch_size, epochs) -> None:
    given, reason = strategy.default_epochs(images, batch_size=batch_size)
    assert given == epochs
    assert isinstance(given, int)
    steps = math.ceil(images / batch_size)
    assert reason == f"{epochs} epochs: 400 steps at {steps} an epoch, within 10 to 30 epochs"
