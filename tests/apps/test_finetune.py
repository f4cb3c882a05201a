"""`finetune-kit finetune`: which recipe runs with what, and what is refused before it runs."""

import ast
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from apps import finetune, flags
from finetune_kit import checks, console, metrics, results
from recipes import auto, full_finetune, head_only, probe_then_finetune
from tests.apps import brightness

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path):
    return brightness.write_images(tmp_path / "photos", per_class=2)


@pytest.fixture
def output():
    console.activate(plain=True)
    yield
    console.deactivate()


def a_report(**values):
    labels = np.arange(20) % 2
    scores = metrics.score(labels, np.eye(2)[labels] * 0.8 + 0.1)
    outcome = {"planned_epochs": 5, "chosen_epoch": 3, "reason": "epoch 3: the best of five"}
    return results.Report(
        **{
            "recipe": "head_only",
            "config": {},
            "data": {},
            "scores": {"validation": None, "test": scores},
            "outcome": outcome,
            "seconds": {"total": 61.7},
            "device": "a machine",
            "notes": ("learning rate 0.001, since it is small",),
            **values,
        }
    )


@pytest.fixture
def told(monkeypatch):
    """Returns the configs with which recipes were run, by recipe; nothing is trained."""
    configs = {}
    for method in (auto, head_only, full_finetune, probe_then_finetune):
        name = method.__name__.removeprefix("recipes.")

        def run(config, name=name):
            configs[name] = config
            return a_report(recipe=name)

        monkeypatch.setattr(method, "run", run)
    return configs


def test_the_first_word_is_the_recipe(told, photos) -> None:
    words = [f"--data={photos}", "--workdir=run", "--epochs=3"]
    assert finetune.main(["full_finetune", *words]) == 0
    assert finetune.main(["head-only", *words[:2]]) == 0
    assert told == {
        "full_finetune": full_finetune.Config(data=str(photos), workdir="run", epochs=3),
        "head_only": head_only.Config(data=str(photos), workdir="run"),
    }


def test_without_a_word_the_default_runs(told, photos) -> None:
    assert finetune.main([f"--data={photos}", "--workdir=run"]) == 0
    assert told == {"auto": auto.Config(data=str(photos), workdir="run")}


def test_every_recipe_is_offered_and_nothing_else() -> None:
    defining = {
        path.stem
        for path in (ROOT / "recipes").glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "run"
            for node in ast.parse(path.read_text()).body
        )
    }
    assert defining == set(finetune.RECIPES) and finetune.DEFAULT in finetune.RECIPES


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(checks.ConfigError, match="recipe must be one of .*mean 'discriminative'"):
        finetune.recipe_of(["discriminativ", "--ratio=1"])
    with pytest.raises(checks.ConfigError, match="recipe='photos'"):
        finetune.main(["photos", "--workdir=run"])


def test_words_behind_the_recipe_are_refused(told, photos) -> None:
    with pytest.raises(checks.ConfigError, match="finetune takes flags alone. Received: more"):
        finetune.main(["head_only", f"--data={photos}", "--workdir=run", "more"])
    assert told == {}


def test_a_flag_of_another_recipe_is_refused(photos) -> None:
    words = [f"--data={photos}", "--workdir=run", "--ratio=0.5"]
    with pytest.raises(checks.ConfigError, match="finetune head_only has no flag --ratio"):
        finetune.main(["head_only", *words])


def test_help_has_flags_and_recipes() -> None:
    with pytest.raises(flags.HelpRequested, match=r"(?s)--data\n.*\n\nrecipes, as the first word:"):
        finetune.main(["head_only", "--help"])


def shown(report, capsys, **config):
    settings = types.SimpleNamespace(**{"workdir": "runs/1", "tensorboard": True, **config})
    finetune.tell(report, settings)
    return capsys.readouterr().out


def test_the_end_of_a_run_is_told(output, capsys) -> None:
    out = shown(a_report(), capsys)
    lines = out.splitlines()
    assert lines[0] == "· learning rate 0.001, since it is small"
    assert lines[1] == "· kept epoch 3: the best of five"
    assert "Test scores, n = 20" in out and "100.0 %" in out and "Validation" not in out
    assert lines[-4:] == [
        "62 s on a machine",
        "report       runs/1/report.html",
        "model        runs/1/model.keras",
        "TensorBoard  tensorboard --logdir=runs/1/tensorboard",
    ]


def test_what_there_was_not_is_not_told(output, capsys) -> None:
    scores = a_report().scores
    report = a_report(
        notes=(),
        scores={"validation": scores["test"], "test": None},
        outcome={"planned_epochs": 0, "chosen_epoch": 0, "reason": "solved"},
    )
    out = shown(report, capsys, tensorboard=False)
    assert out.startswith("Validation scores, n = 20")
    assert "Test" not in out and "TensorBoard" not in out and "kept" not in out


SCRIPT = """
import json, sys
from apps import main
code = main.run(sys.argv[1:])
print(json.dumps([code, sorted({"tensorflow", "keras", "jax", "torch"} & sys.modules.keys())]))
"""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--data={root}/photo"], 3, "photo"),
        (["--data="], 2, "--data is needed: a folder of images. Received: data=''"),
        (["--workdir="], 2, "--workdir is needed: where results go."),
        (["--epoch=3"], 2, "Did you mean --epochs?"),
        (["--seed=-1"], 2, "seed must lie in [0,"),
        (["--weights={root}/gone.h5"], 4, "gone.h5', which does not exist"),
        (["--workdir={root}/used"], 5, "must not hold another run"),
        (["--workdir={root}/photos"], 5, "which holds dark, light, middling and no earlier run"),
        (["--workdir={root}/file"], 5, "a place that can be written"),
        (["--data=tfds:No Name"], 3, "tfds: needs the name of a data set"),
        (["--backbone=mobilnet"], 2, "Did you mean mobilenet"),
        (["--image_size=8"], 2, "at least 32 px"),
        (["--resume", "--overwrite"], 2, "opposites"),
    ],
)
def test_a_mistake_costs_no_start_of_tensorflow(words, code, message, photos, tmp_path) -> None:
    results.prepare(tmp_path / "used")
    (tmp_path / "file").write_text("")
    good = ["finetune", "--data={root}/photos", "--workdir={root}/1"]
    words = [word.format(root=tmp_path) for word in [*good, *words]]
    command = [sys.executable, "-c", SCRIPT, *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(found.stdout) == [code, []]
    assert message in found.stderr and found.stderr.startswith("finetune-kit: ")
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "1").exists()
