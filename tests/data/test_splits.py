"""Who trains, who chooses, who is scored."""

import collections
import hashlib

import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.data import splits

SHARES = {"test": 0.2, "validation": 0.15}


def images(counts, given=None, *, seed=0):
    """Returns `Images` of classes 0, 1, … with the given counts, in a shuffled order."""
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = [(int(label), f"{label}/{i}.png") for i, label in enumerate(labels)]
    if given is not None:
        rows = [
            (label, f"{split}/{name}") for (label, name), split in zip(rows, given, strict=True)
        ]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    return splits.Images(
        labels=np.array([label for label, _ in rows]),
        names=[name for _, name in rows],
        given=[name.split("/")[0] if given is not None else "" for _, name in rows],
        class_names=[f"class {c}" for c in range(len(counts))],
    )


def names_of(source, positions):
    return {source.names[i] for i in positions}


def parts_of(source, division):
    """Returns the names in every part, and checks that they are sorted and nobody is lost."""
    for positions in division.parts.values():
        assert (np.diff(positions) > 0).all()
    together = np.sort(np.concatenate(list(division.parts.values())))
    np.testing.assert_array_equal(together, np.arange(len(source.names)))
    return {name: names_of(source, positions) for name, positions in division.parts.items()}


def per_class(source, positions):
    return np.bincount(source.labels[positions], minlength=len(source.class_names)).tolist()


def test_without_splits_a_fifth_is_scored_and_15_percent_choose() -> None:
    source = images([100, 40, 20])
    division = splits.divide(source, SHARES, seed=0)
    assert sorted(division.parts) == ["test", "train", "validation"]
    parts_of(source, division)
    assert per_class(source, division.parts["test"]) == [20, 8, 4]
    assert per_class(source, division.parts["validation"]) == [15, 6, 3]
    assert per_class(source, division.parts["train"]) == [65, 26, 13]
    assert division.warnings == () and division.folds == ()


def test_who_is_drawn_is_decided_by_a_hash_of_seed_and_name() -> None:
    source = images([40, 20])
    division = splits.divide(source, SHARES, seed=3)
    for label, count in enumerate((40, 20)):
        mine = [name for name in source.names if name.startswith(f"{label}/")]
        digests = {name: hashlib.sha256(f"3:split:{name}".encode()).digest() for name in mine}
        drawn = sorted(mine, key=lambda name: int.from_bytes(digests[name][:8], "little"))
        test, validation = count // 5, count * 15 // 100
        expected = {"test": drawn[:test], "validation": drawn[test : test + validation]}
        for split, names in expected.items():
            assert names_of(source, division.parts[split]) & set(mine) == set(names)


@pytest.mark.parametrize("count", range(3, 30))
def test_shares_are_rounded_and_no_part_is_without_an_image(count) -> None:
    source = images([count, 50])
    division = splits.divide(source, SHARES, seed=0)
    test = per_class(source, division.parts["test"])[0]
    validation = per_class(source, division.parts["validation"])[0]
    assert test == max(1, round(0.2 * count)) and validation == max(1, round(0.15 * count))
    assert per_class(source, division.parts["train"])[0] == count - test - validation >= 1


@pytest.mark.parametrize("shares", [{"test": 0.98, "validation": 0.01}, {"test": 0.5}])
def test_large_shares_leave_an_image_for_the_others(shares) -> None:
    source = images([3, 3])
    division = splits.divide(source, shares, seed=0)
    assert all(min(per_class(source, p)) >= 1 for p in division.parts.values())


def test_the_order_of_the_listing_makes_no_difference() -> None:
    first, second = images([30, 17], seed=1), images([30, 17], seed=2)
    assert first.names != second.names
    for seed in (0, 1):
        one = parts_of(first, splits.divide(first, SHARES, seed=seed))
        assert one == parts_of(second, splits.divide(second, SHARES, seed=seed))


def test_another_seed_draws_others() -> None:
    source = images([60, 60])
    tests = [names_of(source, splits.divide(source, SHARES, seed=s).parts["test"]) for s in (0, 1)]
    assert 0 < len(tests[0] & tests[1]) < 12


def test_more_images_of_one_class_move_none_of_another() -> None:
    small, large = images([30, 10]), images([30, 99])
    for name, positions in splits.divide(small, SHARES, seed=0).parts.items():
        others = names_of(large, splits.divide(large, SHARES, seed=0).parts[name])
        mine = {n for n in names_of(small, positions) if n.startswith("0/")}
        assert mine == {n for n in others if n.startswith("0/")}


def test_with_train_and_test_given_validation_comes_out_of_train() -> None:
    source = images([50, 50], given=["train"] * 40 + ["test"] * 10 + ["train"] * 20 + ["test"] * 30)
    parts = parts_of(source, splits.divide(source, SHARES, seed=0))
    assert parts["test"] == {name for name in source.names if name.startswith("test/")}
    assert all(name.startswith("train/") for name in parts["validation"] | parts["train"])
    assert len(parts["validation"]) == 6 + 3


def test_with_train_and_validation_given_the_test_comes_out_of_train() -> None:
    source = images([50, 50], given=(["train"] * 40 + ["validation"] * 10) * 2)
    parts = parts_of(source, splits.divide(source, SHARES, seed=0))
    assert parts["validation"] == {n for n in source.names if n.startswith("validation/")}
    assert len(parts["test"]) == 16 and all(n.startswith("train/") for n in parts["test"])


def test_with_all_splits_given_nothing_is_drawn() -> None:
    given = ["train", "validation", "test"] * 4
    source = images([6, 6], given=given)
    parts = parts_of(source, splits.divide(source, SHARES, seed=0))
    for split, names in parts.items():
        assert names == {name for name in source.names if name.startswith(f"{split}/")}


def test_a_class_that_a_split_lacks_is_a_warning() -> None:
    given = ["train"] * 6 + ["test", "validation"] + ["train"] * 6
    division = splits.divide(images([8, 6], given=given), SHARES, seed=0)
    assert division.warnings == ("no validation image of class 1", "no test image of class 1")


@pytest.mark.parametrize(
    ("counts", "shares", "words"),
    [
        ([10, 2], SHARES, "at least 3 images of every class. Received: 2 of 'class 1'. Add"),
        ([1, 10], {"test": 0.2}, "at least 2 images of every class. Received: 1 of 'class 0'"),
    ],
)
def test_too_few_images_to_split_are_one_line(counts, shares, words) -> None:
    with pytest.raises(checks.DataError, match=words):
        splits.divide(images(counts), shares, seed=0)


def test_ranks_are_hashes_of_seed_purpose_and_name() -> None:
    ranks = splits.ranks(["a/1.png", "caf\udce9"], seed=7, salt="split")
    expected = [
        int.from_bytes(hashlib.sha256(text).digest()[:8], "little")
        for text in (b"7:split:a/1.png", b"7:split:caf\xe9")
    ]
    assert ranks.dtype == np.uint64 and ranks.tolist() == expected


def budgeted(source, per_class, *, seed=0, shares=None):
    division = splits.divide(source, shares or {"test": 0.2}, seed=seed)
    return division, splits.budget(source, division, seed=seed, per_class=per_class)


def test_a_budget_is_all_that_training_may_know() -> None:
    source = images([100, 60])
    division, limited = budgeted(source, 7)
    assert sorted(limited.parts) == ["test", "train"]
    assert per_class(source, limited.parts["train"]) == [7, 7]
    np.testing.assert_array_equal(limited.parts["test"], division.parts["test"])
    assert not set(limited.parts["train"]) & set(limited.parts["test"])
    # The images that are scored are those of a run with all labels.
    everything = splits.divide(source, SHARES, seed=0)
    np.testing.assert_array_equal(everything.parts["test"], limited.parts["test"])


def test_the_validation_split_belongs_to_the_budget_too() -> None:
    given = (["train"] * 2 + ["validation"] * 18 + ["test"] * 5) * 2
    source = images([25, 25], given=given)
    _, limited = budgeted(source, 10)
    drawn = names_of(source, limited.parts["train"])
    assert len(drawn) == 20 and any(name.startswith("validation/") for name in drawn)
    assert all(n.startswith("test/") for n in names_of(source, limited.parts["test"]))
    assert "validation" not in limited.parts


def test_a_larger_budget_holds_the_smaller_one() -> None:
    source = images([100, 60])
    five, ten = (set(budgeted(source, k)[1].parts["train"]) for k in (5, 10))
    assert five < ten


def test_budgets_differ_by_seed_and_not_by_the_order_of_the_listing() -> None:
    first, second = images([40, 40], seed=1), images([40, 40], seed=2)
    drawn = names_of(first, budgeted(first, 5)[1].parts["train"])
    assert drawn == names_of(second, budgeted(second, 5)[1].parts["train"])
    assert drawn != names_of(first, budgeted(first, 5, seed=1)[1].parts["train"])


@pytest.mark.parametrize("budget", [3, 10, 49])
def test_below_50_a_class_three_folds_hold_everybody_out_once(budget) -> None:
    source = images([80, 80, 80])
    _, limited = budgeted(source, budget)
    labels = source.labels[limited.parts["train"]]
    n = len(labels)
    assert len(limited.folds) == 3
    held = np.sort(np.concatenate([fold.validation for fold in limited.folds]))
    np.testing.assert_array_equal(held, np.arange(n))
    for fold in limited.folds:
        np.testing.assert_array_equal(
            np.sort(np.concatenate([fold.train, fold.validation])), np.arange(n)
        )
        counts = np.bincount(labels[fold.validation], minlength=3)
        assert counts.min() >= budget // 3 and counts.max() <= -(-budget // 3)
    # Classes start at different folds, so that folds are of one size.
    assert len({len(fold.validation) for fold in limited.folds}) == 1


def test_from_50_a_class_one_fold_holds_a_fifth_out() -> None:
    source = images([100, 100])
    _, limited = budgeted(source, 50)
    (fold,) = limited.folds
    labels = source.labels[limited.parts["train"]]
    assert np.bincount(labels[fold.validation]).tolist() == [10, 10]
    assert np.bincount(labels[fold.train]).tolist() == [40, 40]


def test_folds_are_drawn_and_do_not_follow_the_listing() -> None:
    source = images([40, 40])
    one, other = (budgeted(source, 9, seed=s)[1].folds[0].validation for s in (0, 1))
    assert one.tolist() != other.tolist()


def test_a_class_with_fewer_images_gives_all_it_has_and_is_named() -> None:
    source = images([50, 5])
    _, limited = budgeted(source, 10)
    assert per_class(source, limited.parts["train"]) == [10, 4]
    assert limited.warnings == ("fewer than 10 images to train on in class 1: 4",)
    assert len(limited.folds) == 3


def test_two_images_of_a_class_make_two_folds() -> None:
    source = images([10, 10])
    _, limited = budgeted(source, 2)
    labels = source.labels[limited.parts["train"]]
    assert len(limited.folds) == 2
    for fold in limited.folds:
        assert collections.Counter(labels[fold.validation].tolist()) == {0: 1, 1: 1}


def test_one_image_of_a_class_cannot_be_held_out() -> None:
    source = images([10, 10])
    _, limited = budgeted(source, 1)
    assert limited.folds == ()
    assert limited.warnings == (
        "a class has one image to train on, so that nothing can be held out",
    )


def test_a_small_class_beside_a_large_budget_is_in_both_parts_of_the_fold() -> None:
    labels = np.repeat([0, 1], [60, 3])
    (fold,) = splits.folds(labels, np.arange(63), 60)
    assert set(labels[fold.train]) == set(labels[fold.validation]) == {0, 1}


def test_warnings_of_the_division_are_kept() -> None:
    given = ["train"] * 9 + ["test"] + ["train"] * 9
    _, limited = budgeted(images([10, 9], given=given), 4)
    assert limited.warnings == ("no test image of class 1",)
