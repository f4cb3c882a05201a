"""Runs of a suite shared out to processes, each on cores of its own."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from apps import quiet
from finetune_kit import checks, cores

T = TypeVar("T")
R = TypeVar("R")


def shared(work: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[R]:
    """Yields what a function returns for every item, in the order in which the results come.

    Args:
        work: A function of a module, or `functools.partial` of one: other processes import it.
        items: Begun in this order.
        workers: Processes; with 1 nothing leaves this one. Where the system can bind processes to
            cores, each has an equal share, at least one, so that figures are of so many cores.

    Raises:
        EnvironmentFault: A process was killed.
        Exception: What `work` raises, once the runs that have begun are over.
    """
    if workers == 1:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    shares = context.Queue()
    for share in _shares(workers):
        shares.put(share)
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(shares,)
    ) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.BrokenExecutor as error:
            raise checks.EnvironmentFault(
                f"Runs need processes that nobody kills, and memory. Received: {error}"
            ) from error
        finally:
            # Interrupted: without this, the pool would go through all items that are left.
            pool.shutdown(wait=False, cancel_futures=True)


def _shares(workers: int) -> list[tuple[int, ...]]:
    """Returns the cores of each process, () where they cannot be told apart."""
    if not hasattr(os, "sched_getaffinity"):
        return [()] * workers
    known, each = sorted(os.sched_getaffinity(0)), max(1, cores.available() // workers)
    return [
        tuple(known[(number * each + place) % len(known)] for place in range(each))
        for number in range(workers)
    ]


def _begin(shares: Any) -> None:
    """Makes a process ready: quiet, and on its cores, by which TensorFlow counts its threads."""
    quiet.switch_on()
    share = shares.get()
    if share:
        os.sched_setaffinity(0, share)
