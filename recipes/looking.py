"""Looks at images through a backbone: what is measured before anything trains."""

import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune_kit import backbones, console, features, similarity
from finetune_kit.strategy import costs, evidence
from recipes import loading, settings

if TYPE_CHECKING:
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split
    from finetune_kit.similarity.types import Similarity, TaskFit

MOST = 2_000  # images that are looked at: an accuracy is known within two points by then
MOST_COMPARED = 500  # images whose moments are compared: enough to place any set
# Seconds until the first training step by those of tracing a forward pass, and seconds that end a
# run besides forward passes: measured on networks of 27 to 190 layers.
TRACE = 6.0
EXPORT = 1.5
IMAGENET_CLASSES = 1000
WIDER = 2  # features of the last three stages by those of the last one: each is half as wide


@dataclasses.dataclass(frozen=True)
class Look:
    """What was measured before training.

    Attributes:
        similarity: How near the images are to the backbone's source.
        fit: How well its features separate their classes.
        mirrored: Which held-out images a probe recognises as they are, and which mirrored, two
            bool [m]; None if it could not be asked, or was not.
        evidence: Both, condensed for the advisor.
        costs: What a forward pass takes.
        seconds: Seconds that looking took.
    """

    similarity: "Similarity"
    fit: "TaskFit"
    mirrored: tuple[np.ndarray, np.ndarray] | None
    evidence: evidence.Evidence
    costs: costs.Costs
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the measurements as JSON types."""
        return {
            "similarity": dataclasses.asdict(self.similarity),
            "task_fit": dataclasses.asdict(self.fit),
            "mirrored": _shares_of(self.mirrored),
            "costs": dataclasses.asdict(self.costs),
            "seconds": self.seconds,
        }


def look(loaded: "loading.Loaded[Any]", *, source_head: bool = False, mirror: bool = False) -> Look:
    """Measures similarity, task fit and the time of a forward pass on the training images.

    Args:
        loaded: Its backbone is run in inference mode and left as it was.
        source_head: Whether the head of the source classes is asked too, for LEEP and NCE; it
            takes the network to be built once more.
        mirror: Whether the images are looked at mirrored, too.
    """
    began = time.perf_counter()
    images, backbone, seed = loaded.images, loaded.classifier.backbone, loaded.config.seed
    looked_at = sample(images.train, MOST, seed=seed)
    observer = similarity.Observer(backbone)
    with console.progress("Looking", len(looked_at)) as bar:
        seen = observer.observe(looked_at, progress=bar.advance)
    some = np.sort(np.random.default_rng(seed).permutation(len(looked_at))[:MOST_COMPARED])
    compared, seen_of = looked_at.take(some), seen.take(some)
    near = similarity.measure(backbone, compared, seed=seed, observation=seen_of, observer=observer)
    fit = similarity.probe(
        seen.features,
        looked_at.labels,
        num_classes=images.num_classes,
        seed=seed,
        source_probabilities=_source_probabilities(backbone, seen) if source_head else None,
    )
    return Look(
        near,
        fit,
        similarity.mirrored(
            seen_of.features,
            observer.observe(compared.mirrored()).features,
            compared.labels,
            num_classes=images.num_classes,
            seed=seed,
        )
        if mirror
        else None,
        dataclasses.replace(
            counted(loaded),
            similarity=near.value,
            shift=near.shift,
            fit=fit.fit,
            deep_fit=fit.above_chance(fit.last_three),
        ),
        measured_costs(loaded),
        time.perf_counter() - began,
    )


def counted(loaded: "loading.Loaded[Any]") -> evidence.Evidence:
    """Returns what is known of images without looking at them: how many there are."""
    images, backbone = loaded.images, loaded.classifier.backbone
    return evidence.Evidence(
        images=len(images.train),
        per_class=evidence.small_class(images.train.counts(images.num_classes)),
        classes=images.num_classes,
        parameters=backbone.model.count_params(),
        pretrained=backbone.weights != "none",
        source_classes=_source_classes(backbone),
    )


def _shares_of(mirrored: tuple[np.ndarray, np.ndarray] | None) -> dict[str, float] | None:
    """Returns which shares of the images are recognised, JSON types."""
    if mirrored is None:
        return None
    upright, reflected = (float(hits.mean()) for hits in mirrored)
    return {"as_they_are": upright, "mirrored": reflected}


def _source_classes(backbone: "Backbone") -> int | None:
    """Returns how many classes a backbone's source has, None if nothing says so."""
    if backbone.source_classes:
        return backbone.source_classes
    if backbone.card is not None and backbone.card.class_names:
        return len(backbone.card.class_names)
    return IMAGENET_CLASSES if backbone.weights == "imagenet" else None


def candidate(config: "settings.Source", name: str) -> "tuple[str, TaskFit, float | None]":
    """Returns what ranks one of several networks: name, task fit, published accuracy.

    Args:
        config: Names the images; its backbone is that of a weights file.
        name: A backbone, or a weights file for `config.backbone`.
    """
    is_own = backbones.catalogue.is_own(name)
    if pathlib.Path(name).is_file() and not is_own:
        own = dataclasses.replace(config, weights=name)
    else:
        expected = config.preprocessing if is_own else ""
        own = dataclasses.replace(
            config, backbone=name, weights="", backbone_args="", preprocessing=expected
        )
    loaded = loading.load(own)
    backbone = loaded.classifier.backbone
    published = backbones.published.top1(backbone.name, arguments=backbone.arguments)
    return name, look(loaded, source_head=True).fit, published


def sample(split: "Split", most: int, *, seed: int) -> "Split":
    """Returns a split, or a sample of it in which every class keeps its share."""
    if len(split) <= most:
        return split
    order = np.random.default_rng(seed).permutation(len(split))
    # By class, then evenly through the row: every class is met in proportion to its size.
    row = order[np.argsort(split.labels[order], kind="stable")]
    return split.take(np.sort(row[np.linspace(0, len(row) - 1, most).astype(int)]))


def _source_probabilities(
    backbone: "Backbone", seen: "similarity.Observation"
) -> np.ndarray | None:
    """Returns what the head of the source classes says, float [n, Z]; None without one."""
    import keras
    import scipy.special

    from finetune_kit.backbones import source_head

    head = source_head.source_head(backbone)
    if head is None or not isinstance(head.layers[1], keras.layers.GlobalAveragePooling2D):
        return None
    # The head begins by averaging over positions: a map that is everywhere its average will do.
    pooled = seen.pooled_features[:, None, None, :]
    maps = np.broadcast_to(pooled, (len(pooled), *head.input_shape[1:]))
    return np.asarray(scipy.special.softmax(head.predict(maps, verbose=0), axis=1))


def measured_costs(loaded: "loading.Loaded[Any]") -> costs.Costs:
    """Returns what a forward pass takes, and what follows from it for the rest of a run."""
    images, classifier = loaded.images, loaded.classifier
    taken, trace = features.timed(classifier.features, images.train)
    tested = len(images.test) if images.test is not None else 0
    n, width = len(images.train), classifier.features.output_shape[-1]
    return costs.Costs(
        forward=taken,
        trace=TRACE * trace,
        # Features for the head, and the test split; each has a graph of its own.
        others=2 * trace
        + taken * (n + tested)
        + features.expected_seconds(n, WIDER * width, images.num_classes)
        + EXPORT,
        spent=time.perf_counter() - loaded.started,
        shares=_shares(classifier.backbone),
        views=getattr(loaded.config, "views", 0),
        keep=getattr(loaded.config, "keep_activations", True),
    )


def _shares(backbone: "Backbone") -> tuple[float, ...]:
    """Returns the share of every stage in the operations of a forward pass."""
    from finetune_kit.backbones import flops

    work = flops.by_stage(backbone)
    return tuple(part / max(1, sum(work)) for part in work)
