"""One wording for every error, and the exit code that goes with it."""

import math
import re
import subprocess
import sys

import pytest

from finetune_kit import checks


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (checks.KitError, 1, Exception),
        (checks.ConfigError, 2, ValueError),
        (checks.DataError, 3, ValueError),
        (checks.WeightsError, 4, ValueError),
        (checks.EnvironmentFault, 5, OSError),
        (checks.NumericsError, 6, ArithmeticError),
        (checks.UntrustedFileError, 7, checks.KitError),
    ],
)
def test_every_error_has_an_exit_code_and_a_standard_kind(error, code, kind) -> None:
    assert error.exit_code == code
    assert issubclass(error, kind) and issubclass(error, checks.KitError)
    assert str(error("one line")) == "one line"


def test_a_known_name_passes_whatever_holds_the_choices() -> None:
    checks.one_of("size", "small", {"small": 1, "large": 2})
    checks.one_of("size", "large", iter(["small", "large"]))


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    words = re.escape("size must be one of small, large. Received: size='smal'.")
    with pytest.raises(checks.ConfigError, match=f"^{words} Did you mean 'small'\\?$"):
        checks.one_of("size", "smal", ["small", "large"])


@pytest.mark.parametrize("value", ["xyz", "", "SMALL", None])
def test_a_name_that_resembles_none_gets_no_suggestion(value) -> None:
    words = f"^size must be one of small, large. Received: size={value!r}\\.$"
    with pytest.raises(checks.ConfigError, match=words):
        checks.one_of("size", value, ["small", "large"])


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        (0, {"low": 0}),
        (1, {"low": 0, "high": 1}),
        (0.5, {"low": 0, "high": 1, "open_high": True}),
        (-1e9, {"high": 0}),
        (7, {}),
    ],
)
def test_values_inside_their_range_pass(value, limits) -> None:
    checks.in_range("rate", value, **limits)


@pytest.mark.parametrize(
    ("value", "limits", "interval"),
    [
        (-1, {"low": 0}, "[0, inf)"),
        (1.5, {"low": 0, "high": 1}, "[0, 1]"),
        (1, {"low": 0, "high": 1, "open_high": True}, "[0, 1)"),
        (3, {"high": 2}, "(-inf, 2]"),
        (math.nan, {"low": 0}, "[0, inf)"),
        (math.inf, {"low": 0}, "[0, inf)"),
        (-math.inf, {}, "(-inf, inf)"),
    ],
)
def test_values_outside_their_range_are_refused_with_the_interval(value, limits, interval) -> None:
    words = re.escape(f"rate must lie in {interval}. Received: rate={value!r}")
    with pytest.raises(checks.ConfigError, match=f"^{words}$"):
        checks.in_range("rate", value, **limits)


def test_the_same_names_pass_in_any_order() -> None:
    checks.same_names("The plan", ["a", "b"], ["b", "a"])
    checks.same_names("The plan", [], [])


@pytest.mark.parametrize(
    ("received", "problems"),
    [
        (["a"], "Missing: b. Received: a"),
        (["a", "b", "c"], "Unknown: c. Received: a, b, c"),
        (["b", "a", "b"], "Repeated: b. Received: b, a, b"),
        (["a", "c", "c"], "Missing: b; Unknown: c, c; Repeated: c. Received: a, c, c"),
        ([], "Missing: a, b. Received: nothing"),
    ],
)
def test_other_names_are_listed_by_what_is_wrong_with_them(received, problems) -> None:
    words = re.escape(f"The plan must name each of a, b once. {problems}")
    with pytest.raises(checks.ConfigError, match=f"^{words}$"):
        checks.same_names("The plan", ["a", "b"], received)


def test_what_came_is_quoted_as_python_writes_it() -> None:
    assert (
        checks.received(size=3, name="a b", path=None) == "Received: size=3, name='a b', path=None"
    )


def test_importing_costs_no_tensorflow() -> None:
    code = (
        "import sys, finetune_kit.checks; print({'tensorflow', 'keras', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
