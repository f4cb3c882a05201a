"""`finetune-kit backbones`: all networks, or the stages of one."""

import subprocess
import sys

import keras
import pytest

from apps import backbones
from finetune_kit import checks, console
from finetune_kit.backbones import catalogue, types


@pytest.fixture(autouse=True)
def output():
    console.activate(plain=True)
    yield
    console.deactivate()


def rows(text):
    """Returns the cells of a table's lines, which are two spaces or more apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text]


def test_without_a_name_all_networks_are_listed(capsys) -> None:
    assert backbones.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [row[0] for row in rows(lines[3:])] == list(catalogue.ENTRIES)
    assert ["xception", "71 px", "128 px"] in rows(lines)


def test_the_list_needs_no_tensorflow() -> None:
    code = (
        "import sys; from apps import backbones; backbones.main([]); "
        "sys.exit(bool({'tensorflow', 'keras'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["mobilenet", "MobileNet"])
def test_one_network_is_shown_by_stage(name, capsys) -> None:
    assert backbones.main([name, "--backbone_args=alpha=0.25", "--image_size=64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].rstrip() == "mobilenet, 64 px, weights none"
    table = rows(lines[3:])
    plain = keras.applications.MobileNet(
        (64, 64, 3), alpha=0.25, include_top=False, weights=None
    )  # fmt: skip
    assert table[-1][0] == "all" and table[-1][2] == f"{plain.count_params():,}"
    assert table[-2][4] == "2 x 2 x 256"
    for column in (1, 2):
        numbers = [int(row[column].replace(",", "")) for row in table]
        assert sum(numbers[:-1]) == numbers[-1]


def test_parameters_and_operations_are_those_of_the_layers() -> None:
    pixels = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="convolution")
    middle = convolution(pixels)
    norm = keras.layers.BatchNormalization(name="norm")(middle)
    top = keras.layers.Conv2D(1000, 1, use_bias=False, name="top")(norm)
    model = keras.Model(pixels, top)
    stages = (
        types.Stage("stem", (model.layers[0].name, "convolution", "norm"), norm, 2),
        types.Stage("stage_1", ("top",), top, 2),
    )
    backbone = types.Backbone("mine", model, stages, 8, "none")
    # A 3 x 3 kernel from 3 to 4 channels at 4 x 4 positions: 2 · 16 · 108 = 3456 operations.
    assert backbones.stage_rows(backbone) == [
        ["stem", "3", "128", "0.0", "4 x 4 x 4", f"{model.layers[0].name} … norm"],
        ["stage_1", "1", "4,000", "0.1", "4 x 4 x 1000", "top … top"],
        ["all", "4", "4,128", "0.1", "", ""],
    ]


def test_faults() -> None:
    with pytest.raises(checks.ConfigError, match="mobilnet.*Did you mean mobilenet"):
        backbones.main(["mobilnet"])
    with pytest.raises(checks.ConfigError, match="backbones takes flags alone. Received: vgg19"):
        backbones.main(["vgg16", "vgg19"])
    with pytest.raises(checks.ConfigError, match="xception needs images of at least 71 px"):
        backbones.main(["xception", "--image_size=64"])
    with pytest.raises(checks.ConfigError, match="image_size must lie in"):
        backbones.main(["xception", "--image_size=-1"])
    with pytest.raises(checks.ConfigError, match="must look like alpha=0.25"):
        backbones.main(["mobilenet", "--backbone_args=alpha"])
    with pytest.raises(checks.WeightsError, match="gone.h5"):
        backbones.main(["mobilenet", "--weights=gone.h5"])
