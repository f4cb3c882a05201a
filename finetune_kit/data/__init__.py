"""Where images come from, what is wrong with them, how they are split, and the way to a batch."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Arrays": "arrays",
        "Audit": "types",
        "BadFile": "types",
        "Fold": "types",
        "ImageData": "types",
        "LEVELS": "levels",
        "Split": "types",
        "batches": "pipeline",
        "check_source": "loading",
        "class_weights": "order",
        "decode": "decode",
        "evaluation_batches": "pipeline",
        "load": "loading",
        "steps_per_epoch": "pipeline",
    },
)
