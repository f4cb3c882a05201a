"""Work directories are claimed once, and only our own files are ever deleted."""

import concurrent.futures

import pytest

from finetune_kit import checks
from finetune_kit.results import workdir


def used(path):
    """Returns a work directory that holds a run, with a file of the user's in it."""
    workdir.prepare(path)
    for name in ("model.keras", "report.json", "checkpoints/1/weights", "tensorboard/events"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("old")
    (path / "notes.txt").write_text("mine")
    return path


def test_new_and_empty_directories_are_taken(tmp_path) -> None:
    assert workdir.prepare(tmp_path / "a" / "b").is_dir()
    (tmp_path / "empty").mkdir()
    assert workdir.prepare(str(tmp_path / "empty")) == tmp_path / "empty"


def test_a_used_directory_is_refused(tmp_path) -> None:
    used(tmp_path / "run")
    with pytest.raises(checks.EnvironmentFault, match="must not hold another run.*--overwrite"):
        workdir.prepare(tmp_path / "run")
    assert (tmp_path / "run" / "model.keras").exists()


def test_a_run_that_only_just_began_is_refused_too(tmp_path) -> None:
    workdir.prepare(tmp_path / "run")
    with pytest.raises(checks.EnvironmentFault, match="must not hold another run"):
        workdir.prepare(tmp_path / "run")


def test_overwrite_deletes_ours_and_nothing_else(tmp_path) -> None:
    run = used(tmp_path / "run")
    workdir.prepare(run, overwrite=True)
    assert sorted(entry.name for entry in run.iterdir()) == [".finetune_kit", "notes.txt"]


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_files_of_somebody_else_are_never_touched(tmp_path, flags) -> None:
    (tmp_path / "model.keras").write_text("precious")
    with pytest.raises(checks.EnvironmentFault, match="which holds model.keras and no earlier run"):
        workdir.prepare(tmp_path, **flags)
    assert (tmp_path / "model.keras").read_text() == "precious"


def test_overwrite_removes_a_link_and_not_what_it_points_to(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "events").write_text("precious")
    run = workdir.prepare(tmp_path / "run")
    (run / "tensorboard").symlink_to(elsewhere)
    workdir.prepare(run, overwrite=True)
    assert not (run / "tensorboard").is_symlink()
    assert (elsewhere / "events").read_text() == "precious"


def test_resume_keeps_everything_and_accepts_a_new_directory(tmp_path) -> None:
    run = used(tmp_path / "run")
    workdir.prepare(run, resume=True)
    assert (run / "checkpoints" / "1" / "weights").read_text() == "old"
    assert workdir.prepare(tmp_path / "new", resume=True).is_dir()


def test_places_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(checks.EnvironmentFault, match="a place that can be written. Received"):
            workdir.prepare(path)
    with pytest.raises(checks.EnvironmentFault, match="a folder that can be written. Received"):
        workdir.next_numbered(tmp_path / "file" / "demo")


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
def test_a_look_says_what_a_claim_would_and_writes_nothing(tmp_path, flags) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "model.keras").write_text("precious")
    (tmp_path / "file").write_text("")
    places = {
        "new": True,
        "run": bool(flags),
        "theirs": False,
        "file": False,
        workdir.next_numbered(tmp_path / "demo").name: True,
    }
    used(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    for name, free in places.items():
        if free:
            workdir.refuse_used(tmp_path / name, **flags)
        else:
            with pytest.raises(checks.EnvironmentFault):
                workdir.refuse_used(tmp_path / name, **flags)
    assert sorted(tmp_path.rglob("*")) == before


def test_of_many_runs_at_once_one_gets_the_directory(tmp_path) -> None:
    def claim(_):
        try:
            return bool(workdir.prepare(tmp_path / "run"))
        except checks.EnvironmentFault:
            return False

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(32))) == 1


def test_numbers_go_up_and_leave_no_gap_filled(tmp_path) -> None:
    prefix = tmp_path / "runs" / "demo"
    assert workdir.next_numbered(prefix).name == "demo-1"
    (tmp_path / "runs" / "demo-7").mkdir()
    (tmp_path / "runs" / "demo-old").mkdir()
    assert workdir.next_numbered(str(prefix)).name == "demo-8"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = {path.name for path in pool.map(workdir.next_numbered, [prefix] * 16)}
    assert len(names) == 16


def test_a_reserved_directory_may_hold_data_and_is_taken_once(tmp_path) -> None:
    reserved = workdir.next_numbered(tmp_path / "demo")
    (reserved / "data").mkdir()
    (reserved / "data" / "image.png").write_text("pixels")
    workdir.prepare(reserved)
    assert (reserved / "data" / "image.png").exists()
    with pytest.raises(checks.EnvironmentFault, match="must not hold another run"):
        workdir.prepare(reserved)
