"""The console script: every end of a command is an exit code and at most one line."""

import importlib
import os
import pathlib
import re
import subprocess
import sys
import types

import pytest

from apps import main
from finetune_kit import checks

pytestmark = pytest.mark.usefixtures("untouched_process")

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A command, told to `child` as the body of its `main(words)`.
CHILD = """
import sys, types
from apps import main
module = types.ModuleType("apps.told")
def act(words):
    {body}
    return 0
module.main = act
sys.modules["apps.told"] = module
main.COMMANDS["told"] = ("apps.told", "Told by a test.")
sys.exit(main.run(["told"]))
"""


@pytest.fixture
def command(monkeypatch):
    """Returns a function that puts a command `told-so` there, whose `main` is the argument."""

    def put(act):
        module = types.ModuleType("apps.told")
        module.main = act
        monkeypatch.setitem(sys.modules, "apps.told", module)
        monkeypatch.setitem(main.COMMANDS, "told-so", ("apps.told", "Told by a test."))

    return put


def raising(error):
    def act(words):
        raise error

    return act


def child(*words, **options):
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_every_command(word, capsys) -> None:
    assert main.run([word]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: finetune-kit COMMAND") and err == ""
    for name, (_, text) in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE)


def test_no_command_is_a_mistake_that_shows_the_usage(capsys) -> None:
    assert main.run([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: finetune-kit COMMAND")


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert main.run(["fine_tune"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "finetune-kit: There is no command 'fine_tune'. Did you mean finetune? "
        "`finetune-kit --help` lists all.\n"
    )


def test_a_command_like_no_other_names_none(capsys) -> None:
    assert main.run(["xyzzy"]) == 2
    assert capsys.readouterr().err == (
        "finetune-kit: There is no command 'xyzzy'. `finetune-kit --help` lists all.\n"
    )


def test_the_version_is_that_of_the_package(capsys) -> None:
    assert main.run(["--version"]) == 0
    (line,) = re.findall(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("spelling", ["told-so", "told_so"])
def test_hyphen_and_underscore_are_the_same(spelling, command) -> None:
    seen = []
    command(lambda words: seen.append(words) or 0)
    assert main.run([spelling, "a", "--b=c"]) == 0
    assert seen == [["a", "--b=c"]]


def test_the_exit_code_of_a_command_is_passed_on(command) -> None:
    command(lambda words: 75)
    assert main.run(["told-so"]) == 75


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (checks.KitError, 1),
        (checks.ConfigError, 2),
        (checks.DataError, 3),
        (checks.WeightsError, 4),
        (checks.EnvironmentFault, 5),
        (checks.NumericsError, 6),
        (checks.UntrustedFileError, 7),
    ],
)
def test_every_class_of_error_is_one_line_and_a_code(error, code, command, capsys) -> None:
    command(raising(error("Needs this.\nReceived: that")))
    assert main.run(["told-so"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err == "finetune-kit: Needs this. Received: that\n"


def test_debug_shows_the_traceback_and_is_no_word_of_the_command(command, capsys) -> None:
    def act(words):
        raise checks.DataError(f"words {words}")

    command(act)
    assert main.run(["told-so", "x", "--debug"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any(line.endswith(", in act") for line in lines)
    assert lines[-1] == "finetune-kit: words ['x']"


def test_a_bug_is_not_dressed_up_as_a_mistake_of_the_user(command) -> None:
    command(raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError, match="ours"):
        main.run(["told-so"])


def test_an_interruption_is_130(command, capsys) -> None:
    command(raising(KeyboardInterrupt()))
    assert main.run(["told-so"]) == 130
    assert capsys.readouterr().err == "finetune-kit: Interrupted.\n"


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_an_interrupted_training_says_how_to_go_on(name, monkeypatch, capsys) -> None:
    main.run([name, "--help"])
    text = capsys.readouterr().out
    place = "--workdir" if "--workdir" in text else "--output"
    hint = f" Go on with --resume and the same {place}." * ("resume" in text)
    module = importlib.import_module(main.COMMANDS[name][0])
    monkeypatch.setattr(module, "main", raising(KeyboardInterrupt()))
    assert main.run([name]) == 130
    assert capsys.readouterr().err == f"finetune-kit: Interrupted.{hint}\n"


def test_the_help_of_a_command_is_no_error(capsys) -> None:
    assert main.run(["compare", "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: finetune-kit compare RUN…") and out.endswith("\n") and err == ""


def test_tensorflow_is_told_to_be_quiet_unless_the_user_wants_to_hear_it(command) -> None:
    command(lambda words: 0)
    os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)
    os.environ["GRPC_VERBOSITY"] = "DEBUG"
    main.run(["told-so"])
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3" and os.environ["GRPC_VERBOSITY"] == "DEBUG"


def test_termination_is_143_and_lets_go_of_what_is_held(tmp_path) -> None:
    body = (
        "with open('held', 'w') as file:\n        try:\n            print('ready', flush=True)\n"
        "            while True: pass\n        finally:\n            file.write('let go')"
    )
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{CHILD.format(body=body)}"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.startswith("finetune-kit: Terminated.") and err.count("\n") == 1
    assert (tmp_path / "held").read_text() == "let go"


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdout.write('x' * 9)",  # held back until the end
        "sys.stdout.write('x' * 99999)",
        "from finetune_kit import console; console.say('x')",
        "from apps import flags; raise flags.HelpRequested('x')",
    ],
)
def test_a_reader_who_has_seen_enough_is_no_fault(body) -> None:
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run(
        [sys.executable, "-c", CHILD.format(body=body)],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )  # fmt: skip
    os.close(write)
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_module_is_the_same_command_as_the_script() -> None:
    script = pathlib.Path(sys.executable).with_name("finetune-kit")
    if not script.exists():
        pytest.skip("finetune-kit is not installed beside this Python")
    words = ["nowhere", "--split=validation"]
    found = [
        child("-m", "apps.compare", *words),
        child("-m", "apps.main", "compare", *words),
        child(str(script), "compare", *words),
    ]
    assert {(one.returncode, one.stdout, one.stderr) for one in found} == {(3, "", found[0].stderr)}
    assert re.fullmatch(r"finetune-kit: A run needs a report\. .*'nowhere'.*\n", found[0].stderr)
    assert child("-m", "apps.compare", "--help").stdout.startswith("usage: finetune-kit compare")


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_a_module_with_a_main(name) -> None:
    module = importlib.import_module(main.COMMANDS[name][0])
    assert callable(module.main) and f"finetune-kit {name}" in module.__doc__
    assert f'run_app("{name}")' in pathlib.Path(module.__file__).read_text()
