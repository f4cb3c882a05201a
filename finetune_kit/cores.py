"""How many processor cores this process may use."""

import os


def available() -> int:
    """Returns the cores that the system lets this process run on, at least 1.

    Fewer than the machine has where a container, `taskset` or a batch system says so; threads
    beyond them only get in each other's way.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def described() -> str:
    """Returns the number of cores in words: `2 cores`."""
    count = available()
    return f"{count} core" if count == 1 else f"{count} cores"
