"""Distances of features against SciPy's matrix root, sums over pairs, and closed forms."""

import dataclasses

import numpy as np
import pytest
import scipy.linalg

from finetune_kit.similarity import frechet


def rows(n, d=5, *, seed=0, shift=0.0):
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d))
    return generator.normal(size=(n, d)) @ mixing + shift


def moments_of(x):
    return x.mean(axis=0), np.cov(x, rowvar=False)


@dataclasses.dataclass
class Card:
    feature_mean: np.ndarray
    feature_covariance: np.ndarray
    features: np.ndarray | None = None


def card(x, *, features=True):
    return Card(*moments_of(x), x.astype(np.float16) if features else None)


def test_frechet_is_that_of_scipys_root() -> None:
    (m1, c1), (m2, c2) = moments_of(rows(40)), moments_of(2 * rows(50, seed=1) + 3)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(root))
    assert frechet.frechet(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-8)
    assert frechet.frechet(m2, c2, m1, c1) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_independent_features_is_a_sum_over_them() -> None:
    a, b = np.array([1.0, 4.0]), np.array([9.0, 0.0])
    found = frechet.frechet(np.zeros(2), np.diag(a), np.array([3.0, 0.0]), np.diag(b))
    assert found == pytest.approx(9 + (1 - 3) ** 2 + (2 - 0) ** 2)


def test_frechet_of_fewer_images_than_features_is_finite_and_0_to_itself() -> None:
    mean, covariance = moments_of(rows(6, d=20))
    assert frechet.frechet(mean, covariance, mean, covariance) == pytest.approx(0, abs=1e-6)
    other = moments_of(rows(7, d=20, seed=1))
    assert 0 < frechet.frechet(mean, covariance, *other) < np.inf


def test_kid_is_the_sum_over_pairs_of_different_images() -> None:
    x, y = rows(6), rows(4, seed=1, shift=0.5)

    def kernel(a, b):
        return (a @ b / len(a) + 1) ** 3

    own = [np.mean([kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])
           for z in (x, y)]  # fmt: skip
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert frechet.kid(x, y) == pytest.approx(own[0] + own[1] - 2 * across, rel=1e-10)


def test_kid_of_few_images_of_the_source_is_0_on_average() -> None:
    values = [frechet.kid(rows(40, seed=i), rows(5, seed=1000 + i)) for i in range(800)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_relative_kid_does_not_know_the_scale_of_the_features() -> None:
    x, y = rows(60), rows(50, seed=1, shift=1.0)
    found = frechet.relative_kid(x, y)
    assert found > 0.01
    assert frechet.relative_kid(1000 * x, 1000 * y) == pytest.approx(found, rel=1e-9)
    unit = np.sqrt((x**2).mean())
    across = frechet._kernel(x / unit, x / unit)
    within = (across.sum() - np.trace(across)) / (60 * 59)
    assert found == pytest.approx(frechet.kid(x / unit, y / unit) / within)


def test_many_images_are_compared_by_frechet_over_the_sources_variance() -> None:
    source, target = rows(2000), rows(300, seed=1, shift=0.7)
    name, value = frechet.feature_distance(card(source, features=False), target)
    (m1, c1), (m2, c2) = moments_of(source), moments_of(target)
    root = np.real(scipy.linalg.sqrtm(c1 @ c2))
    expected = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert (name, value) == ("frechet", pytest.approx(expected / np.trace(c1), rel=1e-6))


def test_few_images_are_compared_by_their_kernel() -> None:
    source, target = rows(200), rows(299, seed=1, shift=0.7)
    name, value = frechet.feature_distance(card(source), target)
    known = source.astype(np.float16).astype(np.float64)
    assert (name, value) == ("kid", pytest.approx(frechet.relative_kid(known, target)))


def test_without_features_few_images_cannot_be_compared() -> None:
    assert frechet.feature_distance(card(rows(200), features=False), rows(299)) is None
    assert frechet.feature_distance(card(rows(200)), rows(1)) is None
