"""The pages name code, tests, flags and files that exist."""

import dataclasses
import importlib
import pathlib
import re

import pytest

from apps import main
from apps.finetune import RECIPES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def known_flags() -> set[str]:
    modules = [importlib.import_module(f"recipes.{name}") for name in RECIPES]
    modules += [importlib.import_module(module) for module, _ in main.COMMANDS.values()]
    modules += [
        importlib.import_module(f"apps.benchmarks.{name}")
        for name in ("advice", "recipes", "guide", "step")
    ]
    configs = [module.Config for module in modules if hasattr(module, "Config")]
    return {field.name for config in configs for field in dataclasses.fields(config)}


def test_tests_that_are_named_exist() -> None:
    named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", TEXT)
    assert len(named) >= 12
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_code_that_is_named_exists() -> None:
    named = set(re.findall(r"`(finetune_kit(?:\.\w+)+)`", TEXT))
    assert len(named) >= 12
    for path in named:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path


def test_flags_that_are_named_exist() -> None:
    others = {"logdir", "help", "extra"}  # of TensorBoard; of every command
    named = set(re.findall(r"(?<![\w-])--([a-z_0-9]+)", TEXT)) - others
    assert len(named) > 15
    assert named <= known_flags(), named - known_flags()


def test_commands_and_recipes_that_are_named_exist() -> None:
    for command, word in re.findall(r"finetune-kit ([a-z_-]+)(?: ([a-z_]+))?", TEXT):
        assert command in main.COMMANDS or command == "COMMAND", command
        if command == "finetune" and word:
            assert word in RECIPES, word
    for recipe in RECIPES:
        assert f"`{recipe}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_rule_of_the_source_text_has_a_row() -> None:
    rows = (ROOT / "docs" / "source-rules.md").read_text(encoding="utf-8")
    for number in range(1, 13):
        row = next(line for line in rows.splitlines() if line.startswith(f"| S{number} |"))
        assert row.count("`") >= 6 and "::" in row
