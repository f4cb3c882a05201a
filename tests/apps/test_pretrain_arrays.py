"""Three steps, of which the middle one needs no TensorFlow."""

import ast
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from apps import main, pretrain, pretrain_arrays
from apps.benchmarks import bundled_page
from finetune_kit import backbones, checks
from finetune_kit.backbones import card
from finetune_kit.training import on_arrays
from tests.recipes import coloured

ROOT = pathlib.Path(__file__).resolve().parents[2]
HAS_JAX = importlib.util.find_spec("jax") is not None
SHARED = ["--validation_fraction=0.2", "--seed=3"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder of images and the file of arrays made of it."""
    root = tmp_path_factory.mktemp("arrays")
    folder = coloured.write(root / "squares", per_class=20)
    arrays = root / "source.npz"
    assert main.run(["pretrain", f"--data={folder}", f"--arrays={arrays}", *SHARED]) == 0
    return folder, arrays


def words_of(arrays, output):
    return ["pretrain-arrays", f"--arrays={arrays}", f"--output={output}", "--epochs=3",
            "--batch_size=16"]  # fmt: skip


def test_the_arrays_are_the_images_to_train_on(source) -> None:
    images, labels = pretrain_arrays.read(str(source[1]))
    assert images.shape == (len(labels), 32, 32, 3) and images.dtype == np.uint8
    # The colour of a square is its class: blue, green, red.
    assert ((2 - images.mean(axis=(1, 2)).argmax(axis=1)) == labels).all()


def test_only_images_that_the_network_takes_at_half_their_side_are_halved(
    source, tmp_path, capsys
) -> None:
    _, arrays = source
    words = [*words_of(arrays, tmp_path / "net.weights.h5"), "--halved=0.5"]
    assert main.run([*words, "--backbone=spec:8|8|8|8|8|8"]) == 3
    assert "an even side of at least 128 px. Received: halved=0.5, side=32" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
    assert main.run([*words, "--backbone=spec:8|16", "--epochs=1"]) == 0
    assert "--halved=0.5" in pretrain_arrays.recorded(str(tmp_path / "net.weights.h5"))["command"]


def test_weights_from_elsewhere_get_exact_statistics_and_a_card(source, tmp_path) -> None:
    folder, arrays = source
    trained = tmp_path / "of mine" / "net.weights.h5"
    trained.parent.mkdir()
    assert main.run(words_of(arrays, trained)) == 0
    words = ["pretrain", f"--data={folder}", f"--weights={trained}",
             f"--workdir={tmp_path / 'run'}", *SHARED]  # fmt: skip
    assert main.run(words) == 0
    made = tmp_path / "run" / "bundled"
    before = backbones.load("bundled", weights=str(trained)).model
    after = backbones.load("bundled", weights=str(made / pretrain.WEIGHTS)).model
    for one, other in zip(before.trainable_weights, after.trainable_weights, strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))
    found = card.read(made)
    mean, variance = found.moments["block_1_conv_1_bn"]
    norm = after.get_layer("block_1_conv_1_bn")
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-3, atol=1e-6)
    assert found.accuracy["value"] > 0.7 and "--weights=net.weights.h5" in found.recipe["command"]
    assert "of mine" not in json.dumps(found.recipe)
    # How `pretrain` would have trained says nothing of them.
    assert not {"epochs", "learning_rate", "rotation", "images_shown"} & found.recipe.keys()
    assert {"data", "also", "backbone", "seed", "trained"} <= found.recipe.keys()
    text = bundled_page.page([], found)
    steps = [line.split() for line in text.splitlines() if line.startswith("    ")]
    assert [" ".join(step[:2]) for step in steps] == [
        "finetune-kit pretrain", "KERAS_BACKEND=tensorflow finetune-kit", "finetune-kit pretrain"
    ]  # fmt: skip
    assert steps[0][2:] == [f"--data={folder}", *SHARED[::-1], "--arrays=source.npz"]
    assert "of mine" not in text
    assert steps[1][2:] == ["pretrain-arrays", "--arrays=source.npz",
                            "--output=net.weights.h5", "--epochs=3", "--batch_size=16"]  # fmt: skip
    assert "--weights=net.weights.h5" in steps[2]


def test_a_finished_run_goes_on_with_other_images(source, tmp_path, capsys) -> None:
    arrays, first, second = source[1], tmp_path / "one.weights.h5", tmp_path / "two.weights.h5"
    assert main.run(words_of(arrays, first)) == 0
    images, labels = pretrain_arrays.read(str(arrays))
    other = tmp_path / "other.npz"
    pretrain_arrays.write(str(other), images[::2], labels[::2], "finetune-kit pretrain --data=x")
    # With a rate of next to nothing, it ends where it began.
    words = [*words_of(other, second), f"--weights={first}", "--learning_rate=1e-06",
             "--precision=mixed_bfloat16"]  # fmt: skip
    assert main.run(words) == 0
    one, two = (backbones.load("bundled", weights=str(path)).model for path in (first, second))
    for before, after in zip(one.trainable_weights, two.trainable_weights, strict=True):
        gap = np.abs(np.array(after) - np.array(before)).max()
        assert gap < 2e-4 and after.dtype == "float32"
    found = json.loads((tmp_path / "two.json").read_text())
    assert found["arrays"] == "finetune-kit pretrain --data=x"
    assert "--weights=one.weights.h5" in found["command"]
    assert found["before"] == json.loads((tmp_path / "one.json").read_text())
    assert "--arrays=source.npz" in found["before"]["arrays"]
    steps = bundled_page._commands({"command": "last", "trained": found})
    assert [step.split()[-1] for step in steps] == [
        "--arrays=source.npz", "--batch_size=16", "--data=x", "--precision=mixed_bfloat16", "last"
    ]  # fmt: skip
    # Weights of another network, and another kind of file.
    own = tmp_path / "own.weights.h5"
    assert main.run([*words_of(arrays, own), "--backbone=spec:8|16", f"--weights={first}"]) == 4
    assert main.run([*words_of(arrays, own), f"--weights={other}"]) == 2
    lines = capsys.readouterr().err.splitlines()[-2:]
    assert all("Received: " in line for line in lines)
    assert not list(tmp_path.glob("own*"))


def test_images_that_are_gone_after_training_do_not_cost_the_record(
    source, tmp_path, monkeypatch
) -> None:
    arrays, output = tmp_path / "copy.npz", tmp_path / "net.weights.h5"
    arrays.write_bytes(source[1].read_bytes())
    monkeypatch.setattr(on_arrays, "train", lambda *_, **options: arrays.unlink())
    assert main.run(words_of(arrays, output)) == 0
    found = json.loads((tmp_path / "net.json").read_text())
    assert "--arrays=source.npz" in found["arrays"] and output.is_file()


def test_an_interrupted_run_goes_on_with_its_own_flags_alone(
    source, tmp_path, monkeypatch, capsys
) -> None:
    output = tmp_path / "net.weights.h5"
    backup = tmp_path / "net.weights.h5.backup"
    monkeypatch.setattr(on_arrays, "BACKUP_SECONDS", 0.0)

    def stopped(model, folder, epochs):
        kept(model, folder, epochs)
        if epochs == 2:
            raise KeyboardInterrupt

    kept = on_arrays._back_up
    with monkeypatch.context() as patch:
        patch.setattr(on_arrays, "_back_up", stopped)
        assert main.run(words_of(source[1], output)) == 130
    assert [path.name for path in backup.glob("epoch*")] == ["epoch-00002.weights.h5"]
    assert main.run(words_of(source[1], output)) == 2
    assert main.run([*words_of(source[1], output), "--resume", "--seed=1"]) == 2
    other = tmp_path / "other.weights.h5"
    backbones.load("bundled").model.save_weights(other)
    assert main.run([*words_of(source[1], output), "--resume", f"--weights={other}"]) == 2
    assert not output.exists()
    assert main.run([*words_of(source[1], output), "--resume"]) == 0
    assert output.is_file() and not backup.exists()
    lines = capsys.readouterr().err
    assert "--resume goes on with it" in lines and "Received: other seed." in lines
    assert "Received: other weights." in lines
    whole = tmp_path / "whole.weights.h5"
    assert main.run(words_of(source[1], whole)) == 0
    one, other = (backbones.load("bundled", weights=str(path)).model for path in (output, whole))
    for resumed, straight in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(np.array(resumed), np.array(straight), rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not HAS_JAX, reason="needs jax")
def test_jax_trains_it_without_tensorflow(source, tmp_path) -> None:
    output = tmp_path / "net.weights.h5"
    program = (
        "import sys\n"
        "class Nowhere:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.split('.')[0] != 'tensorflow'\n"
        "sys.meta_path.insert(0, Nowhere())\n"
        "from apps import main\n"
        f"sys.exit(main.run({words_of(source[1], output)!r}))"
    )
    environment = os.environ | {"KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    assert backbones.load("bundled", weights=str(output)).model.count_params() > 0


def test_the_middle_step_names_no_tensorflow() -> None:
    """What it imports of ours, and what that imports of ours, does not."""
    left, seen = ["apps/pretrain_arrays.py", "finetune_kit/training/on_arrays.py",
                  "finetune_kit/backbones/building.py", "finetune_kit/backbones/loading.py",
                  "finetune_kit/backbones/weights.py"], set()  # fmt: skip
    while left:
        path = left.pop()
        seen.add(path)
        for node in ast.parse((ROOT / path).read_text("utf-8")).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [f"{node.module}.{alias.name}" for alias in node.names]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            for name in names:
                assert name.split(".")[0] != "tensorflow", path
                file = f"{name.replace('.', '/')}.py"
                if (ROOT / file).is_file() and file not in seen:
                    left.append(file)
    assert {"recipes/settings.py", "finetune_kit/backbones/catalogue.py"} <= seen


def test_bad_files_are_refused_in_a_line(source, tmp_path, capsys) -> None:
    folder, arrays = source
    assert main.run(words_of(tmp_path / "none.npz", tmp_path / "a.weights.h5")) == 3
    (tmp_path / "torn.npz").write_bytes(b"PK no")
    assert main.run(words_of(tmp_path / "torn.npz", tmp_path / "a.weights.h5")) == 3
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 32, 32, 3)), labels=np.zeros(2))
    assert main.run(words_of(tmp_path / "floats.npz", tmp_path / "a.weights.h5")) == 3
    assert main.run(words_of(arrays, tmp_path / "a.h5")) == 2
    assert main.run(["pretrain", f"--data={folder}", f"--arrays={arrays}"]) == 2  # it is there
    # Found before hours of training, not after them.
    assert main.run(words_of(arrays, tmp_path / "nowhere" / "a.weights.h5")) == 2
    np.savez(tmp_path / "tall.npz", images=np.zeros((2, 64, 32, 3), np.uint8), labels=np.zeros(2))
    assert main.run(words_of(tmp_path / "tall.npz", tmp_path / "a.weights.h5")) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7 and all("Received: " in line for line in lines)
    with pytest.raises(checks.ConfigError, match="must be bundled or a specification"):
        pretrain_arrays.Config(
            arrays=str(arrays), output=str(tmp_path / "b.weights.h5"), backbone="mobilenet"
        )
