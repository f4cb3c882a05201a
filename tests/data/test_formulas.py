"""Images from formulas are the same wherever they are asked for, and a source like others."""

import numpy as np
import pytest

from finetune_kit import checks, data
from finetune_kit.data import formulas

BOTH = pytest.mark.parametrize("formula", sorted(formulas.DRAWN))


@BOTH
def test_the_listing_names_every_image_and_draws_none(formula, monkeypatch) -> None:
    monkeypatch.setitem(formulas.DRAWN, formula, lambda kind, number: pytest.fail("drawn"))
    found = formulas.list_images(f"{formula}:12x5")
    kind = formula[:-1]
    assert len(found) == 60 and found.classes == tuple(f"{kind}_{i:02}" for i in range(12))
    assert (found.names[0], found.names[59]) == (f"{kind}_00[0]", f"{kind}_11[4]")
    assert found.labels[5:10] == (f"{kind}_01",) * 5 and set(found.splits) == {""}


@BOTH
def test_an_image_is_the_same_whenever_it_is_asked_for(formula) -> None:
    reader = formulas.Reader(formula, 5)
    first, again = reader.read(13), reader.read(13)
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    # Of a class, whatever the number of images in each: image 3 of class 2.
    np.testing.assert_array_equal(first, formulas.Reader(formula, 9).read(2 * 9 + 3))
    assert all((first != reader.read(i)).any() for i in (12, 14, 3))


def test_they_are_a_source_like_others() -> None:
    sources = ("fractals:3x10", "textures:2x10")
    images = data.load(sources, image_size=32)
    assert images.class_names == (
        "fractal_0", "fractal_1", "fractal_2", "texture_0", "texture_1"
    )  # fmt: skip
    assert images.test is not None and images.train.store.size == 32
    assert sum(len(split) for split in images.splits().values()) == 50
    assert images.fingerprint == data.load(sources, image_size=32).fingerprint


@BOTH
@pytest.mark.parametrize("form", ["", "3", "1x9", "9x1", "99999x99999", "3x4x5", "-3x4"])
def test_a_source_of_another_form_is_refused(formula, form) -> None:
    with pytest.raises(checks.DataError, match=f"200x100. Received: data='{formula}:{form}'"):
        data.check_source(f"{formula}:{form}")


def test_there_are_no_more_classes_than_characters() -> None:
    data.check_source("characters:95x2")
    with pytest.raises(checks.DataError, match="at most 95 classes. Received: data='char"):
        data.check_source("characters:96x2")
