"""Mistakes, classes and pairs against counting by hand."""

import types

import numpy as np
import pytest
import sklearn.metrics

from finetune_kit import checks, results

NAMES = ("a", "b", "c", "never")


def predictions(**changes):
    values = {
        "split": "test",
        "labels": np.array([0, 0, 1, 1, 2]),
        "probabilities": np.array(
            [
                [0.9, 0.1, 0.0, 0.0],
                [0.1, 0.8, 0.1, 0.0],
                [0.1, 0.9, 0.0, 0.0],
                [0.95, 0.05, 0.0, 0.0],
                [0.0, 0.6, 0.4, 0.0],
            ]
        ),
        "class_names": NAMES,
        "names": ("0.png", "1.png", "2.png", "3.png", "4.png"),
    }
    return results.Predictions(**(values | changes))


def test_mistakes_come_most_confident_first() -> None:
    mistakes = predictions().mistakes(2)
    assert [mistake.name for mistake in mistakes] == ["3.png", "1.png"]
    assert mistakes[0].position == 3
    assert (mistakes[0].true, mistakes[0].predicted) == ("b", "a")
    assert (mistakes[0].probability, mistakes[0].true_probability) == (0.95, 0.05)
    assert len(predictions().mistakes(10)) == 3


def test_by_class_is_precision_and_recall() -> None:
    found = predictions()
    by_class = found.by_class()
    precision, recall, _, support = sklearn.metrics.precision_recall_fscore_support(
        found.labels, found.predicted, labels=[0, 1, 2], zero_division=0
    )
    assert [result.n for result in by_class] == [*support, 0]
    assert [result.recall.value for result in by_class[:3]] == pytest.approx(recall)
    assert [result.precision.value for result in by_class[:2]] == pytest.approx(precision[:2])
    assert by_class[2].precision is None
    assert by_class[3].recall is by_class[3].precision is None


def test_confused_pairs_are_counted() -> None:
    assert set(predictions().confused_pairs(9)) == {("a", "b", 1), ("b", "a", 1), ("c", "b", 1)}
    repeated = predictions(labels=np.array([0, 2, 1, 1, 2])).confused_pairs(1)
    assert repeated == (("c", "b", 2),)


def test_of_takes_names_and_pictures_from_the_split() -> None:
    store = types.SimpleNamespace(picture=lambda index: np.full((2, 2, 3), index, np.uint8))
    split = types.SimpleNamespace(
        labels=np.array([1, 0]), names=("x", "y"), indices=np.array([7, 9]), store=store
    )
    found = results.Predictions.of(split, np.eye(2), ("p", "q"), name="validation")
    assert found.split == "validation" and found.names == ("x", "y")
    assert found.picture(1)[0, 0, 0] == 9


def test_sizes_must_agree() -> None:
    with pytest.raises(checks.ConfigError, match="a label, a name and C probabilities.*names=1"):
        predictions(names=("only",))
    with pytest.raises(checks.ConfigError, match="class_names=2"):
        predictions(class_names=("a", "b"))
