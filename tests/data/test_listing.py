"""Names in the order in which people count, and what no classifier can be trained on."""

import itertools

import pytest

from finetune_kit import checks
from finetune_kit.data import arrays, listing


def listed(classes, splits=("", ""), names=("a.png", "b.png")):
    return listing.Listing(
        names=tuple(names),
        labels=tuple(itertools.islice(itertools.cycle(classes), len(names))),
        splits=tuple(splits),
        reader=arrays.ArrayReader([]),
        classes=tuple(classes),
    )


@pytest.mark.parametrize(
    "names",
    [
        ["1", "2", "10", "20", "100"],
        ["class 2", "class 10", "class b"],
        ["img9.png", "img10.png", "img10a.png"],
        ["Ant", "ant", "Bee", "cat"],
        ["1.2", "1.10", "2.0"],
        ["7", "07x", "a"],
        ["été 2", "été 10"],
        ["", "0", "a"],
    ],
)
def test_natural_order_is_that_of_people(names) -> None:
    for shuffled in itertools.islice(itertools.permutations(names), 30):
        assert listing.natural(shuffled) == names


def test_names_that_count_alike_still_have_one_order() -> None:
    for names in itertools.permutations(["a1", "A1", "a01"]):
        assert listing.natural(names) == listing.natural(["a1", "A1", "a01"])


def test_superscripts_are_no_numbers() -> None:
    assert listing.natural(["m²", "m10", "m9"]) == ["m9", "m10", "m²"]


def test_every_alias_leads_to_a_split() -> None:
    assert set(listing.ALIASES.values()) == set(listing.SPLITS)
    assert {"val", "valid", "training", "testing", *listing.SPLITS} <= set(listing.ALIASES)


def test_the_length_is_the_number_of_images() -> None:
    assert len(listed(["a", "b"], names=("x", "y"))) == 2


def test_what_can_be_trained_on_passes() -> None:
    listing.check(listed(["a", "b"]), "photos")
    listing.check(listed(["a", "b"], splits=("train", "test")), "photos")


@pytest.mark.parametrize(("classes", "words"), [(["cat"], "photos with cat"), ([], "with none")])
def test_fewer_than_two_classes_are_refused(classes, words) -> None:
    found = listed(classes, names=("a.png", "b.png") if classes else (), splits=())
    with pytest.raises(checks.DataError, match=f"at least 2 classes. Received: .*{words}. Add"):
        listing.check(found, "photos")


def test_two_classes_of_one_name_are_refused() -> None:
    words = "Every class needs a name of its own. Received: photos with cat more than once"
    with pytest.raises(checks.DataError, match=words):
        listing.check(listed(["cat", "dog", "cat"]), "photos")


def test_images_with_a_split_beside_images_without_are_refused() -> None:
    words = "Either every image has a split or none has. Received: photos with 'b.png', which has"
    with pytest.raises(checks.DataError, match=words):
        listing.check(listed(["a", "b"], splits=("train", "")), "photos")
