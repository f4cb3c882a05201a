"""Options are checked when they are made, and cost no TensorFlow."""

import dataclasses
import subprocess
import sys

import pytest

from finetune_kit import checks
from finetune_kit.training import options


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"optimizer": "momentun"}, "optimizer='momentun'. Did you mean 'momentum'"),
        ({"preset": "book"}, "preset must be one of keras, source"),
        ({"preset": "source"}, "preset 'source' has .* Received: optimizer='adamw'"),
        ({"weight_decay": -0.1}, r"weight_decay must lie in \[0, inf\)"),
        ({"weight_decay": float("nan")}, r"weight_decay must lie in"),
        ({"batch_size": 0}, r"batch_size must lie in \[1, inf\)"),
        ({"label_smoothing": 1.0}, r"label_smoothing must lie in \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"label_smoothing must lie in \[0, 1\)"),
        ({"clip_norm": -1.0}, r"clip_norm must lie in \[0, inf\)"),
        ({"ema": 1.0}, r"ema must lie in \[0, 1\)"),
        ({"ema": -0.1}, r"ema must lie in \[0, 1\)"),
        ({"l2_sp": -0.1}, r"l2_sp must lie in \[0, inf\)"),
        ({"wise": 0.0}, r"wise must lie in \[0.01, 1\]"),
        ({"wise": 1.1}, r"wise must lie in \[0.01, 1\]"),
        ({"imbalance": "focal"}, "imbalance must be one of none, weights, sampling"),
        ({"patience": -1}, r"patience must lie in \[0, inf\)"),
    ],
)
def test_values_out_of_range_are_refused(values, match) -> None:
    with pytest.raises(checks.ConfigError, match=match):
        options.Options(**values)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    made = options.Options(
        optimizer="adagrad",
        preset="source",
        weight_decay=0.0,
        batch_size=1,
        label_smoothing=0.0,
        clip_norm=0.0,
        ema=0.0,
        imbalance="sampling",
        patience=0,
    )
    assert dataclasses.replace(made, ema=0.999, label_smoothing=0.999).ema == 0.999


def test_options_and_outcomes_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.Options().batch_size = 64
    outcome = options.Outcome(history=(), chosen_epoch=0, planned_epochs=0, reason="")
    with pytest.raises(dataclasses.FrozenInstanceError):
        outcome.reason = "another"


def test_plain_values_need_no_tensorflow() -> None:
    modules = ("training.options", "training.presets", "training.choosing", "training.checkpoints")
    names = ", ".join(f"finetune_kit.{name}" for name in (*modules, "strategy.rates"))
    code = f"import sys, {names}; print(sorted(sys.modules.keys() & {{'keras', 'tensorflow'}}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
