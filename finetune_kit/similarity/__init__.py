"""How far images are from a backbone's source, and how well its features separate their classes."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Depth": "types",
        "Observation": "observing",
        "Observer": "observing",
        "Ranking": "ranking",
        "Similarity": "types",
        "StageFit": "types",
        "TaskFit": "types",
        "at_random": "selecting",
        "describing": "describing",
        "measure": "measuring",
        "mirrored": "probing",
        "moments": "moments",
        "nearest": "selecting",
        "observe": "observing",
        "per_stage": "measuring",
        "probe": "probing",
        "rank": "ranking",
        "recognised": "probing",
        "scores": "scores",
    },
)
