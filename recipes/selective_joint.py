"""Linear probe, then fine-tuning together with the source images that look most like the target's.

Few labelled images leave a deep network much room to overfit. Images of the source keep the body
busy with a task that it knows, under a head of their own; chosen by how the first filters answer
to them, they exercise the filters that the target needs. Half of the loss is theirs, until it
fades at the end of training. The model that is kept has the target's head alone.

Use it with few images, where fine-tuning alone overfits and images of the source (or of any large,
labelled set) are at hand; a step takes twice as long. `--selection=random` is its control: as many
source images, drawn blindly. Compare both with `probe_then_finetune` before relying on either.

Run:      finetune-kit finetune selective_joint --source_data=zoo --data=photos --workdir=runs/1

Reference: Ge & Yu, 2017, "Borrowing Treasures from the Wealthy: Deep Transfer Learning through
Selective Joint Fine-Tuning", sections 3.1 to 3.3, without the iteration of section 3.4.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_kit import checks, console, data, results, similarity, strategy, training
from recipes import jobs, loading, settings

if TYPE_CHECKING:
    import numpy as np

    from finetune_kit.data.pools import Pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.TuningSettings):
    """How the second phase trains, and which source images beside the target's.

    Raises:
        DataError: `source_data` is no source of images.
    """

    source_data: str = settings.option("Source images: as --data.", "")
    source_data_dir: str = settings.option("Where TensorFlow Datasets keeps them.", "")
    source_limit: int = settings.option(
        "Most source images that are looked at, each class in its share; 0 is all.", 20_000, low=0
    )
    selection: str = settings.option(
        "Which of them train: the nearest, or as many at random.", "nearest",
        choices=("nearest", "random"),
    )  # fmt: skip
    neighbours: int = settings.option("Source images for each target image.", 50, low=1)
    distance: str = settings.option(
        "Between the histograms of two images: hellinger, or the paper's kl.", "hellinger",
        choices=("hellinger", "kl"),
    )  # fmt: skip
    source_weight: float = settings.option(
        "Share of the loss that is the source's, until it fades.", 0.5, low=0.0, high=0.99
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source_data:
            raise checks.ConfigError(
                "--source_data is needed: labelled images that train beside those of --data, best "
                "those that the backbone was trained on: a folder, a .csv manifest, or tfds:NAME. "
                "Received: source_data=''. Without any, use the recipe probe_then_finetune."
            )
        try:
            data.check_source(self.source_data, self.source_data_dir or None)
        except checks.DataError as error:
            raise checks.DataError(f"--source_data cannot be used. {error}") from error


def phases(config: Config, groups: Sequence[str]) -> tuple["strategy.Phase", ...]:
    """Returns the probe and one phase in which every stage trains at the same rate."""
    return (strategy.probe(groups), strategy.everything(groups, config.tuning()))


def run(config: Config) -> "results.Report":
    """Chooses source images, solves the head, trains every layer on both; leaves model, report."""
    job = jobs.begin(config, recipe="selective_joint")
    with loading.timed(job.seconds, "source"):
        source = _load(job.config)
    with loading.timed(job.seconds, "selection"):
        chosen = _choose(job, source)
        companion = training.accompany(
            job.classifier,
            job.images.train,
            source.images,
            chosen,
            weight=config.source_weight,
            seed=config.seed,
            fingerprint=source.fingerprint,
        )
    note = (
        f"{len(companion.images)} of {len(source.images)} source images train with the target's, "
        f"in {companion.num_classes} classes: {config.selection}, {config.neighbours} for each"
    )
    left_out = [f"{file.name} of the source was left out: {file.reason}" for file in source.bad]
    job = dataclasses.replace(job, notes=(*job.notes, note, *source.warnings, *left_out))
    return job.carry_out(phases(job.config, job.groups), companion=companion)


def _load(config: Config) -> "Pool":
    with console.progress("Decoding source images") as bar:
        return data.load_pool(
            config.source_data,
            image_size=config.image_size,
            limit=config.source_limit,
            data_dir=config.source_data_dir or None,
            seed=config.seed,
            max_bad_fraction=config.max_bad_fraction,
            cache_mb=config.cache_mb,
            cache_dir=config.cache_dir,
            channels=loading.channels_of(config),
            progress=bar.advance,
        )


def _choose(job: jobs.Job[Config], source: "Pool") -> "np.ndarray":
    config, target = job.config, job.images.train
    with console.progress("Comparing images", len(target) + len(source.images)) as bar:
        chosen = similarity.nearest(
            job.classifier.backbone,
            target,
            source.images,
            neighbours=config.neighbours,
            distance=config.distance,
            progress=bar.advance,
        )
    if config.selection == "random":
        return similarity.at_random(chosen, len(source.images), seed=config.seed)
    return chosen
