"""The solved head against the optimality condition, scikit-learn and the Dense layer."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from finetune_kit import checks, cores, features
from finetune_kit.features import heads


def _clouds(
    n: int = 120, d: int = 12, classes: int = 4, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features [n, d] on unequal scales and labels [n] of overlapping classes."""
    rng = np.random.default_rng(3)
    labels = np.arange(n) % classes
    centres = rng.normal(size=(classes, d)) * spread
    rows = rng.normal(size=(n, d)) + centres[labels]
    return (rows * rng.uniform(0.01, 50.0, d) + 5.0).astype(np.float32), labels


def test_gradient_vanishes_at_the_solution() -> None:
    rows, labels = _clouds()
    solution = features.solve_head(rows, labels, num_classes=4)
    mean, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    standard = (rows - mean) / scale
    one_hot = np.eye(4)[labels]
    residual = solution.probabilities(rows) - one_hot
    weights = solution.kernel * scale[:, None]
    gradient = solution.strength * standard.T @ residual + weights
    assert np.abs(gradient).max() < 5e-3 * np.abs(standard.T @ one_hot).max()


def test_probabilities_equal_those_of_scikit_learn() -> None:
    rows, labels = _clouds()
    solution = features.solve_head(rows, labels, num_classes=4)
    twin = make_pipeline(
        StandardScaler(), LogisticRegression(C=solution.strength, max_iter=2000, tol=1e-8)
    ).fit(rows, labels)
    np.testing.assert_allclose(solution.probabilities(rows), twin.predict_proba(rows), atol=5e-3)


def test_strength_is_the_one_that_cross_validation_prefers() -> None:
    rows, labels = _clouds(spread=0.5)
    solution = features.solve_head(rows, labels, num_classes=4, seed=5)
    folds = StratifiedKFold(5, shuffle=True, random_state=5)
    losses = [
        -cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)),
            rows,
            labels,
            cv=folds,
            scoring="neg_log_loss",
        ).mean()
        for c in heads.STRENGTHS
    ]
    assert solution.strength == heads.STRENGTHS[int(np.argmin(losses))]
    assert solution.log_loss == pytest.approx(min(losses), rel=0.05)
    assert "5-fold" in solution.reason


def test_two_classes_are_a_softmax_of_two() -> None:
    rows, labels = _clouds(classes=2)
    solution = features.solve_head(rows, labels, num_classes=2)
    twin = make_pipeline(
        StandardScaler(), LogisticRegression(C=solution.strength, max_iter=2000, tol=1e-8)
    ).fit(rows, labels)
    np.testing.assert_allclose(solution.probabilities(rows), twin.predict_proba(rows), atol=5e-3)


def test_class_without_images_is_never_predicted() -> None:
    rows, labels = _clouds(classes=3)
    labels = np.array([0, 1, 3])[labels]
    probabilities = features.solve_head(rows, labels, num_classes=5).probabilities(rows)
    assert probabilities[:, [2, 4]].max() < 1e-6
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.8


def test_constant_feature_gets_no_weight() -> None:
    rows, labels = _clouds()
    rows[:, 3] = 7.0
    solution = features.solve_head(rows, labels, num_classes=4)
    np.testing.assert_allclose(solution.kernel[3], 0.0, atol=1e-8)


def test_one_image_in_a_class_falls_back_and_says_so() -> None:
    rows, labels = _clouds(n=4)
    solution = features.solve_head(rows, labels, num_classes=4)
    assert solution.strength == heads.DEFAULT_STRENGTH
    assert np.isnan(solution.log_loss)
    assert "without cross-validation" in solution.reason


def test_large_problems_use_a_single_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SINGLE_FOLD_VALUES", 10)
    rows, labels = _clouds()
    assert "1-fold" in features.solve_head(rows, labels, num_classes=4).reason


def test_needs_two_classes() -> None:
    with pytest.raises(checks.DataError, match="at least 2 classes. Received: classes=1"):
        features.solve_head(np.ones((3, 2), np.float32), np.zeros(3, int), num_classes=2)


def test_refuses_features_that_are_not_finite() -> None:
    rows, labels = _clouds()
    rows[0, 0] = np.nan
    with pytest.raises(checks.DataError, match="must be finite.*bad_values=1"):
        features.solve_head(rows, labels, num_classes=4)


def test_the_expected_time_grows_with_values_and_classes_and_falls_with_the_folds() -> None:
    few = heads.expected_seconds(100, 100, 5)
    assert heads.expected_seconds(100, 100, 10) - heads.SECONDS_AT_LEAST == pytest.approx(
        2 * (few - heads.SECONDS_AT_LEAST)
    )
    many = heads.SINGLE_FOLD_VALUES // 100
    below, above = (
        heads.expected_seconds(n, 100, 5) - heads.SECONDS_AT_LEAST for n in (many, many + 1)
    )
    assert below > 4 * above


def test_a_large_problem_chooses_by_a_part_of_every_class_and_solves_with_all(monkeypatch) -> None:
    rows, labels = _clouds()
    monkeypatch.setattr(heads, "LARGE_VALUES", rows.size * 4 - 1)
    monkeypatch.setattr(heads, "SAMPLE_VALUES", rows.size * 4 // 3)
    found = features.solve_head(rows, labels, num_classes=4)
    part = sum(math.ceil(n / 3) for n in np.bincount(labels))
    assert found.reason.endswith(f"cross-validation over {part:,} of the {len(rows):,} images")
    whole = make_pipeline(
        StandardScaler(), LogisticRegression(C=found.strength, max_iter=2000, tol=1e-8)
    ).fit(rows, labels)
    np.testing.assert_allclose(found.probabilities(rows), whole.predict_proba(rows), atol=5e-3)
    monkeypatch.setattr(heads, "LARGE_VALUES", 10**9)
    all_of_them = features.solve_head(rows, labels, num_classes=4)
    assert "over" not in all_of_them.reason
    assert abs(math.log10(all_of_them.strength / found.strength)) <= 1


def test_small_products_use_one_thread_of_linear_algebra_and_large_ones_all(monkeypatch) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()
                if lib["user_api"] == "blas"]  # fmt: skip

    before = threads()
    seen = {}
    for name, size in (("small", 1e6), ("large", 1e12)):
        with cores.blas_threads(size):
            seen[name] = threads()
    assert set(seen["small"]) == {1}
    assert seen["large"] == before == threads()
    inside = []
    monkeypatch.setattr(heads, "_fit", lambda *args, **kwargs: inside.append(threads()) or _stop())
    with pytest.raises(KeyError):
        heads.solve_head(np.eye(8, dtype=np.float32), np.arange(8) % 2, num_classes=2)
    assert set(inside[0]) == {1}


def _stop():
    raise KeyError
