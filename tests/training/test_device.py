"""The choice of a device, with a stand-in for tf.config."""

import types

import pytest

from finetune_kit import checks, cores
from finetune_kit.training import device


class Config:
    """Answers like tf.config and notes what grows."""

    def __init__(self, gpus, details=None, error=None):
        self.gpus, self.details, self.error = gpus, details or {}, error
        self.growing = []
        self.experimental = types.SimpleNamespace(
            set_memory_growth=self.set_memory_growth,
            get_device_details=lambda gpu: self.details,
        )

    def list_physical_devices(self, kind):
        return self.gpus if kind == "GPU" else ["cpu:0"]

    def set_memory_growth(self, gpu, enable):
        if self.error:
            raise self.error
        self.growing.append((gpu, enable))


def test_without_a_gpu_the_processor_trains() -> None:
    name = device.choose_device(config=Config([]))
    assert name.startswith(f"CPU, {cores.available()} core")
    assert device.choose_device("mixed_bfloat16", config=Config([])) == name


def test_a_gpu_is_named_and_its_memory_grows() -> None:
    config = Config(["gpu:0"], {"device_name": "Tesla T4"})
    assert device.choose_device("mixed_float16", config=config) == "GPU, Tesla T4"
    assert config.growing == [("gpu:0", True)]


def test_of_several_gpus_one_is_used_and_all_grow() -> None:
    config = Config(["gpu:0", "gpu:1"])
    assert device.choose_device(config=config) == "GPU, GPU, 2 of them, one is used"
    assert config.growing == [("gpu:0", True), ("gpu:1", True)]


def test_half_precision_without_a_gpu_is_refused() -> None:
    with pytest.raises(
        checks.ConfigError,
        match="mixed_float16 needs a GPU, .* Received: precision='mixed_float16'. Use float32",
    ):
        device.choose_device("mixed_float16", config=Config([]))


def test_a_gpu_that_is_already_in_use_is_an_environment_fault() -> None:
    error = RuntimeError("Physical devices cannot be modified after being initialized")
    with pytest.raises(
        checks.EnvironmentFault, match="before TensorFlow is used. Received: Physical devices"
    ):
        device.choose_device(config=Config(["gpu:0"], error=error))


def test_tensorflow_itself_is_asked_by_default(monkeypatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert device.choose_device().startswith("CPU")
