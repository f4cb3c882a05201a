"""The suite `step`: what rates by depth cost in time, against the plain optimizer.

    finetune-kit benchmark step --backbone=mobilenet --backbone_args=alpha=0.25

Two equal networks take the same training step, one with an optimizer of Keras and one with that
optimizer made layerwise, step by step in turn, so that whatever else the machine does falls on
both. A third, with the plain optimizer again, shows what two equal things differ by here: a ratio
below its own is noise.
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.stats

from apps import flags
from apps.benchmarks import markdown, records
from finetune_kit import console
from finetune_kit.results import files
from recipes import settings

if TYPE_CHECKING:
    import keras

ARMS = ("plain", "layerwise", "control")
WARM_UP = 20  # rounds: tracing, then caches and clocks
LIMIT = 1.02  # the ratio that the kit promises to stay within
CLASSES = 10
RATE = 1e-6  # steps of full length that leave the network where it is, as far from NaN as ever
RATIO = 0.1  # rate of the first stage to the last one's; no step is dearer for another


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of `finetune-kit benchmark step`."""

    backbone: str = settings.option("Network, with random weights.", "mobilenet")
    backbone_args: str = settings.option("Its arguments, as in alpha=0.25.", "")
    image_size: int = settings.option("Side of the input in pixels.", 128, low=32)
    batch_size: int = settings.option("Images a step.", 32, low=1)
    batch_norm: str = settings.option(
        "Whether BatchNorm trains, which makes three times as many variables.",
        "frozen",
        choices=("frozen", "trainable"),
    )
    optimizer: str = settings.option(
        "Any of Keras' optimizers.", "adamw", choices=settings.OPTIMIZERS
    )
    rounds: int = settings.option("Steps of each network that are timed.", 300, low=20)
    rows: str = settings.option("Where measurements are kept.", "docs/results/step.jsonl")
    output: str = settings.option("The page.", "docs/step.md")

    def __post_init__(self) -> None:
        settings.check_options(self)
        settings.arguments(self.backbone_args)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How much longer one step takes than another, round by round.

    Attributes:
        value: Median over the rounds.
        low, high: Its 95 % interval, from order statistics: no distribution is assumed.
        lower, upper: Quartiles of the rounds.
    """

    value: float
    low: float
    high: float
    lower: float
    upper: float


def main(argv: list[str]) -> int:
    """Measures, adds a row and writes the page; returns 0."""
    config, words = flags.parse(argv, Config, command="benchmark step")
    flags.refuse_words("benchmark step", words)
    row = measure(config)
    records.append_lines(config.rows, [row])
    pathlib.Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(config.output, page(records.load_lines(config.rows)))
    console.say(json.dumps(row))
    console.say(f"page  {config.output}")
    return 0


def measure(config: Config) -> dict[str, Any]:
    """Times the three networks and returns a row: settings, milliseconds, ratios, machine."""
    models = {arm: _network(config, layerwise=arm == "layerwise") for arm in ARMS}
    seconds = _interleaved(models, _batch(config), config.rounds)
    keys = ("backbone", "backbone_args", "image_size", "batch_size", "batch_norm", "optimizer")
    return {
        **{key: getattr(config, key) for key in keys},
        "variables": len(models["plain"].trainable_variables),
        "rounds": config.rounds,
        "milliseconds": {arm: 1000 * float(np.median(seconds[arm])) for arm in ARMS},
        "ratio": dataclasses.asdict(ratio(seconds["layerwise"], seconds["plain"])),
        "control": dataclasses.asdict(ratio(seconds["control"], seconds["plain"])),
        "device": records.device(),
        **records.stamp(),
    }


def ratio(first: np.ndarray, second: np.ndarray) -> Ratio:
    """Returns the ratio of two series of seconds, float [rounds], paired by round."""
    ratios = np.sort(first / second)
    # The number of values below the median is binomial, whatever they are (David & Nagaraja 2003,
    # "Order Statistics", section 7.1).
    below = int(scipy.stats.binom.ppf(0.025, ratios.size, 0.5))
    lower, upper = np.quantile(ratios, [0.25, 0.75])
    return Ratio(
        value=float(np.median(ratios)),
        low=float(ratios[max(below - 1, 0)]),
        high=float(ratios[min(ratios.size - below, ratios.size - 1)]),
        lower=float(lower),
        upper=float(upper),
    )


def page(lines: Sequence[Mapping[str, Any]]) -> str:
    """Returns the page, a function of the rows alone; of equal settings the last row counts."""
    latest = {_settings(line): line for line in lines}
    table = [
        [
            name,
            str(line["variables"]),
            *(f"{line['milliseconds'][arm]:.2f}" for arm in ARMS[:2]),
            _shown(line["ratio"]),
            f"{line['ratio']['lower']:.3f} to {line['ratio']['upper']:.3f}",
            _shown(line["control"]),
            str(line["rounds"]),
            line["finished"][:10],
        ]
        for name, line in latest.items()
    ]
    headings = ["network, batch, optimizer", "variables", "plain, ms", "by depth, ms", "ratio",
                "quartiles", "control", "rounds", "day"]  # fmt: skip
    over = [name for name, line in latest.items() if line["ratio"]["value"] > LIMIT]
    kept = f"No row is above {LIMIT}." if not over else f"Above {LIMIT}: {'; '.join(over)}."
    machines = dict.fromkeys(
        f"- {line['machine']} ({line['device']}); "
        + ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        for line in latest.values()
    )
    parts = [
        "# What rates by depth cost",
        "Written by `finetune-kit benchmark step`, a row for each choice of its flags.",
        "\n".join(machines),
        "A training step with a rate for every stage against the same step with the plain "
        f"optimizer. {kept}",
        markdown.grid(headings, table),
        "The networks take one step each in turn. Ratio: median over the rounds of by depth to "
        "plain, with the 95 % interval of the median; quartiles are those of single rounds. "
        "Control: a second plain network against the first, which would be 1 without noise.",
    ]
    return "\n\n".join(parts) + "\n"


def _network(config: Config, *, layerwise: bool) -> "keras.Model":
    """Returns a compiled classifier in which every stage trains."""
    import keras

    from finetune_kit import backbones, strategy
    from finetune_kit.strategy import applying
    from finetune_kit.training import optimizers

    backbone = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights="none",
        arguments=settings.arguments(config.backbone_args),
    )
    classifier = backbones.attach_head(backbone, CLASSES)
    tuning = strategy.Tuning(learning_rate=RATE, epochs=1, batch_norm=config.batch_norm)
    phase = strategy.discriminative(classifier.groups, RATIO, tuning)
    strategy.apply(classifier, phase)
    optimizer = optimizers.build(
        config.optimizer, learning_rate=RATE, weight_decay=0.01, clip_norm=1.0
    )
    if layerwise:
        rates = applying.rates_by_path(classifier, phase)
        optimizer = optimizers.with_multipliers(optimizer, rates)
    classifier.model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    return classifier.model


def _batch(config: Config) -> tuple[Any, Any]:
    """Returns images float32 [b, s, s, 3] in [0, 255) and one-hot labels float32 [b, C]."""
    import keras

    generator = np.random.default_rng(0)
    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = generator.uniform(0, 255, shape).astype(np.float32)
    labels = np.eye(CLASSES, dtype=np.float32)[np.arange(config.batch_size) % CLASSES]
    return keras.ops.convert_to_tensor(images), keras.ops.convert_to_tensor(labels)


def _interleaved(
    models: "Mapping[str, keras.Model]", batch: tuple[Any, Any], rounds: int
) -> dict[str, np.ndarray]:
    """Returns the seconds of each step, float [rounds], by arm; the order turns every round."""
    arms = list(models)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    with console.progress("Rounds", WARM_UP + rounds) as progress:
        for done in range(WARM_UP + rounds):
            turn = done % len(arms)
            # Who comes after whom must be even too: forwards and backwards in turn.
            order = (arms[turn:] + arms[:turn])[:: 1 if done // len(arms) % 2 else -1]
            for arm in order:
                began = time.perf_counter()
                models[arm].train_on_batch(*batch)
                seconds[arm].append(time.perf_counter() - began)
            progress.advance()
    return {arm: np.asarray(values[WARM_UP:]) for arm, values in seconds.items()}


def _settings(line: Mapping[str, Any]) -> str:
    arguments = f" {line['backbone_args']}" if line["backbone_args"] else ""
    norm = ", BatchNorm trains" if line["batch_norm"] == "trainable" else ""
    return (
        f"{line['backbone']}{arguments} {line['image_size']} px{norm}, {line['batch_size']}, "
        f"{line['optimizer']}"
    )


def _shown(of: Mapping[str, float]) -> str:
    return f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}]"
