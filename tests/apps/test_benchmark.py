"""`finetune-kit benchmark`: the suites by name."""

import importlib
import subprocess
import sys

import pytest

from apps import benchmark, flags
from finetune_kit import checks


def test_every_suite_has_a_main_and_a_config_that_help_shows() -> None:
    for name, (module, _) in benchmark.SUITES.items():
        suite = importlib.import_module(module)
        with pytest.raises(flags.HelpRequested, match=f"usage: finetune-kit benchmark {name}"):
            benchmark.main([name, "--help"])
        assert suite.Config.__doc__


def test_help_lists_the_suites() -> None:
    with pytest.raises(flags.HelpRequested, match="(?s)advice .*recipes .*guide .*step "):
        benchmark.main(["--help"])


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(checks.ConfigError, match="Did you mean 'recipes'"):
        benchmark.main(["recipe"])


@pytest.mark.parametrize("argv", [[], ["--rows=x"]])
def test_a_suite_is_needed(argv) -> None:
    with pytest.raises(checks.ConfigError, match="needs a suite as its first word: advice"):
        benchmark.main(argv)


def test_a_wrong_flag_is_found_without_tensorflow() -> None:
    script = (
        "import sys\nfrom apps import benchmark\n"
        "try: benchmark.main(['recipes', '--recipes=headonly', '--data_root=.'])\n"
        "except ValueError as error: print(error)\n"
        "print(*{'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said, loaded = done.stdout.splitlines()
    assert "Did you mean 'head_only'" in said and loaded == ""
