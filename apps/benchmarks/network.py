"""The network that a suite measures with: the flags that suites share."""

import dataclasses

from finetune_kit.backbones import catalogue
from recipes import settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """A network, its weights and the size of its images.

    Raises:
        ConfigError, WeightsError: A value that its field does not allow, of this or a derived
            class; weights that do not exist.
    """

    weights: str = settings.option("imagenet, none, or a weights file.", "imagenet")
    backbone: str = settings.option("Network to start from.", "mobilenet")
    backbone_args: str = settings.option(
        "Its arguments, as in alpha=0.25; what has no weights file cannot read them from it.", ""
    )
    image_size: int = settings.option("Side of the input in pixels.", 128, low=32)

    def __post_init__(self) -> None:
        settings.check_options(self)
        settings.arguments(self.backbone_args)
        settings.check_weights(self.weights)
        catalogue.image_size(self.backbone, self.image_size)
