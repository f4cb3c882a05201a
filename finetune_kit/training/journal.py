"""Where a run stands, on the disk: written now and then after an epoch, and read to go on."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_kit import checks
from finetune_kit.training import checkpoints, ledger, scoring

EVERY = 15.0  # seconds between two checkpoints: what a kill may cost, and rare beside an epoch
CHEAP = 0.3  # seconds of writing one, 2 % of that; those of large networks are written more rarely
SCORE = ("labels", "probabilities", "losses")


@dataclasses.dataclass(frozen=True)
class Standing:
    """Everything that a run needs to go on after an epoch as if it had not been interrupted.

    Attributes:
        scales: What the guard has made of each phase's rate, a factor a phase.
        restarts: What the guard did, one sentence each.
        books: The courses so far: those that are finished, then the one under way.
        variables: Values of the classifier's variables, the seeds of its dropout included.
        optimizer: Values of the optimizer's variables by key; empty before the first step.
    """

    scales: tuple[float, ...]
    restarts: tuple[str, ...]
    books: tuple[ledger.Ledger, ...]
    variables: Sequence[np.ndarray]
    optimizer: Mapping[str, np.ndarray]


class Journal:
    """The checkpoints of one run; does nothing without a store."""

    def __init__(
        self, store: checkpoints.CheckpointStore | None, identity: Mapping[str, Any]
    ) -> None:
        """Writes nothing yet.

        Args:
            store: Where checkpoints are kept, or None.
            identity: What must be equal for a run to go on: settings and data, JSON types.
        """
        self._store = store
        self._identity = json.loads(json.dumps(dict(identity)))  # as it comes back from the disk
        self._written, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for another one."""
        age = time.monotonic() - self._written
        return self._store is not None and age >= EVERY * max(1.0, self._took / CHEAP)

    def write(self, standing: Standing) -> None:
        """Writes where the run stands.

        Raises:
            EnvironmentFault: The disk is full or not writable.
        """
        if self._store is not None:
            began = time.monotonic()
            self._store.save(*_encode(standing, self._identity))
            self._written = time.monotonic()
            self._took = self._written - began

    def read(self) -> Standing | None:
        """Returns where the run stands, None if there is no checkpoint.

        Raises:
            ConfigError: The checkpoint is of a run with other settings or other data.
        """
        found = None if self._store is None else self._store.latest()
        if found is None:
            return None
        theirs = found.state["identity"]
        names = sorted({*theirs, *self._identity})
        other = [n for n in names if theirs.get(n) != self._identity.get(n)]
        if other:
            came = ", ".join(
                f"{n}={self._identity.get(n)!r} instead of {theirs.get(n)!r}" for n in other[:3]
            )
            raise checks.ConfigError(
                f"--resume needs the settings and the data of the interrupted run. Received: {came}"
            )
        return _decode(found)


def _encode(
    standing: Standing, identity: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    arrays = {f"optimizer/{key}": value for key, value in standing.optimizer.items()}
    arrays |= {f"variables/{i}": value for i, value in enumerate(standing.variables)}
    books = []
    for number, book in enumerate(standing.books):
        for i, score in enumerate(book.scores):
            arrays |= _score_arrays(score, f"books/{number}/scores/{i}")
        if book.best is not None and book.best.score is not None:
            arrays |= _score_arrays(book.best.score, f"books/{number}/best")
            arrays |= {f"books/{number}/best/{i}": v for i, v in enumerate(book.best.weights)}
        if book.last is not None and book.last.score is not None:
            arrays |= _score_arrays(book.last.score, f"books/{number}/last")
        if book is standing.books[-1]:  # those before it have ended
            arrays |= {f"probe/{i}": value for i, value in enumerate(book.probe or [])}
        books.append({"rows": book.rows, "best": book.best.point if book.best else None})
    state = {
        "identity": dict(identity),
        "scales": list(standing.scales),
        "restarts": list(standing.restarts),
        "books": books,
    }
    return state, arrays


def _decode(found: checkpoints.Generation) -> Standing:
    state, arrays = found.state, found.arrays
    variables = _numbered(arrays, "variables")
    books = []
    for number, entry in enumerate(state["books"]):
        scores: list[scoring.Score] = []
        while f"books/{number}/scores/{len(scores)}/losses" in arrays:
            scores.append(_score(arrays, f"books/{number}/scores/{len(scores)}"))
        book = ledger.Ledger(keep_scores=bool(scores), rows=list(entry["rows"]), scores=scores)
        best, last = f"books/{number}/best", f"books/{number}/last"
        if entry["best"] is not None:
            book.best = ledger.Kept(entry["best"], _numbered(arrays, best), _score(arrays, best))
        score = _score(arrays, last) if f"{last}/losses" in arrays else None
        # Its weights are among the variables; the course puts them back.
        book.last = ledger.Kept(len(book.rows) - 1, [], score)
        books.append(book)
    if books:
        books[-1].probe = _numbered(arrays, "probe") or None
    prefix = "optimizer/"
    return Standing(
        scales=tuple(state["scales"]),
        restarts=tuple(state["restarts"]),
        books=tuple(books),
        variables=variables,
        optimizer={
            name.removeprefix(prefix): value
            for name, value in arrays.items()
            if name.startswith(prefix)
        },
    )


def _score_arrays(score: scoring.Score, where: str) -> dict[str, np.ndarray]:
    return {f"{where}/{name}": getattr(score, name) for name in SCORE}


def _score(arrays: Mapping[str, np.ndarray], where: str) -> scoring.Score:
    return scoring.Score(*(arrays[f"{where}/{name}"] for name in SCORE))


def _numbered(arrays: Mapping[str, np.ndarray], where: str) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    while f"{where}/{len(found)}" in arrays:
        found.append(arrays[f"{where}/{len(found)}"])
    return found
