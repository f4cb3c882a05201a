"""The bundled network against the conventions S4 and S5 of the source text."""

import keras
import numpy as np
import pytest
from keras import layers

from finetune_kit import backbones
from finetune_kit.backbones import building, network


def of_kind(model, kind):
    """Returns the layers of one class."""
    return [layer for layer in model.layers if isinstance(layer, kind)]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_convolutions_follow_s4(size) -> None:
    convolutions = of_kind(network.build(size), layers.Conv2D)
    assert len(convolutions) == 7
    for layer in convolutions:
        assert layer.kernel_size == (3, 3)
        assert layer.strides == layer.dilation_rate == (1, 1)
        assert layer.groups == 1
        assert layer.padding == "same"
        assert layer.input.shape[1:3] == layer.output.shape[1:3]
        assert layer.filters.bit_count() == 1


@pytest.mark.parametrize("size", [32, 64, 128])
def test_pooling_follows_s5(size) -> None:
    pools = of_kind(network.build(size), layers.MaxPooling2D)
    assert len(pools) == 3
    for layer in pools:
        assert layer.pool_size == layer.strides == (2, 2)
        side = layer.input.shape[1]
        assert layer.output.shape[1:3] == (side // 2, side // 2)
        assert side**2 == 4 * layer.output.shape[1] ** 2


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_raw_pixels_become_an_eighth_of_the_side_and_256_features(size) -> None:
    model = network.build(size)
    assert model.input.shape == (None, size, size, 3)
    assert model.output.shape == (None, size // 8, size // 8, 256)
    allowed = (
        layers.InputLayer,
        layers.Rescaling,
        layers.Conv2D,
        layers.BatchNormalization,
        layers.ReLU,
        layers.MaxPooling2D,
    )
    assert all(isinstance(layer, allowed) for layer in model.layers)


def test_the_number_of_parameters_is_that_of_its_filters() -> None:
    widths = [3, 32, 32, 64, 64, 128, 128, 256]
    kernels = sum(9 * a * b for a, b in zip(widths, widths[1:], strict=False))
    assert network.build(32).count_params() == kernels + 4 * sum(widths[1:])


def test_weights_are_the_same_at_every_size() -> None:
    small, large = network.build(32), network.build(128)
    large.set_weights(small.get_weights())
    assert [w.path for w in small.weights] == [w.path for w in large.weights]


def test_a_forward_pass_is_the_formula() -> None:
    model = building.build("2|4", 8)
    generator = np.random.default_rng(1)
    model.set_weights([generator.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    pixels = generator.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    x = pixels / 127.5 - 1
    for b in (1, 2):
        if b == 2:
            x = x.reshape(2, 4, 2, 4, 2, 2).max(axis=(2, 4))
        kernel = model.get_layer(f"block_{b}_conv_1").get_weights()[0]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.einsum("nhwcij,ijcf->nhwf", windows, kernel)
        gamma, beta, mean, variance = model.get_layer(f"block_{b}_conv_1_bn").get_weights()
        x = np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    np.testing.assert_allclose(model(pixels), x, rtol=1e-4, atol=1e-4)


def test_its_stages_are_its_blocks() -> None:
    stages = backbones.find_stages(network.build(32))
    assert [stage.output.shape[1:] for stage in stages] == [
        (32, 32, 32),
        (16, 16, 64),
        (8, 8, 128),
        (4, 4, 256),
    ]
    assert [stage.layers[0] for stage in stages] == ["pixels", "pool_1", "pool_2", "pool_3"]


def test_pixels_are_scaled_in_float32_in_any_precision() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        model = network.build(32)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert model.get_layer("rescaling").compute_dtype == "float32"
    assert model.get_layer("block_1_conv_1").compute_dtype == "bfloat16"
