"""Activations of a frozen backbone, computed once, and the heads that are solved on them."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "ActivationStore": "activations",
        "HeadSolution": "heads",
        "NoRoomError": "activations",
        "Views": "activations",
        "copy_head": "heads",
        "cut": "cuts",
        "expected_seconds": "heads",
        "extract": "extraction",
        "predict": "inference",
        "solve_head": "heads",
        "timed": "forward",
    },
)
