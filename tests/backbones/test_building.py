"""Networks of a specification, against their filters counted by hand and NumPy's forward pass."""

import keras
import numpy as np
import pytest

from finetune_kit import backbones, checks
from finetune_kit.backbones import building, catalogue, network, specification


def parameters(blocks):
    """Returns kernels of 3x3 between neighbouring widths and four numbers of BatchNorm a filter."""
    widths = [3, *[width for block in blocks for width in block]]
    kernels = sum(9 * a * b for a, b in zip(widths, widths[1:], strict=False))
    return kernels + 4 * sum(widths[1:])


@pytest.mark.parametrize(
    ("line", "blocks"),
    [
        ("8", ((8,),)),
        ("32-32|64", ((32, 32), (64,))),
        (" 32 - 32 | 64-64|128 ", ((32, 32), (64, 64), (128,))),
    ],
)
def test_a_line_is_its_blocks(line, blocks) -> None:
    assert specification.parse(line) == blocks
    assert specification.parse(specification.line_of(blocks)) == blocks


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("", "''"), ("|32", "''"), ("32||64", "''"), ("32-", "''"), ("32,64", "'32,64'"),
        ("32-x", "'x'"), ("0|32", "'0'"), ("-32", "''"), ("32.0", "'32.0'"), ("²", "'²'"),
        ("131072", "'131072'"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_refused_with_the_word(line, word) -> None:
    with pytest.raises(checks.ConfigError, match="must be filters joined by -, blocks by") as error:
        specification.parse(line)
    assert f"{line!r}, in which {word} is no number of filters" in str(error.value)


def test_blocks_beyond_every_image_are_refused() -> None:
    with pytest.raises(checks.ConfigError, match="at most 10 blocks. Received: .*blocks=11"):
        specification.parse("|".join(["2"] * 11))


def test_filters_are_powers_of_two_unless_told_otherwise() -> None:
    with pytest.raises(checks.ConfigError, match=r"\(S4\). Received: 24, 48. To keep them"):
        building.build("24|48-32-24", 32)
    assert building.build("24|48", 32, any_filters=True).output.shape == (None, 16, 16, 48)


@pytest.mark.parametrize("line", ["8", "16-32|64", "2-4|8|16-16-16|32", "32-32|64-64|128-128|256"])
def test_parameters_and_maps_are_those_of_the_line(line) -> None:
    blocks = [[int(width) for width in block.split("-")] for block in line.split("|")]
    model = building.build(line, 64)
    assert model.count_params() == parameters(blocks)
    side = 64 // 2 ** (len(blocks) - 1)
    assert model.output.shape == (None, side, side, blocks[-1][-1])
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == sum(map(len, blocks))
    assert kinds.count("MaxPooling2D") == len(blocks) - 1
    # A pooling stands between two blocks, and nowhere else.
    signs = "".join({"Conv2D": "c", "MaxPooling2D": "|"}.get(kind, "") for kind in kinds)
    assert signs == "|".join("c" * len(block) for block in blocks)


def test_a_block_of_two_convolutions_is_the_formula() -> None:
    model = building.build("2-4", 8)
    generator = np.random.default_rng(2)
    model.set_weights([generator.uniform(0.1, 1.0, w.shape) for w in model.get_weights()])
    pixels = generator.uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    x = pixels / 127.5 - 1
    for c in (1, 2):
        kernel = model.get_layer(f"block_1_conv_{c}").get_weights()[0]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        x = np.einsum("nhwcij,ijcf->nhwf", windows, kernel)
        gamma, beta, mean, variance = model.get_layer(f"block_1_conv_{c}_bn").get_weights()
        x = np.maximum(gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta, 0)
    np.testing.assert_allclose(model(pixels), x, rtol=1e-4, atol=1e-4)


def test_an_image_that_the_poolings_use_up_is_refused() -> None:
    assert building.build("2|4|8", 8).output.shape == (None, 2, 2, 8)
    with pytest.raises(checks.ConfigError, match="3 blocks need images of at least 8 px. .*=7"):
        building.build("2|4|8", 7)


def test_the_bundled_network_is_its_line_under_the_names_of_its_file() -> None:
    assert network.SPECIFICATION == "32-32|64-64|128-128|256"
    model = network.build(32)
    assert model.name == "bundled"
    blocks = ((1, 2), (1, 2), (1, 2), (1,))
    names = [f"block_{b}_conv_{c}" for b, block in enumerate(blocks, start=1) for c in block]
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [layer.name for layer in convolutions] == names
    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128, 256]


def test_a_specification_is_a_backbone() -> None:
    backbone = backbones.load("spec: 8-16 | 32", weights="none", image_size=48, seed=1)
    assert (backbone.name, backbone.weights, backbone.card) == ("spec:8-16|32", "none", None)
    assert [stage.output.shape[1:] for stage in backbone.stages] == [(48, 48, 16), (24, 24, 32)]
    assert backbone.preprocessing == "tf" and backbone.model.name == "spec"
    assert backbone.model.input.shape == (None, 48, 48, 3)


def test_the_line_of_the_bundled_network_takes_the_bundled_weights() -> None:
    bundled = backbones.load("bundled")
    path = str(network.FILES / "bundled.weights.h5")
    own = backbones.load(f"spec:{network.SPECIFICATION}", weights=path, image_size=200)
    for value, expected in zip(own.model.weights, bundled.model.weights, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_the_catalogue_knows_a_line_before_keras_does() -> None:
    assert catalogue.image_size("spec:8|8") == 32
    assert catalogue.image_size("spec:8|8|8|8|8|8") == 64
    assert catalogue.image_size("spec:8|8", 4) == 4
    with pytest.raises(checks.ConfigError, match="spec:8|8 needs images of at least 4 px"):
        catalogue.image_size("spec:8|8", 3)
    with pytest.raises(checks.ConfigError, match="'8x8' is no number of filters"):
        catalogue.canonical("spec:8x8")
    with pytest.raises(checks.ConfigError, match="power of two"):
        catalogue.check_arguments("spec:24", {})
    with pytest.raises(checks.ConfigError, match="any_filters must be one of True, False"):
        catalogue.check_arguments("spec:24", {"any_filters": "yes"})
    with pytest.raises(checks.ConfigError, match="backbone_args must be one of any_filters"):
        catalogue.check_arguments("spec:24", {"alpha": 1})
    catalogue.check_arguments("spec:24", {"any_filters": True})
    catalogue.check_arguments("mobilenet", {"alpha": 1})


def test_a_specification_has_no_weights_of_its_own() -> None:
    for weights in ("", "imagenet"):
        with pytest.raises(checks.WeightsError, match="of a specification has no ImageNet weights"):
            backbones.load("spec:8", weights=weights)
