"""Measures how near images are to what a backbone knows, and says how to train. Trains nothing.

finetune-kit advise --data=photos
finetune-kit advise --data=photos --candidates=mobilenet,resnet50,weights/mine.weights.h5
"""

import dataclasses
import pathlib
import shlex
import sys
from typing import Any

from apps import flags
from finetune_kit import console
from finetune_kit.backbones import catalogue
from finetune_kit.results import files
from recipes import settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Choices, settings.Source):
    """What to look at, through which backbone; the flags of `finetune` that a plan depends on."""

    candidates: str = settings.option(
        "Backbones or weights files to rank, with commas; empty advises on --backbone alone.", ""
    )
    output: str = settings.option("JSON file for the advice; empty writes none.", "")

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.seconds(self.time_budget)
        for name in self.ranked():
            if catalogue.is_own(name) or not pathlib.Path(name).is_file():
                catalogue.canonical(name)

    def ranked(self) -> tuple[str, ...]:
        """Returns the names in `candidates`."""
        return tuple(name.strip() for name in self.candidates.split(",") if name.strip())


def main(argv: list[str]) -> int:
    """Looks, prints measurement and plan, writes JSON if asked to; returns 0."""
    config, words = flags.parse(argv, Config, command="advise")
    flags.refuse_words("advise", words)
    found = _rank(config) if config.candidates else _advise(config)
    if config.output:
        files.write_json(config.output, found)
        console.say(f"advice  {config.output}")
    return 0


def _advise(config: Config) -> dict[str, Any]:
    from recipes import advising, sizing

    loaded = sizing.load(config)
    for note in loaded.images.audit.notes:
        console.say(f"· {note}")
    advice = advising.consult(loaded, source_head=True)
    advising.show(advice)
    console.say(f"{advice.look.seconds:.1f} s to look, on {loaded.device}")
    console.say(_next(config))
    return advice.to_dict()


def _rank(config: Config) -> dict[str, Any]:
    from finetune_kit import similarity
    from finetune_kit.similarity import ranking
    from recipes import looking

    found = similarity.rank([looking.candidate(config, name) for name in config.ranked()])
    console.table("Backbones for these images, the best first", ranking.HEADINGS, found.table())
    console.say(f"· {found.warning}")
    return dataclasses.asdict(found)


def _next(config: Config) -> str:
    """Returns the command that carries the plan out."""
    own = {field.name for field in dataclasses.fields(settings.Settings)}
    own |= {field.name for field in dataclasses.fields(settings.Choices)}
    words = [word for word in flags.as_words(config) if word.lstrip("-").split("=")[0] in own]
    return "train with  finetune-kit finetune " + shlex.join(words) + " --workdir=runs/1"


if __name__ == "__main__":
    from apps import main as apps_main

    sys.exit(apps_main.run_app("advise"))
