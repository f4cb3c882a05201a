"""What plans have gained before: measured accuracies, condensed to a few numbers a candidate.

The study trains every candidate on sets of images that differ in kind and in number. For each
candidate a ridge regression (Hoerl & Kennard, 1970) predicts its gain over the reference from the
evidence. The prediction is the advisor's prior; what it missed on sets that it had not seen says
how far to trust it.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_kit import checks
from finetune_kit.strategy import evidence as evidence_lib

FILE = pathlib.Path(__file__).parent / "experience.json"
REFERENCE = "deep_head"  # gains are over it: the cheapest plan, which every cell has
FEATURES = ("labels", "misfit", "distance", "depth", "breadth")
LABELS_AT = 20.0  # images a class at which the feature `labels` is 0
# Weight of the prior that a feature does not matter, in draws. With three seeds and two numbers of
# labels a set, a slope needs the support of several sets.
RIDGE = 30.0
# Of `breadth`, which is one number for a network: it tells kinds of networks apart as an intercept
# of their own would. Drawn to 0 as the others are, what one kind gains by a plan would be promised
# to the other.
RIDGE_OF_NETWORK = 1.0
CLOSE = 0.01  # accuracy within which a plan counts as good as the best


@dataclasses.dataclass(frozen=True)
class Cell:
    """One set of images at one number of labels, averaged over seeds.

    Attributes:
        group: Name of the set; cells of one group are left out together.
        evidence: What was measured before training.
        accuracies: Candidate to accuracy in [0, 1].
    """

    group: str
    evidence: evidence_lib.Evidence
    accuracies: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Experience:
    """What was learnt from cells.

    Attributes:
        centre, scale: Of the features, each float [5], in the order of `FEATURES`.
        low, high: The range that was measured; evidence beyond it counts as its end.
        weights: Candidate to intercept and slopes, float [6], in accuracy.
        residuals: One mapping a left-out cell: candidate to measured minus predicted gain.
        cells: Number of cells.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    residuals: tuple[Mapping[str, float], ...]
    cells: int

    def gains(self, evidence: evidence_lib.Evidence) -> dict[str, float]:
        """Returns candidate to expected gain over `REFERENCE`, in accuracy."""
        row = np.clip(_features(evidence, self.centre), self.low, self.high)
        scaled = (row - self.centre) / self.scale
        return {
            name: float(weights[0] + scaled @ np.asarray(weights[1:]))
            for name, weights in self.weights.items()
        }

    def covers(self, evidence: evidence_lib.Evidence) -> bool:
        """Returns whether images are no nearer to the source than all that was learnt from.

        Nearer is what lies nearer with its whole interval. Farther images are what the slopes point
        to, and count as the farthest; towards the source gains end, and nothing says where.
        """
        nearest = 1 - self.low[FEATURES.index("distance")]
        return evidence.similarity is None or evidence.similarity.low <= nearest

    def confidence(self, gains: Mapping[str, float], chosen: str) -> float:
        """Returns the probability that `chosen` ends within a point of the best candidate.

        What was missed on left-out sets is added to the expected gains, cell by cell: the share of
        the cells in which `chosen` then stands within `CLOSE` of the best. No distribution is
        assumed, and errors that candidates share stay shared.
        """
        hits = [
            self._moved(gains, missed, chosen) >= max(
                self._moved(gains, missed, name) for name in gains
            ) - CLOSE
            for missed in self.residuals
        ]  # fmt: skip
        # Laplace's rule of succession: a few dozen cells never make a certainty.
        return (sum(hits) + 1) / (len(hits) + 2)

    def _moved(self, gains: Mapping[str, float], missed: Mapping[str, float], name: str) -> float:
        return gains[name] + missed.get(name, 0.0)


def learn(cells: Sequence[Cell]) -> Experience:
    """Returns the experience that cells make, with residuals by leaving out one group at a time.

    Raises:
        DataError: There are fewer than two groups, or a cell lacks the reference.
    """
    groups = sorted({cell.group for cell in cells})
    lacking = [cell.group for cell in cells if REFERENCE not in cell.accuracies]
    if len(groups) < 2 or lacking:
        raise checks.DataError(
            f"Experience needs two sets or more, each with {REFERENCE!r}. "
            + checks.received(sets=groups, without=lacking)
        )
    residuals = []
    for group in groups:
        others = _learn([cell for cell in cells if cell.group != group], ())
        for cell in cells:
            if cell.group == group:
                expected = others.gains(cell.evidence)
                residuals.append(
                    {name: gain - expected[name] for name, gain in _gains(cell).items()
                     if name in expected}
                )  # fmt: skip
    return _learn(cells, tuple(residuals))


def without(cells: Sequence[Cell], group: str) -> Experience:
    """Returns what all cells but those of one group teach."""
    return learn([cell for cell in cells if cell.group != group])


def write(experience: Experience, path: pathlib.Path = FILE) -> None:
    """Writes an experience as JSON, numbers rounded to four decimals."""
    values = json.loads(json.dumps(dataclasses.asdict(experience)), parse_float=_rounded)
    path.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@functools.cache
def read(path: pathlib.Path = FILE) -> Experience:
    """Returns the experience in a file; the file of the kit comes from its study."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    tuples = {name: tuple(values[name]) for name in ("centre", "scale", "low", "high", "residuals")}
    weights = {name: tuple(numbers) for name, numbers in values["weights"].items()}
    return Experience(**tuples, weights=weights, cells=values["cells"])


def _learn(cells: Sequence[Cell], residuals: tuple[Mapping[str, float], ...]) -> Experience:
    raw = np.array([_features(cell.evidence, None) for cell in cells])
    known = ~np.isnan(raw)
    centre = np.where(known, raw, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    rows = np.where(known, raw, centre)
    scale = rows.std(axis=0)
    scale[scale < 1e-9] = 1.0
    scaled = (rows - centre) / scale
    names = dict.fromkeys(name for cell in cells for name in cell.accuracies)
    weights = {}
    for name in names:
        those = [i for i, cell in enumerate(cells) if name in cell.accuracies]
        gains = np.array([_gains(cells[i])[name] for i in those])
        weights[name] = tuple(map(float, _ridge(scaled[those], gains)))
    return Experience(
        tuple(map(float, centre)),
        tuple(map(float, scale)),
        tuple(map(float, rows.min(axis=0))),
        tuple(map(float, rows.max(axis=0))),
        weights,
        residuals,
        len(cells),
    )


def _ridge(rows: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Returns the intercept, which is free, and the slopes, which are drawn to 0."""
    design = np.column_stack([np.ones(len(rows)), rows])
    ridges = [RIDGE_OF_NETWORK if name == "breadth" else RIDGE for name in FEATURES]
    penalty = np.diag([0.0, *ridges])
    return np.asarray(np.linalg.solve(design.T @ design + penalty, design.T @ gains))


def _gains(cell: Cell) -> dict[str, float]:
    base = cell.accuracies[REFERENCE]
    return {name: accuracy - base for name, accuracy in cell.accuracies.items()}


def _features(evidence: evidence_lib.Evidence, unknown: Sequence[float] | None) -> np.ndarray:
    """Returns `FEATURES`, float [5]; what is not known is `unknown`, or NaN.

    labels: doublings of the labels a class beyond `LABELS_AT`. misfit: 1 - task fit. distance: 1 -
    similarity. depth: what the fit gains where the probe sees several stages. breadth: tenfolds of
    the classes that the source told apart; features that had to tell few know less, and there is
    more to gain by training them.
    """
    fit, deep = evidence.fit, evidence.deep_fit
    best = deep if deep is not None else fit
    similarity = None if evidence.similarity is None else evidence.similarity.value
    row = np.array([
        math.log2(max(evidence.per_class, 1.0) / LABELS_AT),
        math.nan if best is None else 1 - best,
        math.nan if similarity is None else 1 - similarity,
        math.nan if fit is None or deep is None else deep - fit,
        math.log10(evidence.source_classes) if evidence.source_classes else math.nan,
    ])  # fmt: skip
    return row if unknown is None else np.where(np.isnan(row), unknown, row)


def _rounded(text: str) -> float:
    return round(float(text), 4)
