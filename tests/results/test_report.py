"""The report is strict JSON, whole or absent, and holds what others rely on."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Never

import numpy as np
import pytest

from finetune_kit import checks, metrics, results
from finetune_kit.results import files


def scores():
    return metrics.score(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]))


def report(**changes):
    values = {
        "recipe": "head_only",
        "config": {"data": pathlib.Path("photos"), "seed": np.int64(3), "rates": (1e-3, 1e-4)},
        "data": {"fingerprint": "ab" * 32, "counts": {"train": {"cat": 3}}},
        "phases": ({"name": "head", "multipliers": {"stem": 0.0, "head": 1.0}},),
        "history": ({"epoch": 1, "loss": float("nan"), "val_loss": np.float32(0.5)},),
        "scores": {"validation": None, "test": scores()},
        "seconds": {"total": 12.5, "data": 1.0},
        "device": "CPU",
    }
    return results.Report(**(values | changes))


def test_json_holds_the_names_others_rely_on(tmp_path) -> None:
    path = report().write(tmp_path)
    assert path == tmp_path / "report.json"
    values = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert values["scores"]["test"]["n"] == 3
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "calibration_error"):
        assert set(values["scores"]["test"][name]) == {"value", "low", "high"}
    assert values["scores"]["test"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert values["scores"]["validation"] is None
    assert values["seconds"]["total"] == 12.5
    assert values["config"] == {"data": "photos", "seed": 3, "rates": [1e-3, 1e-4]}
    assert values["data"]["fingerprint"] == "ab" * 32
    assert values["phases"][0]["multipliers"]["head"] == 1.0
    assert values["history"][0] == {"epoch": 1, "loss": None, "val_loss": 0.5}
    assert values["versions"]["numpy"] == np.__version__


def test_read_gives_back_what_was_written(tmp_path) -> None:
    written = report()
    written.write(tmp_path)
    assert results.read(tmp_path) == results.read(tmp_path / "report.json") == written.to_dict()


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report().recipe = "other"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("{", "Expecting"),
        ("[]", "recipe, scores and seconds"),
        ('{"recipe": "x"}', "recipe, scores and seconds"),
        ('{"recipe": "x", "scores": [], "seconds": {}}', "as objects"),
        ('{"recipe": "x", "scores": {}, "seconds": {}, "data": 3}', "as objects"),
        ('{"recipe": "x", "scores": {}, "seconds": {}, "format": 99}', "format 99. Install"),
    ],
)
def test_files_that_are_no_report(tmp_path, content, words) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(checks.DataError, match=words):
        results.read(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path) -> Never:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="died"), files.replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("died")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_errors_of_the_kit_pass_unchanged(tmp_path) -> Never:
    with pytest.raises(checks.DataError, match="mine"), files.replacing(tmp_path / "x"):
        raise checks.DataError("mine")


def test_a_missing_folder_is_an_environment_fault(tmp_path) -> None:
    with pytest.raises(checks.EnvironmentFault, match="folder that can be written. Received: '.*x"):
        files.write_text(tmp_path / "no" / "x", "text")


def test_new_files_have_the_permissions_of_any_file(tmp_path) -> None:
    files.write_text(tmp_path / "ours", "x")
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_reports_need_no_tensorflow(tmp_path) -> None:
    report().write(tmp_path)
    code = (
        "import sys; from finetune_kit import results; results.read(sys.argv[1]); "
        "sys.exit(any(m in sys.modules for m in ('tensorflow', 'keras', 'matplotlib')))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_versions_leave_out_what_is_not_installed() -> None:
    assert results.versions(["numpy", "no-such-package"]).keys() == {"python", "numpy"}
