"""Work that is shared out: by functions of Python's own, which other processes can import."""

import os

import pytest

from apps.benchmarks import sharing
from finetune_kit import checks


def test_one_worker_is_this_process_and_keeps_the_order() -> None:
    assert list(sharing.shared(lambda value: value + 1, [3, 1, 2], 1)) == [4, 2, 3]


def test_several_workers_are_other_processes_on_cores_of_their_own() -> None:
    assert sorted(sharing.shared(abs, [-3, -1, -2], 2)) == [1, 2, 3]
    own = os.sched_getaffinity(0)
    seen = list(sharing.shared(os.sched_getaffinity, [0] * 6, 2))
    assert len(seen) == 6 and all(one <= own for one in seen)
    assert all(len(one) == max(1, len(own) // 2) for one in seen)
    assert os.sched_getaffinity(0) == own


def test_each_worker_has_an_equal_share_of_the_cores(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7, 9})
    assert sharing._shares(2) == [(4, 5), (6, 7)]
    assert sharing._shares(5) == [(4,), (5,), (6,), (7,), (9,)]
    # More than there are cores.
    assert [len(share) for share in sharing._shares(7)] == [1] * 7
    monkeypatch.delattr(os, "sched_getaffinity")
    assert sharing._shares(2) == [(), ()]


def test_what_a_worker_raises_is_raised_here_and_a_killed_one_is_an_error_of_one_line() -> None:
    with pytest.raises(ValueError, match="'x'"):
        list(sharing.shared(int, ["1", "x", "2"], 2))
    with pytest.raises(checks.EnvironmentFault, match="processes that nobody kills, and memory"):
        list(sharing.shared(os._exit, [1, 1], 2))
