"""How the learning rate moves over the epochs of a phase (S8 of docs/source-rules.md)."""

import dataclasses

from finetune_kit import checks

NAMES = ("constant", "step", "exponential", "fractional", "cosine")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate over epochs, relative to the phase's peak; t counts epochs from 0.

    constant     peak
    step         peak * 0.5 ** floor(t / halve_every)
    exponential  peak * decay ** floor(t)
    fractional   peak / (1 + k * floor(t))
    cosine       peak * (1 + cos(pi * t / T)) / 2, with T the epochs of the phase (Loshchilov &
                 Hutter, 2017, "SGDR", section 3, without restarts)

    With a warm-up of w epochs the rate first rises linearly from 0 to the peak (Goyal et al., 2017,
    "Accurate, Large Minibatch SGD", section 2.2); t counts, and T ends, from the end of the rise.

    Attributes:
        name: One of `NAMES`.
        warmup_epochs: w, at least 0; less than the epochs of the phase.
        halve_every: Epochs between two halvings, at least 1.
        decay: Factor an epoch, in (0, 1].
        k: Strength of the fractional decay an epoch, at least 0.

    Raises:
        ConfigError: An unknown name or a value out of range.
    """

    name: str = "cosine"
    warmup_epochs: float = 0.0
    halve_every: int = 5
    decay: float = 0.9
    k: float = 0.5

    def __post_init__(self) -> None:
        checks.one_of("schedule", self.name, NAMES)
        checks.in_range("warmup_epochs", self.warmup_epochs, 0.0)
        checks.in_range("halve_every", self.halve_every, 1)
        checks.in_range("decay", self.decay, 1e-6, 1.0)
        checks.in_range("k", self.k, 0.0)
