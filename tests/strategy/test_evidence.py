"""What the figures before training amount to."""

import json

import numpy as np
import pytest

from finetune_kit import checks, metrics
from finetune_kit.strategy.evidence import Evidence, small_class


def evidence(**values):
    return Evidence(**{"images": 200, "per_class": 20, "classes": 10} | values)


def near(value):
    return metrics.Estimate(value, value - 0.01, value + 0.01)


@pytest.mark.parametrize(
    ("per_class", "images", "amount"),
    [
        (5, 50, "few"),
        (9.9, 5_000, "few"),
        (20, 99, "few"),
        (20, 200, "little"),
        (100, 999, "little"),
        (100, 1_000, "medium"),
        (400, 19_999, "medium"),
        (499, 50_000, "medium"),
        (500, 50_000, "plenty"),
    ],
)
def test_amount_needs_enough_in_each_class_and_in_all(per_class, images, amount) -> None:
    assert evidence(per_class=per_class, images=images).amount == amount


@pytest.mark.parametrize(
    ("similarity", "fit", "nearness"),
    [
        (None, None, "unknown"),
        (None, 0.3, "middle"),
        (0.9, None, "similar"),
        (0.9, 0.1, "similar"),
        (0.1, 0.7, "similar"),  # the features separate the classes, whatever the images look like
        (0.7, 0.3, "middle"),
        (0.5, 0.3, "dissimilar"),
    ],
)
def test_nearness_asks_how_images_look_and_what_the_features_tell_apart(
    similarity, fit, nearness
) -> None:
    found = evidence(similarity=None if similarity is None else near(similarity), fit=fit)
    assert found.nearness == nearness


def test_the_four_cases_of_the_source_text_have_their_own_words() -> None:
    little, much = {"images": 200}, {"images": 5_000, "per_class": 500}
    cases = [
        evidence(**amount, similarity=near(value)).case
        for amount in (little, much)
        for value in (0.9, 0.3)
    ]
    assert [name for name, _ in cases] == [
        "little data, similar", "little data, dissimilar", "much data, similar",
        "much data, dissimilar",
    ]  # fmt: skip
    assert len({advice for _, advice in cases}) == 4
    assert cases[0][1] == "tune the last layers"
    assert "nearest source images" in cases[1][1]
    assert evidence(similarity=near(0.7)).case == ("little data, middle", "")
    assert evidence().case == ("little data, unknown", "")


def test_the_small_classes_stand_for_the_set() -> None:
    assert small_class(np.array([10, 1_000, 1_000, 1_000, 1_000, 0])) == pytest.approx(
        np.percentile([10, 1_000, 1_000, 1_000, 1_000], 20)
    )
    with pytest.raises(checks.ConfigError, match="needs images"):
        small_class(np.zeros(3, int))


def test_it_is_written_as_json() -> None:
    written = json.loads(json.dumps(evidence(similarity=near(0.8)).to_dict()))
    assert written["similarity"]["value"] == 0.8
    assert written["amount"] == "little"
    assert written["nearness"] == "similar"


@pytest.mark.parametrize("values", [{"images": 0}, {"classes": 1}])
def test_impossible_counts_are_refused(values) -> None:
    with pytest.raises(checks.ConfigError, match="must lie in"):
        evidence(**values)
