"""`finetune-kit audit-network`: what is printed and written, against counts made by hand."""

import json
import subprocess
import sys

import keras
import pytest

from apps import audit_network, main
from finetune_kit import console


@pytest.fixture(autouse=True)
def output():
    console.activate(plain=True)
    yield
    console.deactivate()


def cells(text):
    """Returns the cells of a table's lines, which are two spaces or more apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text]


def test_a_network_that_departs(capsys) -> None:
    words = ["--backbone=mobilenet", "--backbone_args=alpha=0.25", "--image_size=96"]
    assert audit_network.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    table = cells(lines)
    # Thirteen pointwise convolutions and the strides of the stem and of four blocks (Howard et
    # al., 2017, table 1).
    assert any(row[:3] == ["S4", "1x1 kernel", "13"] for row in table)
    assert any(row[:3] == ["S4", "stride 2x2 under 3x3", "5"] for row in table)
    (side,) = [row for row in table if row[:2] == ["S1", "side 96"]]
    # 96 = 32 · 3; 64² / 96² and 128² / 96².
    assert (
        "halves evenly 5 times, to 3; its multiplications times 0.44 at 64 px and 1.78" in side[4]
    )
    last = next(row for row in table if row[0] == "conv_pw_13")
    assert last[1:] == ["Conv2D", "1x1", "1x1", "same", "256", f"{256 * 256:,}",
                        f"{2 * 9 * 256 * 256 / 1e6:,.1f}", "315", "3 x 3 x 256",
                        "S4: 1x1 kernel"]  # fmt: skip
    assert not any(row and row[0] == "conv_dw_1" for row in table)
    plain = keras.applications.MobileNet((96, 96, 3), alpha=0.25, include_top=False, weights=None)
    assert lines[-1].startswith("19 of 28 layers that a rule speaks of depart (68%; ")
    assert f"{plain.count_params():,} parameters" in lines[-1]
    assert lines[-1].endswith("receptive field 315 px")


def test_a_network_that_follows_the_rules_is_one_line(capsys) -> None:
    assert audit_network.main([]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        "0 of 11 layers that a rule speaks of depart (0%; 0% of the FLOPs); 26 l"
    )


def test_every_layer_is_shown_on_request(capsys) -> None:
    words = ["--backbone=spec:4|8", "--image_size=32", "--all"]
    assert audit_network.main(words) == 0
    names = [row[0] for row in cells(capsys.readouterr().out.splitlines()) if row]
    for name in ("pixels", "rescaling", "block_1_conv_1", "block_1_conv_1_bn", "pool_1"):
        assert name in names


def test_the_audit_as_json(tmp_path, capsys) -> None:
    path = tmp_path / "audit.json"
    words = ["--backbone=spec:12", "--backbone_args=any_filters=True", f"--json={path}"]
    assert audit_network.main(words) == 0
    assert f"audit  {path}" in capsys.readouterr().out
    found = json.loads(path.read_text("utf-8"))
    assert found["backbone"] == "spec:12" and found["image_size"] == 32
    convolution = next(x for x in found["layers"] if x["kind"] == "Conv2D")
    assert convolution["parameters"] == 27 * 12
    assert convolution["flops"] == 2 * 32 * 32 * 27 * 12
    assert convolution["receptive_field"] == [3, 3] and convolution["output"] == [32, 32, 12]
    # 12 channels in tiles of 8 take two, of which 4 of 16 lanes idle.
    assert convolution["departures"] == [
        {"rule": "S4", "what": "12 filters", "cost": "idle: 25.0% of tiles of 8 channels"}
    ]
    assert found["summary"]["departing"] == 1
    assert found["summary"]["parameters"] == 27 * 12 + 4 * 12


@pytest.mark.parametrize(
    ("field", "text"),
    [(None, "?"), ((float("inf"), float("inf")), "all"), ((3, 3), "3"), ((3, 7), "3x7")],
)
def test_a_receptive_field_in_words(field, text) -> None:
    assert audit_network.sees(field) == text


def test_faults_are_found_without_tensorflow(capsys, untouched_process, tmp_path) -> None:
    pickled = tmp_path / "net.pth"
    pickled.touch()
    for code, words, reason in (
        (2, ["--backbone=vgg17"], "Did you mean vgg1"),
        (2, ["--backbone=spec:32-x"], "'x' is no number of filters"),
        (2, ["--backbone=spec:24"], "power of two (S4). Received: 24"),
        (2, ["--backbone=bundled", "--backbone_args=alpha=1"], "takes no arguments"),
        (2, ["--backbone=xception", "--image_size=64"], "at least 71 px"),
        (4, ["--weights=gone.keras"], "which does not exist"),
        (7, [f"--weights={pickled}"], "a pickle, which would run code"),
        (2, ["vgg16"], "takes flags alone"),
    ):
        assert main.run(["audit-network", *words]) == code, words
        assert reason in capsys.readouterr().err
    code = (
        "import sys; from apps import main; assert main.run(['audit-network', "
        "'--backbone=spec:24']) == 2; sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
