"""Bodies of the Python table functions behind SQL `vector_search`; an index is opened once per Python worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from udfs.errors import IndexDataError
from udfs.search import open_index
from udfs.strings import printable

FACTS_OUTPUT = "rows bigint, last_vector_id bigint"
K_FACTOR = 2
HITS_OUTPUT = "id string, vector_id bigint, score double"


class IndexFacts:
    """(root, model_id) → one row: rows in the index, and its largest vector_id, -1 where it is empty."""

    def eval(self, root: str, model_id: str) -> Iterator[tuple[int, int]]:
        """Raises IndexDataError for damaged files or an index of another model."""
        searcher = open_index(root, model_id=model_id)
        yield searcher.rows, searcher.last_vector_id


class IndexHits:
    """(query, k, root, model_id) → the k rows of the index with the largest inner products, best first."""

    def eval(
        self, query: Any, k: int, root: str, model_id: str
    ) -> Iterator[tuple[str, int, float]]:
        """`query` is a unit vector of the index's model. Raises IndexDataError where it cannot be."""
        if query is None or any(value is None for value in query):
            raise IndexDataError("vector_search: the query is NULL or has NULL in it")
        searcher = open_index(root, model_id=model_id)
        # More rows are asked for than are wanted, in case some are gone: a few more than those are enough candidates.
        found = searcher.search(np.array([query], dtype=np.float32), k=k, k_factor=K_FACTOR)
        for row_id, vector_id, score in zip(found.ids[0], found.I[0], found.D[0], strict=True):
            yield printable(row_id), int(vector_id), float(score)
