"""Dataclass fields as absl flags, and back.

Every command has flags of its own, so that no command shows or accepts another's.
"""

import dataclasses
import difflib
import functools
import pathlib
import re
import shlex
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from absl import flags

from finetune_kit import checks

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")
WRAPPER = textwrap.TextWrapper(
    width=96,
    initial_indent=" " * 6,
    subsequent_indent=" " * 6,
    break_long_words=False,  # values are there to be copied
    break_on_hyphens=False,
)


def define(values: flags.FlagValues, config_class: "type[DataclassInstance]") -> None:
    """Defines a flag for every field of a dataclass.

    Args:
        values: Where the flags go.
        config_class: Its fields have a default of type str, int, float or bool, and the metadata
            that `recipes.settings.option` or `size_option` gives.
    """
    makers = {
        bool: flags.DEFINE_bool,
        int: functools.partial(flags.DEFINE, _WholeNumber()),
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    for field in dataclasses.fields(config_class):
        choices, text = field.metadata.get("choices"), field.metadata["help"]
        read = field.metadata.get("parse")
        if choices:
            flags.DEFINE_enum(field.name, field.default, list(choices), text, flag_values=values)
        elif read:
            flags.DEFINE(_Parser(read), field.name, field.default, text, flag_values=values)
        else:
            makers[type(field.default)](field.name, field.default, text, flag_values=values)


def parse(
    argv: list[str], config_class: type[C], *, command: str, positional: str = ""
) -> tuple[C, list[str]]:
    """Returns the config that the words of a command make, and the words that are no flags.

    Words and flags may be mixed; `--flagfile=FILE` reads flags from a file; everything behind `--`
    is a word.

    Args:
        argv: The words behind the command's name.
        config_class: A dataclass, see `define`.
        command: Name of the command, for help.
        positional: How help calls the other words.

    Raises:
        HelpRequested: `--help` is among the words; its message is the help text.
        ConfigError: An unknown flag, with the nearest name, or a value that the flag cannot have.
    """
    if any(word in ("--help", "-help", "-h", "--helpfull") for word in _before_dashes(argv)):
        raise HelpRequested(usage(config_class, command=command, positional=positional))
    values = flags.FlagValues()
    define(values, config_class)
    try:
        words = values([command, *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        raise checks.ConfigError(_unknown(error.flagname, list(values), command)) from error
    except flags.Error as error:
        raise checks.ConfigError(_reason(error)) from error
    fields = {field.name: values[field.name].value for field in dataclasses.fields(config_class)}
    return config_class(**fields), words


class _Parser(flags.ArgumentParser):
    """Reads a flag by a function from text to its value."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        super().__init__()
        self._read = read

    def parse(self, argument: Any) -> Any:
        """Returns the value of what was typed, or of a default."""
        return self._read(str(argument))


class _WholeNumber(flags.IntegerParser):
    """Reads whole numbers; says in words what came instead of one."""

    def convert(self, argument: str | int) -> int:
        """Returns the number.

        Raises:
            ValueError: There is none, or there are two, as of an image that is no square.
        """
        try:
            return int(super().convert(argument))
        except ValueError as error:
            side = ", the side of a square" if re.fullmatch(r"\d+x\d+", str(argument)) else ""
            raise ValueError(f"one whole number is needed{side}. Received: {argument!r}") from error


class HelpRequested(Exception):
    """`--help` was among the words; the message is the help text."""


def refuse_words(command: str, words: list[str]) -> None:
    """Raises `ConfigError` if a command that takes flags alone was given other words."""
    if words:
        raise checks.ConfigError(
            f"{command} takes flags alone. Received: {' '.join(words)}. "
            f"`finetune-kit {command} --help` lists them."
        )


def usage(config_class: "type[DataclassInstance]", *, command: str, positional: str = "") -> str:
    """Returns the help text: one flag a paragraph, with its default and its choices."""
    words = f" {positional}" if positional else ""
    first = (config_class.__doc__ or "").strip().splitlines()[0]
    lines = [f"usage: finetune-kit {command}{words} [--FLAG=VALUE …]", "", first, ""]
    for field in dataclasses.fields(config_class):
        name = f"--[no]{field.name}" if isinstance(field.default, bool) else f"--{field.name}"
        notes = [f"default {field.default!r}"]
        if field.metadata.get("choices"):
            notes.append("one of " + ", ".join(field.metadata["choices"]))
        text = f"{field.metadata['help']} ({'; '.join(notes)})"
        lines.append(f"  {name}")
        lines += WRAPPER.wrap(text)
    lines += ["  --flagfile", "      A file with flags, one a line."]
    return "\n".join(lines)


def _before_dashes(argv: list[str]) -> list[str]:
    return argv[: argv.index("--")] if "--" in argv else argv


def _unknown(name: str, known: list[str], command: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" Did you mean --{near[0]}?" if near else ""
    return f"{command} has no flag --{name}.{hint} `finetune-kit {command} --help` lists all."


def _reason(error: flags.Error) -> str:
    return " ".join(str(error).removeprefix("ERROR:: ").split())


def as_words(config: Any) -> list[str]:
    """Returns the flags that make a config from its defaults, as one would type them."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            if isinstance(value, bool):
                words.append(f"--{field.name}" if value else f"--no{field.name}")
            else:
                write = field.metadata.get("write", str)
                words.append(f"--{field.name}={write(value)}")
    return words


def as_command(
    name: str, config: Any, *, files: Sequence[str] = (), left_out: Sequence[str] = ()
) -> str:
    """Returns a command as one would type it on another machine.

    Args:
        name: The command.
        config: Its flags.
        files: Flags of whose paths only the last part is kept.
        left_out: Flags that are left out.
    """
    words = []
    for word in as_words(config):
        flag, equals, value = word.partition("=")
        field = flag.removeprefix("--")
        if field in files:
            value = pathlib.PurePath(value).name
        if field not in left_out:
            words.append(flag + equals + value)
    return shlex.join(["finetune-kit", name, *words])
