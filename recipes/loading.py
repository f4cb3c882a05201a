"""What every command that looks at images does first: decode and split them, load the network."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from finetune_kit import backbones, console, data, strategy, training
from recipes import settings

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import ImageData

C = TypeVar("C", bound=settings.Source)

OWN_WEIGHTS = ("imagenet", "bundled")  # which fit the network that they come with
AS_ADVISED = -1  # head_stages that the advisor chooses; until then the head sees the last one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded(Generic[C]):
    """Images and network, ready to be looked at.

    Attributes:
        config: The settings, resolved: nothing is left to be chosen by their rules.
        images: What is trained and scored on.
        classifier: The backbone with a fresh head.
        device: Name of the device that trains.
        why: Line of the plan to the reason of what was chosen by a rule.
        seconds: Seconds by part so far.
        started: `time.perf_counter()` at the beginning.
    """

    config: C
    images: "ImageData"
    classifier: "Classifier"
    device: str
    why: Mapping[str, str]
    seconds: dict[str, float]
    started: float

    @property
    def groups(self) -> tuple[str, ...]:
        """The backbone's stages from input to output, then `head`."""
        return self.classifier.groups


def load(config: C) -> Loaded[C]:
    """Decodes and splits the images and loads the backbone.

    Raises:
        KitError: Whatever is wrong with the settings, the images or the weights; one line each.
    """
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    with timed(seconds, "start_up"):
        device = training.choose_device(config.precision)
    size = backbones.catalogue.image_size(config.backbone, config.image_size)
    with timed(seconds, "data"), console.progress("Decoding") as bar:
        images = data.load(
            config.data,
            image_size=size,
            data_dir=config.data_dir or None,
            seed=config.seed,
            per_class=config.per_class,
            hold_out=getattr(config, "cross_validate", False),
            test_fraction=config.test_fraction,
            validation_fraction=config.validation_fraction,
            max_bad_fraction=config.max_bad_fraction,
            cache_mb=config.cache_mb,
            cache_dir=config.cache_dir,
            channels=channels_of(config),
            progress=bar.advance,
        )
    with timed(seconds, "backbone"):
        backbone = load_backbone(config, weights=config.weights)
    say_keys(backbone)
    resolved, why = _resolve(config, backbone.model.count_params(), images, size)
    return Loaded(
        config=resolved,
        images=images,
        classifier=attach(resolved, backbone, images.num_classes, config.head_stages),
        device=device,
        why=why,
        seconds=seconds,
        started=started,
    )


def load_backbone(config: settings.Source, *, weights: str) -> "Backbone":
    """Returns the network that the settings name, with any weights."""
    backbone = backbones.load(
        config.backbone,
        image_size=config.image_size,
        weights=weights,
        arguments=config.arguments(),
        precision=config.precision,
        seed=config.seed,
        source_card=config.source_card,
        preprocessing=config.preprocessing,
        channels=channels_of(config),
        min_loaded=config.min_loaded,
    )
    if config.dense_top == backbones.catalogue.KEPT:
        return backbones.keep_dense(backbone)
    return backbone


def channels_of(config: settings.Source) -> int:
    """Returns the number of channels in which the settings want images, N."""
    return config.channels or data.sizes.COLOURS


def say_keys(backbone: "Backbone") -> None:
    """Writes one line on what a weights file gave, a warning where it did not give all."""
    if backbone.keys is None or backbone.weights in OWN_WEIGHTS:
        return
    line = f"weights  {backbone.weights}: {backbone.keys.line()}"
    (console.say if backbone.keys.is_complete else console.warn)(line)


def attach(
    config: settings.Source, backbone: "Backbone", classes: int, head_stages: int
) -> "Classifier":
    """Returns the backbone with a fresh head on its last `head_stages` stages; 0 is all."""
    return backbones.attach_head(
        backbone,
        classes,
        stages=head_stages if head_stages != AS_ADVISED else 1,
        dropout=getattr(config, "dropout", 0.0),
        seed=config.seed,
    )


@contextlib.contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Notes how many seconds the block took."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[part] = time.perf_counter() - started


def _resolve(
    config: C, parameters: int, images: "ImageData", size: data.sizes.Size
) -> tuple[C, dict[str, str]]:
    """Returns the settings with every automatic value chosen, and why."""
    chosen: dict[str, Any] = {"image_size": size, "channels": channels_of(config)}
    why: dict[str, str] = {}
    if isinstance(config, settings.Training):
        if not config.learning_rate:
            rate, reason = strategy.default_rate(config.optimizer, parameters=parameters)
            chosen["learning_rate"] = rate
            why["rates"] = f"learning rate {reason}"
        if not config.epochs:
            epochs, reason = strategy.default_epochs(
                len(images.train), batch_size=config.batch_size
            )
            chosen["epochs"] = epochs
            why["epochs"] = reason
    return dataclasses.replace(config, **chosen), why
