"""The device that trains: a GPU where TensorFlow sees one."""

import platform
from typing import Any

from finetune_kit import checks, cores


def choose_device(precision: str = "float32", *, config: Any = None) -> str:
    """Prepares the GPUs, if there are any, and returns the name of the device that trains.

    Memory grows with need, so that several runs can share a GPU.

    Args:
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        config: `tf.config`, or what answers like it.

    Raises:
        ConfigError: mixed_float16 without a GPU: no processor computes with it.
        EnvironmentFault: TensorFlow was in use before its memory could be set to grow.
    """
    if config is None:
        import tensorflow as tf

        config = tf.config
    gpus = config.list_physical_devices("GPU")
    if not gpus:
        if precision == "mixed_float16":
            raise checks.ConfigError(
                "mixed_float16 needs a GPU, and TensorFlow sees none. "
                + checks.received(precision=precision)
                + ". Use float32."
            )
        return f"CPU, {cores.described()} ({platform.machine()})"
    try:
        for gpu in gpus:
            config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:
        raise checks.EnvironmentFault(
            f"A GPU must be chosen before TensorFlow is used. Received: {error}"
        ) from error
    details = config.experimental.get_device_details(gpus[0])
    name = details.get("device_name", "GPU")
    return f"GPU, {name}" + (f", {len(gpus)} of them, one is used" if len(gpus) > 1 else "")
