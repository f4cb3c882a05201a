"""Packages whose names are imported when they are first used."""

import importlib
import sys

import pytest

from finetune_kit import lazy


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two submodules, `shapes` (public itself) and `sums`; not yet imported."""
    folder = tmp_path / "lazy_sample"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from finetune_kit import lazy\n"
        "__getattr__, __dir__, __all__ = lazy.attach(\n"
        "    __name__, {'total': 'sums', 'shapes': 'shapes', 'SIDES': 'shapes', 'gone': 'sums'})\n"
    )
    (folder / "sums.py").write_text("def total(*values):\n    return sum(values)\n")
    (folder / "shapes.py").write_text("SIDES = 4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("lazy_sample")
    for name in [name for name in sys.modules if name.partition(".")[0] == "lazy_sample"]:
        del sys.modules[name]


def test_a_submodule_is_imported_with_the_first_use_of_its_name(package) -> None:
    assert "lazy_sample.sums" not in sys.modules
    assert package.total(1, 2) == 3
    assert "lazy_sample.sums" in sys.modules
    assert "lazy_sample.shapes" not in sys.modules


def test_a_name_of_its_own_submodule_is_the_module(package) -> None:
    assert package.shapes is importlib.import_module("lazy_sample.shapes")
    assert package.SIDES == package.shapes.SIDES == 4


def test_names_can_be_imported_from_the_package(package) -> None:
    namespace = {}
    exec("from lazy_sample import total, shapes", namespace)
    assert namespace["total"](2, 2) == namespace["shapes"].SIDES


def test_dir_and_all_name_what_is_public_in_order(package) -> None:
    assert dir(package) == ["SIDES", "gone", "shapes", "total"]
    assert package.__all__ == ["SIDES", "gone", "shapes", "total"]


def test_an_unknown_name_lists_the_known_ones(package) -> None:
    words = "^module 'lazy_sample' has no attribute 'totals'. It has SIDES, gone, shapes, total$"
    with pytest.raises(AttributeError, match=words):
        _ = package.totals
    assert not hasattr(package, "sums")


def test_a_name_that_its_submodule_lacks_is_an_attribute_error(package) -> None:
    with pytest.raises(AttributeError, match="'lazy_sample.sums' has no attribute 'gone'"):
        _ = package.gone


def test_the_functions_stand_alone() -> None:
    get, names, public = lazy.attach("json", {"JSONDecoder": "decoder", "decoder": "decoder"})
    assert get("JSONDecoder") is importlib.import_module("json").JSONDecoder
    assert get("decoder") is importlib.import_module("json.decoder")
    assert names() == public == ["JSONDecoder", "decoder"]
