"""Checkpoints are rare beside what they cost to write."""

import pytest

from finetune_kit.training import checkpoints, journal


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose entry is the time."""
    now = [100.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("took", "next_due"), [(0.0, 15.0), (0.3, 15.0), (3.0, 150.0)])
def test_a_checkpoint_that_takes_long_is_written_more_rarely(
    tmp_path, monkeypatch, clock, took, next_due
) -> None:
    store = checkpoints.CheckpointStore(tmp_path)

    def save(state, arrays):
        clock[0] += took

    monkeypatch.setattr(store, "save", save)
    diary = journal.Journal(store, {})
    clock[0] += 14.9
    assert not diary.due
    clock[0] += 0.2
    assert diary.due
    diary.write(journal.Standing((), (), (), (), {}))
    clock[0] += next_due - 0.1
    assert not diary.due
    clock[0] += 0.2
    assert diary.due


def test_without_a_store_nothing_is_due(clock) -> None:
    diary = journal.Journal(None, {})
    clock[0] += 1e6
    assert not diary.due
