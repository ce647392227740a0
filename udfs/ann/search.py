"""Search over all shards of an index: rotate and assign queries once, search, merge, re-rank exactly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udfs.ann.candidates import CandidateSource
from udfs.ann.exact import MISSING, top_order
from udfs.ann.files import verified_path
from udfs.ann.manifest import Manifest
from udfs.ann.opened import OpenShard, ShardFiles, mapping_flags, open_shard, read_faiss
from udfs.ann.plan import inner_index
from udfs.ann.vectors import Floats, Ints, unit_vectors
from udfs.errors import IndexDataError

MIN_CANDIDATES = 200  # re-ranked even for small k, unless k_factor is given: k = 1 needs them most
BLOCK_CANDIDATES = 4_000_000  # (query, candidate) pairs held at a time


@dataclass(frozen=True)
class SearchResult:
    """D float32 (q, n) inner products, best first; I int64 (q, n) vector_ids; ids (q, n) row ids.

    n = min(k, rows of the index): never fewer, and never padded.
    """

    D: Floats
    I: Ints
    ids: NDArray[np.object_]


class Searcher:
    """One opened index. Safe to share between threads; opened once per process."""

    def __init__(
        self, manifest: Manifest, quantizer: Any, shards: list[OpenShard], *, threads: int
    ) -> None:
        self.manifest = manifest
        self._shards = [shard for shard in shards if shard.rows]
        self._source = CandidateSource(quantizer, self._shards)
        self._starts = np.array([shard.first for shard in self._shards], dtype=np.int64)
        self._threads = threads

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        cache_dir: str | None = None,
        model_id: str | None = None,
        threads: int = 1,
    ) -> Searcher:
        """Opens the index in folder `root` (path or URI); every file is checked before it is read.

        `cache_dir` keeps local copies of a remote index; `model_id` is the model the queries come from.
        Raises IndexDataError for missing or damaged files, or an index of another model.
        """
        faiss.omp_set_num_threads(threads)
        root = str(root)
        manifest = Manifest.read(root)
        built_for = manifest.spec.model_id
        if model_id is not None and model_id != built_for:
            raise IndexDataError(
                f"queries of model {model_id} cannot search index {manifest.spec.index_id} of model "
                f"{built_for}; embed the queries with that model or search an index of this one"
            )
        path = verified_path(root, manifest.quantizer, cache_dir=cache_dir)
        quantizer = read_faiss(path, manifest.quantizer, flags=0)
        flags = mapping_flags(inner_index(quantizer))
        shards, first = [], 0
        for record in manifest.shards:
            files = ShardFiles(record, root, cache_dir)
            shards.append(open_shard(files, dim=manifest.spec.dim, first=first, flags=flags))
            first += record.rows
        return cls(manifest, quantizer, shards, threads=threads)

    @property
    def rows(self) -> int:
        """Vectors in the index."""
        return self.manifest.rows

    @cached_property
    def last_vector_id(self) -> int:
        """The largest vector_id in the index, -1 where it is empty. Reads all of them once."""
        return max((int(shard.vector_ids.max()) for shard in self._shards), default=-1)

    def search(
        self, xq: Floats, *, k: int, nprobe: int | None = None, k_factor: int | None = None
    ) -> SearchResult:
        """The k best rows for each query.

        `xq` float32 (q, dim), unit vectors. `nprobe` lists are read (default: the plan's) and
        k · `k_factor` candidates re-ranked by their exact inner product in float16 (default: the plan's,
        and at least 200). Where the lists read hold fewer than k rows, nprobe is doubled until they do.
        Raises IndexDataError for another dimension, NaN, or queries not of norm 1.
        """
        plan, spec = self.manifest.spec.plan, self.manifest.spec
        if min(k, 1 if nprobe is None else nprobe, 1 if k_factor is None else k_factor) < 1:
            raise ValueError(f"k, nprobe and k_factor start at 1; got {k}, {nprobe} and {k_factor}")
        xq = unit_vectors(xq, spec.dim, what=f"queries to index {spec.index_id}")
        k = min(k, self.rows)
        candidates = k
        if plan.refine != "none":
            candidates = k * k_factor if k_factor else max(k * plan.k_factor, MIN_CANDIDATES)
        candidates = min(candidates, self.rows)
        faiss.omp_set_num_threads(self._threads)
        D = np.empty((len(xq), k), dtype=np.float32)
        rows = np.empty((len(xq), k), dtype=np.int64)
        step = max(1, BLOCK_CANDIDATES // max(1, candidates * len(self._shards)))
        for start in range(0, len(xq) if k else 0, step):
            at = slice(start, start + step)
            D[at], rows[at] = self._search_block(xq[at], k, candidates, nprobe or plan.nprobe)
        I, ids = self._names(rows)
        return SearchResult(D, I, ids)

    def _search_block(
        self, xq: Floats, k: int, candidates: int, nprobe: int
    ) -> tuple[Floats, Ints]:
        """Scores and global rows (q, k)."""
        plan = self.manifest.spec.plan
        nprobe = min(nprobe, max(plan.nlist, 1))
        xr = self._source.rotate(xq)
        D, rows = self._source.candidates(xr, candidates, nprobe)
        while (short := np.flatnonzero((rows != MISSING).sum(axis=1) < k)).size:
            if nprobe >= plan.nlist:
                raise IndexDataError(
                    f"{plan.factory} found fewer than {k} of {self.rows} rows for {short.size} queries; "
                    "search for fewer, or build an index with inverted lists (IVF) or Flat"
                )
            nprobe = min(2 * nprobe, plan.nlist)
            D[short], rows[short] = self._source.candidates(xr[short], candidates, nprobe)
        if plan.refine == "fp16":
            D, rows = self._rerank(xq, rows)
        elif plan.metric == "l2":
            D = np.float32(1) - D / np.float32(2)  # squared distance of unit vectors
        vector_ids = np.where(rows == MISSING, MISSING, self._vector_ids(rows))
        order = top_order(D, vector_ids, k, keep_max=True)
        return np.take_along_axis(D, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _rerank(self, xq: Floats, rows: Ints) -> tuple[Floats, Ints]:
        """Exact inner products of the candidates, in ascending order of row."""
        rows = np.sort(rows, axis=1)
        D = np.full(rows.shape, -np.inf, dtype=np.float32)
        for q, x in enumerate(xq):
            bounds = [*np.searchsorted(rows[q], self._starts), rows.shape[1]]
            for shard, low, high in zip(self._shards, bounds[:-1], bounds[1:], strict=True):
                if low < high:
                    D[q, low:high] = shard.gather(rows[q, low:high] - shard.first) @ x
        return D, rows

    def _vector_ids(self, rows: Ints) -> Ints:
        found = np.full(rows.shape, MISSING, dtype=np.int64)
        for shard in self._shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            found[at] = shard.vector_ids[rows[at] - shard.first]
        return found

    def _names(self, rows: Ints) -> tuple[Ints, NDArray[np.object_]]:
        ids = np.empty(rows.shape, dtype=object)
        for shard in self._shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            ids[at] = shard.row_names(rows[at] - shard.first)
        return self._vector_ids(rows), ids
