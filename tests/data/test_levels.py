"""What the parts of a level switch on."""

import dataclasses

import pytest

from finetune_kit.data import levels

PARTS = {
    "flip": 0.5,
    "min_area": 0.5,
    "max_aspect": 2.0,
    "shift": 0.1,
    "rotation": 5.0,
    "brightness": 0.1,
    "contrast": 0.1,
    "saturation": 0.1,
    "erase": 0.5,
    "mix": 0.5,
}


def test_these_are_all_the_parts() -> None:
    assert list(PARTS) == [field.name for field in dataclasses.fields(levels.Level)]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_switches_on_what_it_needs_and_no_more(part) -> None:
    level = levels.Level(**{part: PARTS[part]})
    resamples = part in ("min_area", "max_aspect", "rotation")
    assert level.resamples == resamples
    assert level.moves == (resamples or part in ("flip", "shift"))
    assert level.recolours == (part in ("brightness", "contrast", "saturation"))


def test_none_does_nothing() -> None:
    none = levels.LEVELS["none"]
    assert none == levels.Level()
    assert not (none.moves or none.resamples or none.recolours or none.erase or none.mix)


def test_levels_grow_from_weak_to_strong() -> None:
    assert list(levels.LEVELS) == ["none", "shift", "light", "medium", "strong"]
    assert not levels.LEVELS["light"].resamples and not levels.LEVELS["light"].recolours
    medium, strong = levels.LEVELS["medium"], levels.LEVELS["strong"]
    assert strong.min_area < medium.min_area
    for part in ("rotation", "brightness", "contrast", "saturation", "erase", "mix"):
        assert getattr(strong, part) > getattr(medium, part), part
    assert not medium.erase and not medium.mix


def test_numbers_are_possible() -> None:
    for level in levels.LEVELS.values():
        for part in ("flip", "erase", "mix", "shift", "brightness", "contrast", "saturation"):
            assert 0 <= getattr(level, part) < 1, part
        assert 0 < level.min_area <= 1 <= level.max_aspect
