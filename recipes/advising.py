"""Asks the advisor about images: what `advise` and `auto` share."""

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_kit import backbones, console, data, results, similarity, training
from finetune_kit.strategy import advisor, candidates, costs, evidence, mirroring
from recipes import jobs, loading, looking, settings

if TYPE_CHECKING:
    from finetune_kit.backbones.classifier import Classifier
    from finetune_kit.backbones.types import Backbone
    from finetune_kit.similarity.types import TaskFit
    from finetune_kit.training import racing

C = TypeVar("C", bound=Any)
D = TypeVar("D", bound=Any)

RACE_SHARE = 0.4  # of the time that is left, at most: the winner has to train as well


@dataclasses.dataclass(frozen=True)
class Advice:
    """What was measured and what follows from it.

    Attributes:
        image_size: Side in pixels at which the images were looked at, or (height, width).
        augment: How strongly the images are augmented, a key of `data.LEVELS`.
        look: The measurements.
        plan: What is advised; the winner, if there was a race.
        raced: How the race ended; None without one.
    """

    image_size: data.sizes.Size
    augment: str
    look: looking.Look
    plan: advisor.Plan
    raced: "racing.Result | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Returns measurements, plan and race as JSON types."""
        return {
            "image_size": self.image_size,
            "augment": self.augment,
            **self.look.to_dict(),
            "plan": self.plan.to_dict(),
            "race": None if self.raced is None else dataclasses.asdict(self.raced),
        }


def consult(loaded: "loading.Loaded[C]", *, plan: str = "", source_head: bool = False) -> Advice:
    """Measures, asks the advisor and, if `config.race` asks for it, lets two plans compete.

    Args:
        loaded: Its config has the fields of `settings.Choices`.
        plan: Name of a candidate that was decided on before; "" chooses.
        source_head: See `looking.look`.
    """
    unsaid = loaded.config.augment == settings.AUTO
    found = looking.look(loaded, source_head=source_head, mirror=unsaid)
    loaded = _augmented(loaded, found)
    config = loaded.config
    known, timed, raced = found.evidence, found.costs, None
    if config.plan != settings.AUTO:
        made = planned(loaded, known, timed, plan=config.plan)
    else:
        made = planned(loaded, known, timed, plan=plan, because="as decided before")
    if config.race and not plan and config.plan == settings.AUTO and made.runner_up is not None:
        second = planned(loaded, known, timed, plan=made.runner_up.name)
        raced = _race(loaded, timed, made, second)
        if raced is not None:
            # What the race took is not left for training.
            left = dataclasses.replace(timed, spent=timed.spent + raced.seconds)
            made = planned(loaded, known, left, plan=raced.winner, because="it won the race")
    return Advice(loaded.images.image_size, config.augment, found, made, raced)


def planned(
    loaded: "loading.Loaded[C]",
    known: evidence.Evidence,
    timed: costs.Costs | None = None,
    *,
    plan: str = "",
    because: str = "as you said",
) -> advisor.Plan:
    """Returns what the advisor says to evidence, or the plan of a name.

    Args:
        loaded: Its config has the fields of `settings.Choices`.
        known: What was measured, or no more than `looking.counted`.
        timed: What a forward pass takes; None leaves time unknown.
        plan: Name of a candidate; "" chooses.
        because: Why that candidate.
    """
    return advisor.advise(known, _situation(loaded, timed), plan=plan, because=because)


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
    batch_norm, statistics = advice.plan.phases[-1].batch_norm, job.config.batch_norm_statistics
    if statistics == settings.AUTO and batch_norm == "frozen":
        statistics = "source"
    config = dataclasses.replace(
        job.config, plan=candidate.name, head_stages=stages, augment=advice.augment,
        batch_norm=batch_norm, batch_norm_statistics=statistics,
    )  # fmt: skip
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


def _augmented(loaded: "loading.Loaded[C]", found: looking.Look) -> "loading.Loaded[C]":
    """Returns images and network with the augmentation that is advised, where no flag says one."""
    if loaded.config.augment != settings.AUTO:
        return loaded
    chosen = mirroring.choose(found.mirrored)
    return dataclasses.replace(
        loaded,
        config=dataclasses.replace(loaded.config, augment=chosen.level),
        why={**loaded.why, "augmentation": chosen.reason},
    )


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
            "augmentation": "as decided before"
            if getattr(config, "resume", False)
            else "as you said",
            **({} if config.batch_norm == settings.AUTO else {"BatchNorm": "as you said"}),
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
    used, original = loaded.images.image_size, loaded.images.audit.median_side
    height, width = data.sizes.sides(used)
    has = f"{data.sizes.shown(used)} px; the originals have {original} px"
    if original <= min(height, width):
        return f"{has}: more pixels would be invented"
    larger = data.sizes.shown((2 * height, 2 * width))
    return f"{has}: --image_size={larger} may gain accuracy at four times the work"


def _scores(fit: "TaskFit") -> list[str]:
    """Returns what the source's own head says, a sentence."""
    if fit.leep is None or fit.nce is None:
        return []
    return [f"by the source's own classes: LEEP {fit.leep:.2f}, NCE {fit.nce:.2f} nats (0 is best)"]


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
