"""Peers: programs of others, run by a protocol of one line of JSON."""

import json
import sys

import pytest

from apps.benchmarks import peers
from finetune_kit import checks

SCRIPT = """
import argparse, json, os, sys
p = argparse.ArgumentParser()
for name in ("data", "weights", "per_class", "seed", "plan"):
    p.add_argument("--" + name)
a = p.parse_args()
print("a line of chatter")
print(json.dumps({"peer": "quick-" + str(a.plan), "accuracy": 0.5, "seconds": 1.5, "n": 4,
                  "test": 2, "seed": a.seed}))
"""


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "some where" / "quick.py"
    file.parent.mkdir()
    file.write_text(SCRIPT)
    return file


def test_a_python_file_with_arguments_is_run_by_this_interpreter(script) -> None:
    program = peers.resolve(f"'{script}' --plan=full")
    assert program.words == (sys.executable, str(script), "--plan=full")
    assert program.label == "quick.py --plan=full", "no folder of this machine in the rows"
    finished = peers.call([*program.words, "--data=x", "--seed=3"])
    assert finished.seconds > 0
    (figure,) = peers.figures(finished.output, program.label)
    assert figure == peers.Figure("quick-full", 0.5, 1.5, 4, 2, "")


def test_a_command_of_the_system_is_found() -> None:
    program = peers.resolve('echo \'{"peer": "e"}\'')
    assert program.words[0].endswith("/echo") and len(program.code) == 12


def test_the_code_of_a_peer_follows_its_file(script) -> None:
    before = peers.resolve(f"'{script}'").code
    script.write_text(SCRIPT + "\n")
    assert peers.resolve(f"'{script}'").code != before


@pytest.mark.parametrize("command", ["", "absent.py --plan=full", "no-such-command-anywhere"])
def test_a_program_that_does_not_exist_is_refused(command) -> None:
    with pytest.raises(checks.ConfigError, match="program that exists"):
        peers.resolve(command)


def test_quotes_must_match() -> None:
    with pytest.raises(checks.ConfigError, match="must be a command line"):
        peers.resolve("'half")


def test_a_program_that_fails_says_how() -> None:
    words = [sys.executable, "-c", "import sys; sys.exit('out of luck\\n')"]
    with pytest.raises(checks.EnvironmentFault, match="exit code 0.*: 1 .*last: out of luck"):
        peers.call(words)


def test_a_program_that_cannot_start_or_hangs_is_an_error(monkeypatch) -> None:
    with pytest.raises(checks.EnvironmentFault, match="run to its end"):
        peers.call(["/no/such/program"])
    monkeypatch.setattr(peers, "LIMIT_SECONDS", 0.2)
    with pytest.raises(checks.EnvironmentFault, match="run to its end.*timed out"):
        peers.call([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_program_can_import_the_kit(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    script = "import apps, recipes, sys; print('/elsewhere' in sys.path)"
    assert peers.call([sys.executable, "-c", script]).output.strip() == "True"


def test_every_line_of_json_is_a_figure() -> None:
    lines = [json.dumps({"peer": name, "accuracy": 1, "seconds": 2}) for name in ("a", "b")]
    found = peers.figures("noise\n" + "\n".join(lines) + "\n", "p")
    assert [figure.peer for figure in found] == ["a", "b"]
    assert found[0].n is None and found[0].test is None


def test_no_figure_is_an_error() -> None:
    with pytest.raises(checks.DataError, match="one|line of JSON.*Received: none from p.py"):
        peers.figures("all went well\n", "p.py")


@pytest.mark.parametrize(
    "line",
    [
        '{"peer": "a", "seconds": 1}',
        '{"peer": "a", "accuracy": 50.3, "seconds": 1}',
        '{"peer": "a", "accuracy": "high", "seconds": 1}',
        '{"peer": "a", "accuracy": NaN, "seconds": 1}',
        "{broken",
    ],
)
def test_a_bad_figure_is_an_error(line) -> None:
    with pytest.raises(checks.DataError, match=r"accuracy in \[0, 1\] and seconds.*from p.py"):
        peers.figures(line, "p.py")
