"""Bodies of the Python table functions behind SQL `vector_search`; an index is opened once per Python worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from udfs.errors import GmeLakeError
from udfs.search.batches import open_index
from udfs.specs import SearchOptions
from udfs.strings import printable

K_FACTOR = 2
FACTS_OUTPUT = "rows bigint, last_vector_id bigint, error string"
HITS_OUTPUT = "id string, vector_id bigint, score double, error string"
# An error is a value, which the SQL around them raises: Spark shows one of a Python worker in 200 lines of Java.


class IndexFacts:
    """(root, model_id, manifest_sha256) → one row: rows in the index, and its largest vector_id, -1 where it is
    empty; or an error.
    """

    def eval(
        self, root: str | None, model_id: str | None, manifest_sha256: str | None = None
    ) -> Iterator[tuple[int, int, str | None]]:
        """The error says that no index is released, that files are damaged, or that the index is of another model."""
        if root is None or model_id is None:
            yield 0, -1, "no index is released; run gme-lake release promote"
            return
        try:
            index = open_index(root, model_id=model_id, manifest_sha256=manifest_sha256)
        except GmeLakeError as error:
            yield 0, -1, str(error)
            return
        yield index.rows, index.last_vector_id, None


class IndexHits:
    """(query, k, root, model_id, manifest_sha256) → the k rows of the index with the largest inner products, best
    first; or an error.
    """

    def eval(
        self,
        query: Any,
        k: int,
        root: str,
        model_id: str,
        manifest_sha256: str | None = None,
    ) -> Iterator[tuple[str | None, int | None, float | None, str | None]]:
        """`query` is a unit vector of the index's model; without one there are no rows."""
        if query is None:
            return
        if any(value is None for value in query):
            yield None, None, None, "the query has NULL in it"
            return
        try:
            index = open_index(root, model_id=model_id, manifest_sha256=manifest_sha256)
            # More rows are asked for than wanted, in case some are gone: a few more than those are enough candidates.
            xq = np.array([query], dtype=np.float32)
            found = index.search(xq, SearchOptions(k, k_factor=K_FACTOR))
        except GmeLakeError as error:
            yield None, None, None, str(error)
            return
        for row_id, vector_id, score in zip(found.ids[0], found.I[0], found.D[0], strict=True):
            yield printable(row_id), int(vector_id), float(score), None
