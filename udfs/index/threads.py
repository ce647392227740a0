"""The OpenMP threads that faiss may use, for a while: the process, or the notebook, may be somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import faiss


@contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Pins faiss to `threads` OpenMP threads: Spark's workers and forks need it set, not guessed.

    The number is one of the calling thread, so what others do meanwhile is not disturbed.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
