"""Training: optimizers with rates by depth, schedules, the loop, checkpoints, TensorBoard."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "CheckpointStore": "checkpoints",
        "Options": "options",
        "Outcome": "options",
        "choose_device": "device",
        "keras_schedule": "schedules",
        "optimizers": "optimizers",
        "presets": "presets",
        "run": "running",
    },
)
