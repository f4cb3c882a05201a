"""Training: optimizers with rates by depth, schedules, the loop, checkpoints, TensorBoard."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "CheckpointStore": "checkpoints",
        "Contender": "racing",
        "Companion": "companions",
        "Options": "options",
        "Outcome": "options",
        "accompany": "companions",
        "choose_device": "device",
        "cross_validated_errors": "racing",
        "gradients_at_probe": "gradients",
        "keras_schedule": "schedules",
        "optimizers": "optimizers",
        "presets": "presets",
        "re_estimate": "statistics",
        "race": "racing",
        "relative_gradient_norms": "gradients",
        "run": "running",
    },
)
