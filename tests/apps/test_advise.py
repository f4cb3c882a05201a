"""The command that looks and says, and trains nothing."""

import json
import subprocess
import sys

import pytest

from apps import main as apps_main
from finetune_kit.backbones import network
from finetune_kit.strategy.candidates import CANDIDATES
from tests.recipes import coloured

pytestmark = pytest.mark.usefixtures("untouched_process")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(coloured.write(tmp_path_factory.mktemp("photos") / "squares", per_class=20))


def run(*words):
    return apps_main.run(["advise", *words])


def test_it_prints_what_every_stage_knows_and_a_plan_with_reasons(
    tmp_path_factory, tmp_path, capsys
) -> None:
    photos = coloured.write(tmp_path_factory.mktemp("torn") / "squares", per_class=40)
    (photos / "red" / "00.png").write_bytes(b"\x89PNG\r\n")
    output = tmp_path / "advice.json"
    assert run(f"--data={photos}", f"--output={output}", "--epochs=4") == 0
    said = capsys.readouterr().out
    assert "· red/00.png was left out: " in said
    for word in ("stem", "stage_3", "last three", "runner-up", "confidence", "from scratch"):
        assert word in said
    assert f"finetune-kit finetune --data={photos} --epochs=4 --workdir=" in said
    advice = json.loads(output.read_text())
    assert advice["plan"]["plan"] in CANDIDATES
    assert advice["task_fit"]["last"]["probe"]["value"] > 0.5  # the colours are easy
    assert list(tmp_path.iterdir()) == [output]


def test_networks_are_ranked_by_name_and_by_weights_file(photos, tmp_path, capsys) -> None:
    own = network.FILES / "bundled.weights.h5"
    output = tmp_path / "ranking.json"
    code = run(f"--data={photos}", f"--candidates=bundled,{own}", f"--output={output}")
    assert code == 0
    rows = json.loads(output.read_text())["rows"]
    assert {row["name"] for row in rows} == {"bundled", str(own)}
    assert rows[0]["probe"] == rows[1]["probe"]  # the same weights
    assert "rank networks badly" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--candidates=resnet5"], "resnet50"),
        (["--time_budget=soon"], "5m or 1h30m"),
        (["--plan=by_dept"], "by_depth"),
        (["photos"], "takes flags alone"),
    ],
)
def test_bad_flags_are_refused_in_a_line(photos, words, message, capsys) -> None:
    assert run(f"--data={photos}", *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_bad_path_is_found_without_tensorflow() -> None:
    program = (
        "import sys; from apps import main; code = main.run(['advise', '--data=/nowhere']); "
        "sys.exit(100 if 'tensorflow' in sys.modules else code)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 3
