"""The one place that writes to a terminal; silent until an app (or a notebook) switches it on.

Results go to standard output, warnings to standard error, progress to whichever of the two is a
terminal. Where neither is, lines are plain text: no control codes, no wrapping, and one line of
progress now and then in place of a bar.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rich.box
import rich.console
import rich.progress
import rich.table
import rich.text

PLAIN_WIDTH = 10_000  # columns; a log file has no edge to wrap at
PLAIN_EVERY = 10.0  # seconds between two lines of progress in a log file


class Progress:
    """A task under way; returned by `progress`."""

    def advance(self, n: int = 1, **postfix: float | str) -> None:
        """Counts `n` more steps as done and shows `postfix`, such as `loss=0.3`, behind them."""


class _Bar(Progress):
    """Rich's progress bar, in terminals and notebooks."""

    def __init__(self, bars: rich.progress.Progress, description: str, total: int | None) -> None:
        self._bars = bars
        self._task = bars.add_task(description, total=total, postfix="")

    def remove(self) -> None:
        """Takes the bar away: of nested tasks, only the outer one stays on the screen."""
        self._bars.remove_task(self._task)

    def advance(self, n: int = 1, **postfix: float | str) -> None:
        shown: dict[str, Any] = {"postfix": _postfix(postfix)} if postfix else {}
        self._bars.update(self._task, advance=n, **shown)


class _Lines(Progress):
    """Progress as lines of a log: one every `PLAIN_EVERY` seconds and one at the end."""

    def __init__(self, console: rich.console.Console, description: str, total: int | None) -> None:
        self._console, self._description, self._total = console, description, total
        self._done, self._postfix = 0, ""
        self._began = self._shown = time.monotonic()

    def advance(self, n: int = 1, **postfix: float | str) -> None:
        self._done += n
        self._postfix = _postfix(postfix) if postfix else self._postfix
        if time.monotonic() - self._shown >= PLAIN_EVERY:
            self.show()

    def show(self) -> None:
        """Writes where the task stands."""
        self._shown = time.monotonic()
        of = f"/{self._total}" if self._total is not None else ""
        spent = self._shown - self._began
        parts = (f"{self._description} {self._done}{of}", self._postfix, f"{spent:.1f} s",
                 self._left(spent))  # fmt: skip
        _write(self._console, "  ".join(part for part in parts if part))

    def _left(self, spent: float) -> str:
        """Returns about how long it goes on, "" if that is not known."""
        if self._total is None or not 0 < self._done < self._total:
            return ""
        return f"about {spent * (self._total - self._done) / self._done:.0f} s left"


class _State:
    """What is switched on; `bars` are those being drawn now."""

    out: rich.console.Console | None = None
    err: rich.console.Console | None = None
    bars: rich.progress.Progress | None = None


def activate(*, plain: bool | None = None) -> None:
    """Switches output on.

    Args:
        plain: True never draws bars or control codes, False always does; None looks whether the
            stream is a terminal or a notebook.
    """
    _State.out, _State.err = _console(plain, stderr=False), _console(plain, stderr=True)


def deactivate() -> None:
    """Switches output off again."""
    _State.out = _State.err = _State.bars = None


def say(line: str = "") -> None:
    """Writes one line of result to standard output; text is shown as it is, without markup."""
    if _State.out is not None:
        _write(_State.out, line)


def warn(line: str) -> None:
    """Writes one warning to standard error."""
    if _State.err is not None:
        # Through the console of a bar in progress, so that the bar is not torn.
        console = _State.bars.console if _State.bars and _State.err.is_terminal else _State.err
        _write(console, f"Warning: {line}", style="yellow")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table; columns that hold only numbers are set flush right.

    Args:
        title: Stands above the table; may be empty.
        columns: Headings.
        rows: One value per column; a value is shown as `str` shows it.
    """
    if _State.out is None:
        return
    grid = rich.table.Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        numbers = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        grid.add_column(
            rich.text.Text(str(column)),
            justify="right" if numbers else "left",
            overflow="fold",
        )
    for row in rows:
        grid.add_row(*(rich.text.Text(str(value)) for value in row))
    _State.out.print(grid)


@contextlib.contextmanager
def progress(description: str, total: int | None = None) -> Iterator[Progress]:
    """Shows a task while it runs.

    Args:
        description: What is being done, such as `Training`.
        total: Number of steps, or None if it is not known.

    Yields:
        A `Progress`, whose `advance` counts steps.
    """
    console = _progress_console()
    if console is None:
        yield Progress()
    elif not (console.is_terminal or console.is_jupyter):
        lines = _Lines(console, description, total)
        try:
            yield lines
        finally:
            lines.show()
    elif _State.bars is not None:
        bar = _Bar(_State.bars, description, total)
        try:
            yield bar
        finally:
            bar.remove()
    else:
        with _bars(console) as bars:
            _State.bars = bars
            try:
                yield _Bar(bars, description, total)
            finally:
                _State.bars = None


def _console(plain: bool | None, *, stderr: bool) -> rich.console.Console:
    forced = None if plain is None else not plain
    console = rich.console.Console(stderr=stderr, highlight=False, force_terminal=forced)
    if not (console.is_terminal or console.is_jupyter):
        console = rich.console.Console(
            stderr=stderr, highlight=False, force_terminal=False, no_color=True, width=PLAIN_WIDTH
        )
    return console


def _progress_console() -> rich.console.Console | None:
    if _State.out is None or _State.out.is_terminal or _State.out.is_jupyter:
        return _State.out
    return _State.err


def _bars(console: rich.console.Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=28),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(compact=True),
        rich.progress.TextColumn("{task.fields[postfix]}", style="dim", markup=False),
        console=console,
        # Text that is meant for a file must reach it while a bar is drawn on the terminal.
        redirect_stdout=console is _State.out,
        redirect_stderr=_State.err is not None and _State.err.is_terminal,
    )


def _postfix(values: dict[str, float | str]) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


def _write(console: rich.console.Console, line: str, style: str | None = None) -> None:
    console.print(rich.text.Text(line), style=style, soft_wrap=True)
