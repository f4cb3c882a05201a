"""Importing the package costs no TensorFlow, nor does anything that reads images."""

import subprocess
import sys

import pytest

from finetune_kit import data


def run(code):
    """Returns what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_reading_images_needs_no_tensorflow(tmp_path) -> None:
    code = f"""
import sys
from finetune_kit import data
first = {{'tensorflow', 'keras', 'numpy'}} & {{*sys.modules}}
for name in ('Arrays', 'Audit', 'BadFile', 'Fold', 'ImageData', 'LEVELS', 'Split', 'class_weights'):
    getattr(data, name)
try:
    data.check_source({str(tmp_path)!r})
except ValueError:
    pass
import numpy as np
pictures = np.arange(20 * 12, dtype=np.uint8).reshape(20, 2, 6)
data.load(data.Arrays(pictures, np.arange(20) % 2), image_size=4)
assert data.decode.FORMATS
print(first, {{'tensorflow', 'tensorflow_datasets', 'keras'}} & {{*sys.modules}})
"""
    assert run(code) == "set() set()"


@pytest.mark.parametrize("name", data.__all__)
def test_every_public_name_is_there(name) -> None:
    assert getattr(data, name) is not None
    assert name in dir(data)
