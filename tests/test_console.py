"""The console: silent until switched on, plain where there is no terminal."""

import io
import re
import sys
from typing import Never

import pytest

from finetune_kit import console


@pytest.fixture(autouse=True)
def switched_off():
    console.deactivate()  # the tests of commands leave it on
    yield
    console.deactivate()


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def everything() -> None:
    console.say("a line")
    console.table("Title", ["name", "value"], [["x", 1]])
    console.warn("careful")
    with console.progress("Working", total=2) as task:
        task.advance(2, loss=0.5)


def test_silent_until_activated(capsys) -> None:
    everything()
    assert capsys.readouterr() == ("", "")


def test_plain_output_has_no_control_codes_and_is_not_wrapped(capsys) -> None:
    console.activate()
    console.say("word " * 100)
    everything()
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\r" not in out + err
    assert "word " * 100 in out
    assert "a line\n" in out and "Title" in out
    assert err.splitlines()[0] == "Warning: careful"
    assert re.fullmatch(r"Working 2/2  loss 0\.5  \d+\.\d s", err.splitlines()[1])


def test_markup_in_text_is_shown_as_it_is(capsys) -> None:
    console.activate()
    console.say("path [bold]x[/bold] :smile:")
    console.table("", ["[red]a"], [["[b]c"]])
    out = capsys.readouterr().out
    assert "path [bold]x[/bold] :smile:" in out
    assert "[red]a" in out and "[b]c" in out


def test_columns_of_numbers_are_flush_right(capsys) -> None:
    console.activate()
    console.table("", ["name", "count"], [["first", 7], ["second", 1234]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].rstrip().endswith("    7") and lines[-1].rstrip().endswith("1234")
    assert lines[-2].startswith("first")


def test_plain_progress_reports_now_and_then(capsys, monkeypatch) -> None:
    console.activate()
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.0)
    with console.progress("Epochs") as task:
        task.advance(loss=1.25, accuracy="n/a")
        task.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["1", "2", "2"]
    assert all("loss 1.25  accuracy n/a" in line for line in lines)


def test_terminal_draws_a_bar_and_text_stays_in_order(monkeypatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    console.activate()
    with console.progress("Training", total=4) as task:
        task.advance(4, loss=0.123456)
        console.say("between")
        console.warn("careful")
        with console.progress("Scoring", total=1) as inner:
            inner.advance()
    drawn = stream.getvalue()
    assert "\x1b[" in drawn and "4/4" in drawn and "loss 0.1235" in drawn
    assert "between" in drawn and "Warning: careful" in drawn and "Scoring" in drawn


def test_progress_on_stderr_leaves_piped_results_alone(monkeypatch) -> None:
    piped, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", piped)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    console.activate()
    with console.progress("Predicting", total=1) as task:
        task.advance()
        console.say("row")
    assert piped.getvalue() == "row\n"
    assert "Predicting" in terminal.getvalue()


def test_an_error_inside_a_task_passes_and_leaves_the_console_usable(capsys) -> Never:
    console.activate()
    with pytest.raises(ValueError, match="broken"), console.progress("Working", 2):
        raise ValueError("broken")
    console.say("after")
    assert capsys.readouterr().out == "after\n"


def test_forced_modes(capsys) -> None:
    console.activate(plain=False)
    console.table("Bold", ["a"], [["b"]])
    assert "\x1b[1m" in capsys.readouterr().out
    console.activate(plain=True)
    console.table("Bold", ["a"], [["b"]])
    assert "\x1b" not in capsys.readouterr().out
