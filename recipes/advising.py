"""Looks at images through a backbone and asks the advisor: what `advise` and `auto` share."""

import dataclasses
import pathlib
import time
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from finetune_kit import backbones, console, data, features, results, similarity, training
from finetune_kit.strategy import advisor, candidates, costs, evidence
from recipes import jobs, loading, settings

if TYPE_CHECKING:
    import keras

    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.data.types import Split
    from finetune_kit.similarity.types import Similarity, TaskFit
    from finetune_kit.training import racing

C = TypeVar("C", bound=Any)
D = TypeVar("D", bound=Any)

MOST = 2_000  # images that are looked at: an accuracy is known within two points by then
MOST_COMPARED = 500  # images whose moments are compared: enough to place any set
TIMED, REPEATS = 64, 3  # images of a forward pass that is timed, and how often it is
# Seconds until the first training step by those of tracing a forward pass, and seconds that end a
# run besides forward passes: measured on networks of 27 to 190 layers.
TRACE = 6.0
EXPORT = 1.5
WIDER = 2  # features of the last three stages by those of the last one: each is half as wide
RACE_SHARE = 0.4  # of the time that is left, at most: the winner has to train as well


@dataclasses.dataclass(frozen=True)
class Look:
    """What was measured before training.

    Attributes:
        similarity: How near the images are to the backbone's source.
        fit: How well its features separate their classes.
        evidence: Both, condensed for the advisor.
        costs: What a forward pass takes.
        seconds: Seconds that looking took.
    """

    similarity: "Similarity"
    fit: "TaskFit"
    evidence: evidence.Evidence
    costs: costs.Costs
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the measurements as JSON types."""
        return {
            "similarity": dataclasses.asdict(self.similarity),
            "task_fit": dataclasses.asdict(self.fit),
            "costs": dataclasses.asdict(self.costs),
            "seconds": self.seconds,
        }


@dataclasses.dataclass(frozen=True)
class Advice:
    """What was measured and what follows from it.

    Attributes:
        look: The measurements.
        plan: What is advised; the winner, if there was a race.
        raced: How the race ended; None without one.
    """

    look: Look
    plan: advisor.Plan
    raced: "racing.Result | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Returns measurements, plan and race as JSON types."""
        return {
            **self.look.to_dict(),
            "plan": self.plan.to_dict(),
            "race": None if self.raced is None else dataclasses.asdict(self.raced),
        }


def look(loaded: "loading.Loaded[Any]", *, source_head: bool = False) -> Look:
    """Measures similarity, task fit and the time of a forward pass on the training images.

    Args:
        loaded: Its backbone is run in inference mode and left as it was.
        source_head: Whether the head of the source classes is asked too, for LEEP and NCE; it
            takes the network to be built once more.
    """
    began = time.perf_counter()
    images, backbone, seed = loaded.images, loaded.classifier.backbone, loaded.config.seed
    sample = _sample(images.train, MOST, seed=seed)
    observer = similarity.Observer(backbone)
    with console.progress("Looking", len(sample)) as bar:
        seen = observer.observe(sample, progress=bar.advance)
    some = np.sort(np.random.default_rng(seed).permutation(len(sample))[:MOST_COMPARED])
    near = similarity.measure(
        backbone, sample.take(some), seed=seed, observation=seen.take(some), observer=observer
    )
    fit = similarity.probe(
        seen.features,
        sample.labels,
        num_classes=images.num_classes,
        seed=seed,
        source_probabilities=_source_probabilities(backbone, seen) if source_head else None,
    )
    return Look(
        near,
        fit,
        dataclasses.replace(
            counted(loaded),
            similarity=near.value,
            shift=near.shift,
            fit=fit.fit,
            deep_fit=fit.above_chance(fit.last_three),
        ),
        _costs(loaded),
        time.perf_counter() - began,
    )


def consult(loaded: "loading.Loaded[C]", *, plan: str = "", source_head: bool = False) -> Advice:
    """Measures, asks the advisor and, if `config.race` asks for it, lets two plans compete.

    Args:
        loaded: Its config has the fields of `settings.Choices`.
        plan: Name of a candidate that was decided on before; "" chooses.
        source_head: See `look`.
    """
    config = loaded.config
    found = look(loaded, source_head=source_head)
    given = config.plan if config.plan != settings.AUTO else plan
    made = planned(loaded, found.evidence, found.costs, plan=given)
    raced = None
    if config.race and not given and made.runner_up is not None:
        second = planned(loaded, found.evidence, found.costs, plan=made.runner_up.name)
        raced = _race(loaded, found.costs, made, second)
        if raced is not None:
            made = planned(loaded, found.evidence, found.costs, plan=raced.winner)
    return Advice(found, made, raced)


def planned(
    loaded: "loading.Loaded[C]",
    known: evidence.Evidence,
    timed: costs.Costs | None = None,
    *,
    plan: str = "",
) -> advisor.Plan:
    """Returns what the advisor says to evidence, or the plan of a name.

    Args:
        loaded: Its config has the fields of `settings.Choices`.
        known: What was measured, or no more than `counted`.
        timed: What a forward pass takes; None leaves time unknown.
        plan: Name of a candidate; "" chooses.
    """
    return advisor.advise(known, _situation(loaded, timed), plan=plan)


def counted(loaded: "loading.Loaded[Any]") -> evidence.Evidence:
    """Returns what is known of images without looking at them: how many there are."""
    images, backbone = loaded.images, loaded.classifier.backbone
    return evidence.Evidence(
        images=len(images.train),
        per_class=evidence.small_class(images.train.counts(images.num_classes)),
        classes=images.num_classes,
        parameters=backbone.model.count_params(),
        pretrained=backbone.weights != "none",
    )


def candidate(config: "settings.Source", name: str) -> "tuple[str, TaskFit, float | None]":
    """Returns what ranks one of several networks: name, task fit, published accuracy.

    Args:
        config: Names the images; its backbone is that of a weights file.
        name: A backbone, or a weights file for `config.backbone`.
    """
    own = (
        dataclasses.replace(config, weights=name)
        if pathlib.Path(name).is_file()
        else dataclasses.replace(config, backbone=name, weights="", backbone_args="")
    )
    loaded = loading.load(own)
    backbone = loaded.classifier.backbone
    published = backbones.published.top1(backbone.name, arguments=backbone.arguments)
    return name, look(loaded, source_head=True).fit, published


def show(advice: Advice) -> None:
    """Prints what was measured, and the plan as a table."""
    near, fit = advice.look.similarity, advice.look.fit
    distances = similarity.per_stage(near)
    console.table(
        f"What the backbone knows of {fit.images} images",
        ["features of", "distance", "k-NN", "probe", "LogME", "H-score"],
        [
            [
                stage.stage,
                _shown(distances.get(stage.stage)),
                _percent(stage.knn),
                _percent(stage.probe.value if stage.probe else None),
                _shown(stage.logme),
                _shown(stage.h_score),
            ]
            for stage in (*fit.stages, fit.last_three, fit.concatenated)
        ],
    )
    for sentence in (*near.notes, *_scores(fit)):
        console.say(f"· {sentence}")
    console.table("The plan", ["decision", "value", "why"], advice.plan.rows())
    if advice.raced is not None:
        console.say(f"· {advice.raced.reason}")


def follow(job: "jobs.Job[D]", advice: Advice) -> "jobs.Job[D]":
    """Returns the job with the head, the settings and the advice of a plan.

    Leaves `advice.json` in the work directory, from which a run that goes on takes its plan.
    """
    candidate, backbone = advice.plan.candidate, job.classifier.backbone
    stages = _head_stages(job.config, backbone, candidate)
    classifier = classifier_for(job, candidate)
    config = dataclasses.replace(job.config, plan=candidate.name, head_stages=stages)
    job.seconds["advice"] = advice.look.seconds + (advice.raced.seconds if advice.raced else 0.0)
    results.write_advice(advice.to_dict(), job.workdir)
    if config.tensorboard:
        results.write_advice_board(job.workdir / results.TENSORBOARD, advice.to_dict())
    raced = (advice.raced.reason,) if advice.raced else ()
    return dataclasses.replace(
        job,
        config=config,
        classifier=classifier,
        # The plan's table has the reasons.
        notes=tuple(n for n in job.notes if n not in job.why.values())
        + (*advice.look.similarity.notes, *raced),
        advice=advice.to_dict(),
    )


def classifier_for(loaded: "loading.Loaded[Any]", candidate: candidates.Candidate) -> "Classifier":
    """Returns the classifier that a plan trains: its head, on the backbone or on random weights."""
    config, backbone = loaded.config, loaded.classifier.backbone
    if candidate.start == "random":
        backbone = loading.load_backbone(config, weights="none")
    stages = _head_stages(config, backbone, candidate)
    return loading.attach(config, backbone, loaded.images.num_classes, stages)


def _head_stages(config: Any, backbone: "Backbone", candidate: candidates.Candidate) -> int:
    """Returns how many stages the head sees: as a flag says, or as the plan has it."""
    if config.head_stages != loading.AS_ADVISED:
        return int(config.head_stages)
    return min(candidate.head_stages, len(backbone.stages))


def decided(job: "jobs.Job[D]") -> str:
    """Returns the plan of the interrupted run that a job goes on with, "" without one."""
    return results.read_advice(job.workdir).get("plan", {}).get("plan", "")


def _situation(loaded: "loading.Loaded[C]", timed: costs.Costs | None) -> advisor.Setting:
    config = loaded.config
    return advisor.Setting(
        groups=loaded.groups,
        tuning=config.tuning(),
        batch_size=config.batch_size,
        batch_norm_layers=backbones.has_batch_norm(loaded.classifier.backbone),
        rate_given="rates" not in loaded.why,
        costs=timed,
        budget=settings.seconds(config.time_budget),
        why={
            "regulariser": f"weight decay {config.weight_decay:g}",
            "resolution": _resolution(loaded),
            "augmentation": "flips and small shifts, which most photos allow",
            **loaded.why,
        },
    )


def _race(
    loaded: "loading.Loaded[C]", timed: costs.Costs, plan: advisor.Plan, second: advisor.Plan
) -> "racing.Result | None":
    """Returns how plan and runner-up compare; None where time or images do not allow it."""
    config, images = loaded.config, loaded.images
    folds = data.cross_validation(images.train, seed=config.seed)
    if not folds:
        console.warn("--race needs two images of every class; the plan is taken as it is")
        return None
    budget = settings.seconds(config.time_budget)
    if budget:
        share = RACE_SHARE * (budget - timed.spent - timed.others)
        once = sum(timed.train(p.phases, len(folds[0].train)) for p in (plan, second))
        folds = folds[: max(0, int(share // max(once, 1e-9)))]
        if not folds:
            console.warn(f"--race does not fit into {RACE_SHARE:.0%} of the time; not run")
            return None
    contenders = [
        training.Contender(each.candidate.name, classifier_for(loaded, each.candidate), each.phases)
        for each in (plan, second)
    ]
    return training.race(
        contenders,
        images.train,
        folds,
        jobs.training_options(config),
        num_classes=images.num_classes,
    )


def _resolution(loaded: "loading.Loaded[C]") -> str:
    side, original = loaded.images.image_size, loaded.images.audit.median_side
    if original <= side:
        return f"{side} px; the originals have {original} px: more pixels would be invented"
    return (
        f"{side} px; the originals have {original} px: --image_size={2 * side} may gain accuracy "
        "at four times the work"
    )


def _scores(fit: "TaskFit") -> list[str]:
    """Returns what the source's own head says, a sentence."""
    if fit.leep is None or fit.nce is None:
        return []
    return [f"by the source's own classes: LEEP {fit.leep:.2f}, NCE {fit.nce:.2f} nats (0 is best)"]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _sample(split: "Split", most: int, *, seed: int) -> "Split":
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


def _costs(loaded: "loading.Loaded[Any]") -> costs.Costs:
    """Returns what a forward pass takes, and what follows from it for the rest of a run."""
    images, classifier = loaded.images, loaded.classifier
    forward, trace = _timed(classifier.features, images.train)
    tested = len(images.test) if images.test is not None else 0
    n, width = len(images.train), classifier.features.output_shape[-1]
    return costs.Costs(
        forward=forward,
        trace=TRACE * trace,
        # Features for the head, and the test split; each has a graph of its own.
        others=2 * trace
        + forward * (n + tested)
        + features.expected_seconds(n, WIDER * width, images.num_classes)
        + EXPORT,
        spent=time.perf_counter() - loaded.started,
        shares=_shares(classifier.backbone),
    )


def _timed(model: "keras.Model", split: "Split") -> tuple[float, float]:
    """Returns seconds of a forward pass an image, and seconds until it is traced.

    The difference of two numbers of images has no part of what a call costs whatever its size; the
    shortest of several calls has the least of what else the machine does.
    """
    chosen = split.indices[np.arange(4 * TIMED) % len(split)]
    pixels = split.store.batch(chosen).astype(np.float32)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        model.predict(pixels[:count], batch_size=TIMED, verbose=0)
        return time.perf_counter() - began

    first = seconds(TIMED)
    once, more = (min(seconds(count) for _ in range(REPEATS)) for count in (TIMED, 4 * TIMED))
    return max(more - once, 1e-6) / (3 * TIMED), max(first - once, 0.0)


def _shares(backbone: "Backbone") -> tuple[float, ...]:
    """Returns the share of every stage in the operations of a forward pass."""
    from finetune_kit.backbones import flops

    model = backbone.model
    work = [
        sum(flops.flops(model.get_layer(name)) for name in stage.layers)
        for stage in backbone.stages
    ]
    return tuple(part / max(1, sum(work)) for part in work)
