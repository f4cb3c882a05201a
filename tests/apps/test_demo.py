"""`finetune-kit demo`: the digits are scikit-learn's, and each demo has a folder of its own."""

import collections
import functools
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from apps import demo, finetune, flags
from finetune_kit import checks, console, results
from recipes import auto
from tests.apps import brightness

# Images of 0, 1, … in the test part, from the description of the set (UCI, optdigits.names).
COUNTS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    assert demo.write_digits(folder) == 1797
    return folder


@pytest.fixture
def job(monkeypatch):
    """Returns the configs with which the recipe was run; nothing is trained."""
    configs = []
    monkeypatch.setattr(auto, "run", lambda config: configs.append(config) or "end")
    monkeypatch.setattr(finetune, "tell", lambda report, config: configs.append((report, config)))
    return configs


def test_there_are_as_many_of_each_digit_as_the_set_has(digits) -> None:
    found = collections.Counter(path.parent.name for path in digits.rglob("*.png"))
    assert found == {str(digit): count for digit, count in enumerate(COUNTS)}


def test_every_image_is_scikit_learns(digits) -> None:
    source = load_digits()
    for path in digits.rglob("*.png"):
        with Image.open(path) as image:
            grey = np.asarray(image)
        number = int(path.stem)
        assert grey.dtype == np.uint8 and grey.shape == (8, 8)
        assert str(source.target[number]) == path.parent.name
        # 17 levels, 0 black and 16 white.
        assert np.abs(grey / 255 * 16 - source.images[number]).max() <= 0.5 * 16 / 255
    assert grey.min() == 0


def test_the_digits_are_a_source_without_a_fault(digits) -> None:
    from finetune_kit import data

    images = data.load(digits, image_size=8)
    assert images.class_names == tuple("0123456789")
    assert images.audit.bad == () and images.audit.listed == images.audit.decoded == 1797


def test_a_demo_runs_the_default_recipe_in_a_new_folder(job, tmp_path, capsys) -> None:
    console.activate(plain=True)
    assert demo.main([f"--runs={tmp_path / 'my runs'}", "--seed=3"]) == 0
    console.deactivate()
    folder = tmp_path / "my runs" / "demo-1"
    config = auto.Config(data=str(folder / "data"), workdir=str(folder), image_size=32, seed=3)
    assert job == [config, ("end", config)]
    assert results.prepare(folder) == folder  # What follows may take it; nobody has yet.
    out = capsys.readouterr().out
    assert out.startswith(f"1797 handwritten digits of 8 x 8 pixels are in {folder / 'data'}\n")
    (line,) = [line for line in out.splitlines() if line.startswith("running finetune-kit ")]
    recipe, words = finetune.recipe_of(shlex.split(line)[3:])
    assert recipe == finetune.DEFAULT == "auto"
    assert flags.parse(words, auto.Config, command="") == (config, [])


def test_demos_are_numbered(job, tmp_path, monkeypatch) -> None:
    write = functools.partial(brightness.write_images, per_class=1)
    monkeypatch.setattr(demo, "write_digits", write)
    for _ in range(2):
        demo.main([f"--runs={tmp_path}"])
    assert [config.workdir for config in job[::2]] == [
        str(tmp_path / "demo-1"),
        str(tmp_path / "demo-2"),
    ]


def test_faults(job, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.EnvironmentFault, match="needs a folder that can be written"):
        demo.main([f"--runs={tmp_path / 'file'}"])
    with pytest.raises(checks.ConfigError, match="demo takes flags alone. Received: more"):
        demo.main(["more"])
    with pytest.raises(checks.ConfigError, match="seed must lie in"):
        demo.main(["--seed=-1"])
    assert job == []
