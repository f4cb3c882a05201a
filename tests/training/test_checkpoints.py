"""Generations are whole or they do not count."""

import errno
import json
import os
import pathlib

import numpy as np
import pytest

from finetune_kit import checks
from finetune_kit.training import checkpoints


@pytest.fixture
def store(tmp_path):
    return checkpoints.CheckpointStore(tmp_path / "deep" / "checkpoints")


def save(store, *epochs):
    for epoch in epochs:
        store.save({"epoch": epoch, "loss": [0.5, None]}, {"w": np.full((2, 3), float(epoch))})


def names(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_what_was_saved_comes_back(store) -> None:
    arrays = {
        "conv/kernel": np.arange(6, dtype="float32").reshape(2, 3),
        "optimizer|conv/kernel": np.float64(3.5),
        "seed": np.array([1, 2**31], dtype="uint32"),
        "file": np.zeros(0),
        "allow_pickle": np.array([True]),
    }
    state = {"phase": 1, "history": [{"loss": 0.25, "val_loss": None}], "text": "é"}
    store.save(state, arrays)
    found = store.latest()
    assert found.state == state
    assert found.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def test_nothing_saved_is_nothing(store) -> None:
    assert store.latest() is None
    assert not store.folder.exists()


def test_the_newest_counts_and_old_ones_are_removed(store) -> None:
    save(store, *range(1, 13))
    assert store.latest().state["epoch"] == 12
    assert names(store) == ["generation-11", "generation-12"]
    again = checkpoints.CheckpointStore(str(store.folder))
    save(again, 13)
    assert again.latest().arrays["w"][0, 0] == 13.0
    assert names(store) == ["generation-12", "generation-13"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, pathlib.Path.unlink])
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "arrays.npz"])
def test_a_damaged_generation_falls_back_to_the_one_before(store, name, damage) -> None:
    save(store, 1, 2)
    damage(store.folder / "generation-2" / name)
    found = store.latest()
    assert found.state["epoch"] == 1
    assert found.arrays["w"][0, 0] == 1.0
    save(store, 3)
    assert store.latest().state["epoch"] == 3


@pytest.mark.parametrize("manifest", ["{}", "null", "[]", '{"state.json": 1}'])
def test_a_manifest_that_vouches_for_nothing_does_not_count(store, manifest) -> None:
    save(store, 1, 2)
    (store.folder / "generation-2" / "manifest.json").write_text(manifest)
    assert store.latest().state["epoch"] == 1


def test_where_all_are_damaged_there_is_none(store) -> None:
    save(store, 1, 2)
    for number in (1, 2):
        cut(store.folder / f"generation-{number}" / "arrays.npz")
    assert store.latest() is None


def test_files_of_others_are_left_alone(store) -> None:
    save(store, 1)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "generation-best").mkdir()
    save(store, 2, 3)
    assert names(store) == ["generation-2", "generation-3", "generation-best", "notes.txt"]


def test_a_full_disk_leaves_the_older_ones(store, monkeypatch) -> None:
    save(store, 1, 2)

    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((np, "savez"), (os, "fsync"), (os, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(
                checks.EnvironmentFault,
                match="needs space and permission in .* Received: No space left.*--resume",
            ):
                save(store, 3)
        assert names(store) == ["generation-1", "generation-2"], name
        assert store.latest().state["epoch"] == 2
    save(store, 3)
    assert store.latest().state["epoch"] == 3


def test_a_place_that_cannot_be_written_is_an_environment_fault(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.EnvironmentFault, match="needs space and permission in .*file"):
        save(checkpoints.CheckpointStore(tmp_path / "file"), 1)


def test_what_a_killed_run_left_half_written_is_no_generation_and_goes(store) -> None:
    save(store, 1)
    # Process numbers come again in containers.
    for number in (os.getpid(), 7):
        torn = store.folder / f".writing-2-{number}"
        torn.mkdir()
        (torn / "state.json").write_text('{"epoch": 2}')
    assert store.latest().state["epoch"] == 1
    save(store, 2)
    assert names(store) == ["generation-1", "generation-2"]


def test_a_generation_appears_under_its_name_only_when_it_is_whole(store, monkeypatch) -> None:
    seen = []
    replace = os.replace

    def watching(source, target):
        seen.append((sorted(os.listdir(source)), os.path.exists(target)))
        assert json.loads((source / "manifest.json").read_text()).keys() == {
            "state.json",
            "arrays.npz",
        }
        replace(source, target)

    monkeypatch.setattr(os, "replace", watching)
    save(store, 1)
    assert seen == [(["arrays.npz", "manifest.json", "state.json"], False)]
