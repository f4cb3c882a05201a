"""What trains, how fast and for how long: phases as values. Nothing here trains."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Phase": "phases",
        "Schedule": "schedules",
        "Tuning": "plans",
        "apply": "applying",
        "batch_norm_only": "plans",
        "check": "phases",
        "default_epochs": "lengths",
        "default_rate": "rates",
        "discriminative": "plans",
        "everything": "plans",
        "gradual": "plans",
        "last_stages": "plans",
        "one_stage": "plans",
        "probe": "plans",
        "rates": "rates",
        "schedules": "schedules",
        "spread": "plans",
        "table": "phases",
    },
)
