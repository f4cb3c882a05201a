"""What a run leaves behind: report, page, pictures and the exported model."""

from finetune_kit import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "ADVICE": "workdir",
        "CHECKPOINTS": "workdir",
        "FILES": "workdir",
        "Predictions": "predictions",
        "Report": "report",
        "TENSORBOARD": "workdir",
        "input_channels": "export",
        "input_size": "export",
        "load_model": "export",
        "next_numbered": "workdir",
        "prepare": "workdir",
        "read": "report",
        "read_advice": "advice",
        "refuse_used": "workdir",
        "save_model": "export",
        "versions": "report",
        "write": "writing",
        "write_advice": "advice",
        "write_advice_board": "tensorboard",
        "write_pictures": "tensorboard",
    },
)
