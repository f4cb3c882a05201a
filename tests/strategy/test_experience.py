"""What measured accuracies teach, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from finetune_kit import checks, metrics
from finetune_kit.strategy import experience
from finetune_kit.strategy.evidence import Evidence


def cell(group, *, per_class=20, fit=0.5, deep=0.0, similarity=0.7, classes=None, **accuracies):
    near = None if similarity is None else metrics.Estimate(similarity, similarity, similarity)
    found = Evidence(
        images=10 * per_class, per_class=per_class, classes=10, similarity=near, fit=fit,
        deep_fit=fit + deep, source_classes=classes,
    )  # fmt: skip
    return experience.Cell(group, found, {"deep_head": 0.5, **accuracies})


def random_cells(count=12):
    generator = np.random.default_rng(0)
    return [
        cell(
            f"set{i % 4}",
            per_class=int(generator.choice([5, 20, 100])),
            fit=float(generator.uniform(0.2, 0.9)),
            deep=float(generator.uniform(-0.05, 0.1)),
            similarity=float(generator.uniform(0.3, 0.9)),
            classes=int(generator.choice([10, 1000])),
            finetune=float(generator.uniform(0.4, 0.9)),
        )
        for i in range(count)
    ]


def test_gains_are_those_of_a_ridge_regression_on_standardised_features() -> None:
    cells = random_cells()
    rows = np.array([
        [np.log2(c.evidence.per_class / 20), 1 - c.evidence.deep_fit,
         1 - c.evidence.similarity.value, c.evidence.deep_fit - c.evidence.fit,
         np.log10(c.evidence.source_classes)]
        for c in cells
    ])  # fmt: skip
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    gains = [c.accuracies["finetune"] - 0.5 for c in cells]
    # A column that is s times as long is drawn to 0 by s squared less.
    standard[:, 4] *= np.sqrt(experience.RIDGE / experience.RIDGE_OF_NETWORK)
    reference = Ridge(alpha=experience.RIDGE).fit(standard, gains)
    learned = experience.learn(cells)
    expected = [learned.gains(c.evidence)["finetune"] for c in cells]
    np.testing.assert_allclose(expected, reference.predict(standard), atol=1e-9)


def test_what_one_kind_of_network_gains_is_not_promised_to_another() -> None:
    gains = {10: 0.2, 1000: 0.0}
    cells = [cell(f"set{i}", classes=classes, finetune=0.5 + gains[classes])
             for i, classes in enumerate([10, 1000, 1000, 1000] * 4)]  # fmt: skip
    learned = experience.learn(cells)
    for classes, gain in gains.items():
        expected = learned.gains(cell("x", classes=classes).evidence)["finetune"]
        assert expected == pytest.approx(gain, abs=0.01)


def test_the_reference_gains_nothing_over_itself() -> None:
    learned = experience.learn(random_cells())
    assert learned.gains(random_cells()[0].evidence)["deep_head"] == pytest.approx(0.0)


def test_residuals_come_from_experience_that_has_not_seen_the_set() -> None:
    cells = random_cells()
    learned = experience.learn(cells)
    group = cells[0].group
    others = experience._learn([c for c in cells if c.group != group], ())
    expected = 0.0
    mine = [c for c in sorted(cells, key=lambda c: c.group) if c.group == group]
    offset = sum(c.group < group for c in cells)
    for i, own in enumerate(mine):
        expected = (own.accuracies["finetune"] - 0.5) - others.gains(own.evidence)["finetune"]
        assert learned.residuals[offset + i]["finetune"] == pytest.approx(expected)
    assert len(learned.residuals) == len(cells)


def test_evidence_beyond_what_was_measured_counts_as_its_end() -> None:
    learned = experience.learn(random_cells())
    most = learned.gains(cell("x", per_class=100).evidence)
    assert learned.gains(cell("x", per_class=100_000).evidence) == most


def test_what_is_not_known_counts_as_average() -> None:
    learned = experience.learn(random_cells())
    known = cell("x", similarity=1 - learned.centre[2]).evidence
    unknown = cell("x", similarity=None).evidence
    assert learned.gains(unknown)["finetune"] == pytest.approx(learned.gains(known)["finetune"])


def test_confidence_is_the_share_of_left_out_cells_in_which_the_plan_holds() -> None:
    learned = experience.Experience(
        centre=(0,) * 5, scale=(1,) * 5, low=(0,) * 5, high=(0,) * 5, weights={},
        residuals=({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.05}, {"a": 0.0, "b": 0.029}), cells=3,
    )  # fmt: skip
    # a is 2 points ahead: the second residual puts b 3 points ahead, the third 0.9 points.
    confidence = learned.confidence({"a": 0.02, "b": 0.0}, "a")
    assert confidence == pytest.approx((2 + 1) / (3 + 2))


def test_it_survives_a_file(tmp_path) -> None:
    learned = experience.learn(random_cells())
    experience.write(learned, tmp_path / "e.json")
    again = experience.read(tmp_path / "e.json")
    assert again.cells == learned.cells
    evidence = cell("x").evidence
    for name, gain in learned.gains(evidence).items():
        assert again.gains(evidence)[name] == pytest.approx(gain, abs=1e-3)
    assert again.confidence(again.gains(evidence), "finetune") > 0


def test_the_kit_comes_with_experience_of_every_candidate() -> None:
    from finetune_kit.strategy.candidates import CANDIDATES

    known = experience.read()
    assert set(known.weights) == set(CANDIDATES)
    assert known.cells >= 14


@pytest.mark.parametrize(
    "cells",
    [[], [cell("one"), cell("one")], [cell("one"), experience.Cell("two", cell("x").evidence, {})]],
)
def test_too_little_to_learn_from_is_refused(cells) -> None:
    with pytest.raises(checks.DataError, match="two sets or more"):
        experience.learn(cells)
