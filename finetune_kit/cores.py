"""How many processor cores this process may use, and how many a computation should."""

import contextlib
import os
from collections.abc import Iterator

# Multiplications of a matrix product below which threads cost more than they bring: they wait for
# each other in a busy loop, at every product, and a second busy process makes them wait for long
# (650 images of 256 features: 6.8 s with two threads beside other work, 0.5 s with one).
WORTH_THREADS = 3e8


@contextlib.contextmanager
def blas_threads(multiplications: float) -> Iterator[None]:
    """Keeps NumPy's and SciPy's linear algebra to one thread where products are small.

    Args:
        multiplications: Of a typical matrix product within the block.
    """
    if multiplications >= WORTH_THREADS:
        yield
        return
    import threadpoolctl  # scikit-learn brings it

    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


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
