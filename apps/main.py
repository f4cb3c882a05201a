"""The console script: finds the command, and turns what goes wrong into a line and an exit code."""

import difflib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from apps import flags, quiet
from finetune_kit import checks

COMMANDS = {
    "finetune": ("apps.finetune", "Fine-tune a classifier on your images."),
    "advise": ("apps.advise", "Look at images and say how to train; trains nothing."),
    "demo": ("apps.demo", "Fine-tune on scikit-learn's handwritten digits, with no download."),
    "evaluate": ("apps.evaluate", "Score a saved model on labelled images."),
    "predict": ("apps.predict", "Classify files or a folder."),
    "compare": ("apps.compare", "Put several runs into one table."),
    "backbones": ("apps.backbones", "List networks, or the stages of one."),
    "audit-network": ("apps.audit_network", "Hold a network against the source text's rules."),
    "pretrain": ("apps.pretrain", "Train the bundled backbone."),
    "pretrain-arrays": ("apps.pretrain_arrays", "Train it on arrays, on any backend of Keras."),
    "source-card": ("apps.source_card", "Write what a network sees of its source."),
    "benchmark": ("apps.benchmark", "Measure accuracy and speed against baselines."),
}
# These have --resume, and find what they go on with by that flag.
RESUMABLE = {"finetune": "--workdir", "pretrain": "--workdir", "pretrain-arrays": "--output"}


TERMINATED = 128 + signal.SIGTERM


def run(argv: list[str] | None = None) -> int:
    """Runs `finetune-kit COMMAND …` and returns the exit code.

    0 done, 2 bad flags, 3 bad data, 4 bad checkpoint or weights, 5 environment, 6 numerics,
    7 untrusted file, 130 interrupted, 143 terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0].replace("_", "-") if words else ""
    if command in COMMANDS:
        return run_app(command, words[1:])
    return _exit_code(lambda: _without_command(words))


def run_app(command: str, argv: list[str] | None = None) -> int:
    """Runs one command with the words behind its name and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    rest = [word for word in words if word != "--debug"]
    quiet.switch_on()
    signal.signal(signal.SIGTERM, _terminate)

    def act() -> int:
        from finetune_kit import console

        console.activate()
        code: int = importlib.import_module(COMMANDS[command][0]).main(rest)
        return code

    return _exit_code(act, debug=len(rest) < len(words), place=RESUMABLE.get(command, ""))


def _without_command(words: list[str]) -> int:
    """Answers words that begin with no command."""
    if not words:
        sys.stderr.write(_usage())
        return checks.ConfigError.exit_code
    if words[0] in ("--help", "-h", "help"):
        sys.stdout.write(_usage())
        return 0
    if words[0] == "--version":
        from finetune_kit import results

        sys.stdout.write(results.versions().get("finetune-kit", "unknown") + "\n")
        return 0
    near = difflib.get_close_matches(words[0].replace("_", "-"), COMMANDS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise checks.ConfigError(
        f"There is no command {words[0]!r}.{hint} `finetune-kit --help` lists all."
    )


def _exit_code(act: Callable[[], int], *, debug: bool = False, place: str = "") -> int:
    """Returns what `act` returns, or says in one line why not and returns that exit code."""
    hint = f" Go on with --resume and the same {place}." if place else ""
    try:
        code = _answer(act)
        sys.stdout.flush()
    except checks.KitError as error:
        code = _complain(str(error), error.exit_code, debug=debug)
    except KeyboardInterrupt:
        code = _complain(f"Interrupted.{hint}", 130, debug=debug)
    except BrokenPipeError:
        # Whoever read has what they wanted; what Python still holds back must go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except SystemExit as leaving:
        if leaving.code == TERMINATED:
            code = _complain(f"Terminated.{hint}", TERMINATED, debug=debug)
        elif isinstance(leaving.__context__, BrokenPipeError):
            code = 0  # Rich meets the closed pipe first, and leaves.
        else:
            raise
    return code


def _answer(act: Callable[[], int]) -> int:
    try:
        return act()
    except flags.HelpRequested as request:
        sys.stdout.write(f"{request}\n")
        return 0


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)


def _complain(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"finetune-kit: {' '.join(message.splitlines())}\n")
    return code


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: finetune-kit COMMAND [--FLAG=VALUE …]", "", *lines, "",
         "`finetune-kit COMMAND --help` lists the flags of a command; with --debug, an error comes",
         "with its traceback.", ""]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run())
