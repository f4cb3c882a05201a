"""A fractal's shape, and its shape alone, tells the class."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from finetune_kit.data import fractals


def test_systems_contract_and_keep_the_bounds() -> None:
    for kind in range(30):
        system = fractals.system(kind)
        values = np.linalg.svd(system.matrices, compute_uv=False)
        n = len(values)
        assert fractals.MAPS[0] <= n <= fractals.MAPS[1] and values.max() < 1
        total = values[:, 0].sum() + 2 * values[:, 1].sum()
        assert (5 + n) / 2 <= total <= (6 + n) / 2
        assert np.abs(system.offsets).max() <= 1
        np.testing.assert_allclose(system.shares.sum(), 1)


def test_points_lie_on_the_attractor() -> None:
    """That of three halvings is Sierpinski's triangle: no point in the middle of it."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    system = fractals.System(np.array([np.eye(2) / 2] * 3), corners / 2)
    points = fractals._points(system, np.random.default_rng(0))
    assert len(points) == fractals.WALKERS * (fractals.STEPS - fractals.SETTLING)
    x, y = points.T
    assert x.min() > -1e-3 and y.min() > -1e-3 and (x + y).max() < 1 + 1e-3
    hole = (x < 0.49) & (y < 0.49) & (x + y > 0.51)
    assert not hole.any() and ((x < 0.5) & (y < 0.5)).mean() == pytest.approx(1 / 3, abs=0.03)


def test_shapes_and_not_colours_tell_classes_apart() -> None:
    n = 12
    images = np.array([fractals.image(*divmod(i, n)) for i in range(8 * n)], float)
    labels, first = np.repeat(np.arange(8), n), np.arange(8 * n) % n < n // 2
    grey = images.mean(axis=3)
    # The ground runs evenly, so that second differences show the figure alone.
    bends = [np.abs(np.diff(grey, n=2, axis=axis)) for axis in (1, 2)]
    edges = np.pad(bends[0][:, :, 1:-1] + bends[1][:, 1:-1], ((0, 0), (1, 1), (1, 1)))
    shapes = edges.reshape(8 * n, 8, 8, 8, 8).mean(axis=(2, 4)).reshape(8 * n, -1)
    shapes /= shapes.sum(axis=1, keepdims=True)
    colours = images.mean(axis=(1, 2)) / 255

    def score(rows, strength):
        fitted = LogisticRegression(C=strength, max_iter=3000).fit(rows[first], labels[first])
        return fitted.score(rows[~first], labels[~first])

    assert score(shapes, 1e4) > 0.6  # by chance 0.125
    assert score(colours, 1.0) < 0.3
