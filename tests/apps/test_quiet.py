"""What TensorFlow writes while it is loaded is not shown, unless loading fails."""

import os
import pathlib
import subprocess
import sys

import pytest

from apps import quiet

ROOT = pathlib.Path(__file__).resolve().parents[2]
TENSORFLOW = """
import os, sys
os.write(2, b"chatter\\n")
print("noise", file=sys.stderr)
level = os.environ["TF_CPP_MIN_LOG_LEVEL"]
"""
PROGRAM = """
import sys
from apps import quiet
quiet.switch_on()
quiet.switch_on()
import tensorflow
from importlib import resources
print(tensorflow.level, len(sys.meta_path), resources.files("tensorflow") / "x")
print("after", file=sys.stderr)
"""


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads a stand-in for TensorFlow in a process of its own."""

    def run(text, **environment):
        (tmp_path / "tensorflow").mkdir()
        (tmp_path / "tensorflow" / "__init__.py").write_text(text)
        kept = {k: v for k, v in os.environ.items() if k not in quiet.SETTINGS}
        paths = os.pathsep.join([str(tmp_path), str(ROOT)])
        return subprocess.run(
            [sys.executable, "-c", PROGRAM], env=kept | {"PYTHONPATH": paths} | environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_what_is_written_while_loading_is_not_shown(load, tmp_path) -> None:
    found = load(TENSORFLOW)
    assert (found.returncode, found.stderr) == (0, "after\n")
    level, finders, resource = found.stdout.split()
    assert level == "3" and resource == str(tmp_path / "tensorflow" / "x")
    plain = [sys.executable, "-c", "import sys; print(len(sys.meta_path))"]
    before = subprocess.run(plain, capture_output=True, text=True, timeout=60, check=True).stdout
    assert int(finders) == int(before) + 1


def test_what_the_user_has_set_stays(load) -> None:
    assert load(TENSORFLOW, TF_CPP_MIN_LOG_LEVEL="0").stdout.split()[0] == "0"


def test_when_loading_fails_everything_is_shown(load) -> None:
    found = load(TENSORFLOW + "raise ImportError('no such library')")
    assert found.returncode == 1
    assert found.stderr.startswith("chatter\nnoise\n")
    assert found.stderr.endswith("ImportError: no such library\n")


def test_a_process_without_tensorflow_is_none_the_worse(monkeypatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert quiet._Finder().find_spec("tensorflow", [], None) is None
    assert quiet._Finder().find_spec("json", None, None) is None


def test_the_warnings_of_retracing_are_not_shown() -> None:
    program = (
        "from apps import quiet; quiet.switch_on(); import keras, numpy\n"
        "for i in range(8):\n"
        "    x = keras.Input((2,)); model = keras.Model(x, keras.layers.Dense(1)(x))\n"
        "    model.predict(numpy.zeros((2, 2)), verbose=0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "retracing" not in done.stderr


COUNTER = """
import gc
made = [[] for _ in range(10_000)]
enabled, before = gc.isenabled(), gc.get_freeze_count()
"""
COUNTED = """
import atexit, gc, sys
at_end = lambda: print(gc.get_freeze_count() > len(late), file=sys.stderr)
atexit.register(at_end)  # the last to run: they run in the reverse order
from apps import quiet
quiet.switch_on()
import tensorflow
print(tensorflow.enabled, gc.isenabled(), gc.get_freeze_count() - tensorflow.before >= 10_000)
late = [[] for _ in range(10_000)]
gc.unfreeze()
"""


@pytest.mark.parametrize(("first", "after"), [("", "True"), ("import gc; gc.disable()", "False")])
def test_the_collector_leaves_tensorflow_alone(tmp_path, first, after) -> None:
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(COUNTER)
    found = subprocess.run(
        [sys.executable, "-c", first + COUNTED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["False", after, "True"]
    assert found.stderr.split() == ["True"]
