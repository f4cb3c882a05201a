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
        "Pool": "pools",
        "Split": "types",
        "batches": "pipeline",
        "check_source": "loading",
        "class_weights": "order",
        "cross_validation": "splits",
        "decode": "decode",
        "evaluation_batches": "pipeline",
        "load": "loading",
        "load_pool": "pools",
        "paired_batches": "pairs",
        "sizes": "sizes",
        "steps_per_epoch": "pipeline",
        "view_batches": "pipeline",
    },
)
