"""The one-standard-error rule with pairs, against a computation by hand and a t statistic."""

import numpy as np
import pytest
import scipy.stats

from finetune_kit.training import choosing


def test_a_clearly_better_point_is_chosen() -> None:
    # Differences to the last point: 1, 2, 3, 2: mean 2, standard error sqrt(2/3) / 2 = 0.41.
    losses = np.array([[5.0, 5.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 3.0]])
    assert choosing.choose_point(losses) == 1


def test_a_point_within_one_standard_error_is_not_worth_a_shorter_course() -> None:
    # Differences 3, -2, 2, -2: mean 0.25, deviation sqrt(20.75 / 3), standard error 1.31.
    losses = np.array([[1.0, 5.0, 1.0, 5.0], [4.0, 3.0, 3.0, 3.0]])
    assert losses[0].mean() < losses[1].mean()
    assert choosing.choose_point(losses) == 1


@pytest.mark.parametrize(("gap", "chosen"), [(1.01, 0), (0.99, 1)])
def test_the_line_is_at_one_standard_error(gap, chosen) -> None:
    # Differences gap + (1, -1, 0): deviation 1 (ddof 1), standard error 1 / sqrt(3).
    last = gap / np.sqrt(3) + np.array([1.0, -1.0, 0.0])
    assert choosing.choose_point(np.stack([np.zeros(3), last])) == chosen


def test_pairs_count_and_not_the_spread_over_images() -> None:
    # The spread over the images is a hundred times the difference, which is the same for each.
    hard = np.array([0.0, 100.0, 200.0, 300.0])
    assert choosing.choose_point(np.stack([hard, hard + 1.0 + 0.1 * np.sin(hard)])) == 0


def test_random_tables_against_the_t_statistic() -> None:
    generator = np.random.default_rng(0)
    chosen = []
    for _ in range(200):
        losses = generator.normal(size=(4, 12)) + generator.normal(scale=0.3, size=(4, 1))
        best = int(losses.mean(axis=1).argmin())
        t = scipy.stats.ttest_rel(losses[-1], losses[best]).statistic if best != 3 else 0.0
        assert choosing.choose_point(losses) == (best if t > 1 else 3)
        chosen.append(choosing.choose_point(losses) == 3)
    assert 20 < sum(chosen) < 180  # both answers have been seen


@pytest.mark.parametrize("n", [50, 100, 841])
def test_one_image_more_is_nothing_and_two_are_something(n) -> None:
    errors = np.zeros((2, n))
    errors[1, 0] = 1.0
    assert choosing.choose_point(errors) == 1
    errors[1, 1] = 1.0
    assert choosing.choose_point(errors) == 0


def test_the_planned_end_stands_where_nothing_can_be_told() -> None:
    assert choosing.choose_point(np.array([[1.0, 2.0]])) == 0
    assert choosing.choose_point(np.array([[1.0], [2.0]])) == 1  # one image has no spread
    assert choosing.choose_point(np.ones((3, 5))) == 2


def test_folds_are_joined_image_by_image() -> None:
    first = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]  # two points, two images
    second = [np.array([5.0]), np.array([6.0])]
    np.testing.assert_array_equal(
        choosing.pooled([first, second]), [[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]]
    )


def test_folds_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        choosing.pooled([[np.ones(2)], [np.ones(2), np.ones(2)]])
