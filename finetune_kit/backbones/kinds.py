"""Kinds of weights files, by the ending of the name; no Keras is imported to tell them apart."""

import importlib.util
import pathlib

from finetune_kit import checks

SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")


def kind_of(path: str) -> str:
    """Returns the ending of a file's name, with its dot; "" without one."""
    return pathlib.PurePath(path).suffix


def refuse_unreadable(path: str) -> None:
    """Refuses a file of a kind that cannot be read here, whatever it holds.

    Raises:
        UntrustedFileError: A pickle, which would run code when it is read.
        EnvironmentFault: The package that reads a `.safetensors` file is not installed.
    """
    if kind_of(path) in PICKLES:
        raise checks.UntrustedFileError(
            f"A weights file must hold numbers alone. Received: {path!r}, a pickle, which would "
            "run code. Save its state dict with safetensors.torch.save_file and give that file."
        )
    if kind_of(path) == SAFETENSORS and importlib.util.find_spec("safetensors") is None:
        raise checks.EnvironmentFault(
            "A .safetensors file needs the package safetensors, which is not installed. Received: "
            f"{path!r}. Install it with `pip install finetune-kit[safetensors]`."
        )
