"""Slow calls (files, web) made ahead of their use, in few threads, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

HELD_BYTES = 32 << 20  # results that wait for their use; beyond it nothing new is begun


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, threads: int, size: Callable[[R], int]
) -> Iterator[R]:
    """`work(item)` of each item, in the order of the items, `threads` of them at a time.

    Nothing new is begun while results of more than HELD_BYTES (by `size`) wait, so that what is held is at most
    that and one result a thread. An exception of `work` is raised at its item's turn.
    """
    if threads <= 1:
        yield from map(work, items)
        return
    pool = _pool(threads)
    waiting: deque[Future[R]] = deque()
    rest = iter(items)
    more = True
    try:
        while True:
            while (
                more and len(waiting) < 2 * threads and _bytes_waiting(waiting, size) < HELD_BYTES
            ):
                try:
                    item = next(rest)
                except StopIteration:
                    more = False
                else:
                    waiting.append(pool.submit(work, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _bytes_waiting(waiting: Iterable[Future[R]], size: Callable[[R], int]) -> int:
    return sum(
        size(future.result())
        for future in waiting
        if future.done() and not future.cancelled() and future.exception() is None
    )


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    """One a process, so that its threads keep their connections from batch to batch."""
    return ThreadPoolExecutor(threads, thread_name_prefix="read")
