"""`--cache_dir`: where it is refused, how it reaches the images, what does not hang on it."""

import subprocess
import sys

import numpy as np
import pytest

from finetune_kit import checks, data
from recipes import head_only, jobs, loading, selective_joint
from tests.recipes import coloured


@pytest.fixture
def photos(tmp_path):
    return str(coloured.write(tmp_path / "squares", per_class=8))


def config(photos, tmp_path, **values):
    return head_only.Config(data=photos, workdir=str(tmp_path / "run"), image_size=32, **values)


def test_a_file_is_refused_before_tensorflow_starts(photos, tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    script = (
        "import sys\nfrom recipes import head_only\n"
        f"try: head_only.Config(data={photos!r}, workdir='run', cache_dir={str(file)!r})\n"
        "except ValueError as error: print(error)\n"
        "print(*{'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    said, loaded = done.stdout.splitlines()
    assert said == f"--cache_dir needs a folder. Received: cache_dir='{file}', which is none."
    assert loaded == ""
    with pytest.raises(checks.ConfigError):
        config(photos, tmp_path, cache_dir=str(file))


@pytest.mark.parametrize("name", ["", "new", "squares"])
def test_a_folder_that_is_there_or_will_be_is_taken(photos, tmp_path, name) -> None:
    given = str(tmp_path / name) if name else ""
    assert config(photos, tmp_path, cache_dir=given).cache_dir == given


def test_it_reaches_the_images_of_every_recipe(photos, tmp_path) -> None:
    directory = tmp_path / "cache"
    loaded = loading.load(config(photos, tmp_path, cache_mb=0, cache_dir=str(directory)))
    (path,) = directory.iterdir()
    plain = data.load(photos, image_size=32)
    rows = np.fromfile(path, np.uint8, count=24 * 32 * 32 * 3).reshape(24, 32, 32, 3)
    everything = np.concatenate([part.indices for part in plain.splits().values()])
    np.testing.assert_array_equal(
        rows[everything],
        np.concatenate([part.store.batch(part.indices) for part in plain.splits().values()]),
    )
    assert loaded.images.fingerprint == plain.fingerprint


def test_it_reaches_the_source_images(photos, tmp_path, monkeypatch) -> None:
    given = {}
    monkeypatch.setattr(data, "load_pool", lambda source, **options: given.update(options))
    settings = {"data": photos, "source_data": photos, "workdir": str(tmp_path / "run")}
    selective_joint._load(
        selective_joint.Config(**settings, cache_mb=3, cache_dir=str(tmp_path / "cache"))
    )
    assert (given["cache_mb"], given["cache_dir"]) == (3, str(tmp_path / "cache"))


def test_an_interrupted_run_goes_on_with_another(photos, tmp_path) -> None:
    images = data.load(photos, image_size=32)
    one, other, third = (
        jobs._identity("head_only", config(photos, tmp_path, **values), images)
        for values in ({}, {"cache_dir": str(tmp_path / "cache"), "cache_mb": 0}, {"seed": 1})
    )
    assert one == other != third
