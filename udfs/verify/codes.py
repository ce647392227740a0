"""What a faiss index is and keeps: its shape, its trained parts, the local rows in its lists, and its codes' distances."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udfs.index.plan import inner_index, transforms
from udfs.index.vectors import Floats, Ints

PROBES = 4  # lists that a row is looked for in: that of its vector, and the next where two are equally near
_FLAT = (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2)


def describe(index: Any) -> str:
    """The shape of an index in words that are equal where the shapes are."""
    inner = inner_index(index)
    parts = [f"{type(t).__name__} {t.d_in} to {t.d_out}" for t in transforms(index)]
    name = "IndexFlat" if type(inner) in _FLAT else type(inner).__name__
    metric = "ip" if inner.metric_type == faiss.METRIC_INNER_PRODUCT else "l2"
    bytes_of_code = f", {inner.code_size} bytes a code" if hasattr(inner, "code_size") else ""
    lists = f", {inner.nlist} lists" if isinstance(inner, faiss.IndexIVF) else ""
    return ", ".join([*parts, f"{name} of {inner.d} dimensions{lists}{bytes_of_code}, {metric}"])


def trained_parts(index: Any) -> dict[str, str]:
    """sha-256 of what training gave an index: rotations, centroids, codebooks."""
    inner = inner_index(index)
    parts: dict[str, NDArray[Any]] = {}
    for number, transform in enumerate(transforms(index)):
        for name in ("A", "b"):
            parts[f"rotation {number} ({name})"] = faiss.vector_to_array(getattr(transform, name))
    if isinstance(inner, faiss.IndexIVF):
        parts["centroids"] = faiss.downcast_index(inner.quantizer).reconstruct_n(0, inner.nlist)
    if hasattr(inner, "pq"):
        parts["codebooks"] = faiss.vector_to_array(inner.pq.centroids)
    if hasattr(inner, "sq"):
        parts["scales"] = faiss.vector_to_array(inner.sq.trained)
    return {name: hashlib.sha256(part.tobytes()).hexdigest() for name, part in parts.items()}


def list_rows(index: Any) -> Ints | None:
    """The local rows in all inverted lists, in any order; None where there are no lists."""
    inner = inner_index(index)
    if not isinstance(inner, faiss.IndexIVF):
        return None
    lists: Any = inner.invlists
    found = [np.empty(0, np.int64)]
    for number in range(inner.nlist):
        if rows := lists.list_size(number):
            found.append(faiss.rev_swig_ptr(lists.get_ids(number), rows).copy())
    return np.concatenate(found)


def kept_distances(index: Any, rows: Ints, x: Floats) -> Floats:
    """Squared distances (n,) of x float32 (n, dim) from what the index keeps of its local rows int64 (n,).

    Within what the rotation leaves of a vector. inf where a row is not in a list of its vector. Of inverted lists the
    search tells it, as faiss cannot decode the rows of all of them; by inner product, for vectors of length 1.
    """
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIVF):
        found = [
            _list_distance(index, int(row), one[None]) for row, one in zip(rows, x, strict=True)
        ]
        return np.array(found, np.float32)
    turned = functools.reduce(lambda given, t: t.apply(given), transforms(index), x)
    rest = turned - inner.reconstruct_batch(np.ascontiguousarray(rows))
    distances: Floats = np.einsum("ij,ij->i", rest, rest)
    return distances


def _list_distance(index: Any, row: int, x: Floats) -> float:
    inner = inner_index(index)
    only = faiss.IDSelectorRange(row, row + 1)
    of_lists: Any = faiss.SearchParametersIVF  # faiss's stubs know no keywords
    params = of_lists(nprobe=min(PROBES, inner.nlist), sel=only)
    if isinstance(index, faiss.IndexPreTransform):
        of_rotation: Any = faiss.SearchParametersPreTransform
        params = of_rotation(index_params=params)
    distances, rows = index.search(x, 1, params=params)
    if rows[0, 0] != row:
        return float("inf")
    distance = float(distances[0, 0])
    return distance if inner.metric_type == faiss.METRIC_L2 else 2 - 2 * distance
