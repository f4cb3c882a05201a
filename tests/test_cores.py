"""Cores are those that the process may use, not those that there are."""

import os
import subprocess
import sys

import pytest

from finetune_kit import cores

SAYS = "from finetune_kit import cores; print(cores.available())"


def test_cores_are_at_least_one_and_no_more_than_there_are() -> None:
    assert 1 <= cores.available() <= os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    bound = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {SAYS}"
    found = subprocess.run([sys.executable, "-c", bound], capture_output=True, check=True)
    assert found.stdout.strip() == b"1"


def test_without_affinity_all_cores_count(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert cores.available() == 12 and cores.described() == "12 cores"
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores.available() == 1 and cores.described() == "1 core"
