"""Default learning rates of fine-tuning, each with its reason (S10 of docs/source-rules.md).

The source text says 1e-4 or below, because the network has converged on the source data. That holds
for optimizers of the Adam family, whose step has the size of the rate whatever the gradient; other
families measure their rate in other units.
"""

from finetune_kit import checks

ADAM_RATE = 1e-4
# Bodies as small as MobileNet 0.25 and the bundled network: with 20 labelled images a class,
# cross-validation on three sets preferred this to 1e-4, and at 1e-3 the loss exploded.
SMALL_BODY = 1_000_000  # parameters
SMALL_BODY_RATE = 3e-4
LARGE_BODY = 50_000_000  # parameters
LARGE_BODY_FACTOR = 0.3

# Optimizer to (rate relative to Adam's, why).
_FAMILIES = {
    "adam": (1.0, "Adam's step is as long as the rate"),
    "adamw": (1.0, "Adam's step is as long as the rate"),
    "nadam": (1.0, "Adam's step is as long as the rate"),
    "adamax": (2.0, "Adamax divides by a maximum, so its steps are shorter than Adam's"),
    "rmsprop": (1.0, "RMSProp's step is about as long as the rate"),
    "lion": (0.2, "every step of Lion has full length (Chen et al., 2023, section 5)"),
    "adagrad": (10.0, "Adagrad's steps shrink with the square root of time"),
    "sgd": (300.0, "SGD's step is the rate times a small gradient (BiT, Kolesnikov et al., 2020)"),
    "momentum": (100.0, "momentum 0.9 adds up ten steps of SGD"),
    "nesterov": (100.0, "momentum 0.9 adds up ten steps of SGD"),
    "adafactor": (10.0, "Adafactor multiplies the rate by the size of the weights"),
    "lamb": (10.0, "LAMB multiplies the rate by the size of the weights"),
    "adadelta": (1000.0, "Adadelta finds its own step; the rate only scales it"),
}


def default_rate(optimizer: str, *, parameters: int) -> tuple[float, str]:
    """Returns the default peak rate for fine-tuning a pretrained body, and the reason.

    Args:
        optimizer: A name of `training.presets.OPTIMIZERS`.
        parameters: Parameters of the backbone.

    Raises:
        ConfigError: An unknown optimizer.
    """
    checks.one_of("optimizer", optimizer, _FAMILIES)
    relative, why = _FAMILIES[optimizer]
    base, body = ADAM_RATE, "a body that has converged on its source"
    if parameters < SMALL_BODY:
        base = SMALL_BODY_RATE
        body = f"a body of {parameters / 1e6:.2f} million parameters, which takes larger steps"
    elif parameters > LARGE_BODY:
        base = ADAM_RATE * LARGE_BODY_FACTOR
        body = f"a body of {parameters / 1e6:.0f} million parameters, which forgets at larger ones"
    rate = float(f"{base * relative:.2g}")
    return rate, f"{rate:g}: {base:g} for {body}, times {relative:g} since {why} (S10)"
