"""Search over all shards of an index: rotate and assign queries once, search, merge, re-rank exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from udfs.errors import IndexDataError
from udfs.index.files import fetch_verified
from udfs.index.manifest import Manifest
from udfs.index.plan import inner_index
from udfs.index.threads import faiss_threads
from udfs.index.vectors import Floats, Ints, clamp, unit_vectors
from udfs.search.candidates import CandidateSource
from udfs.search.exact import MISSING, top_order
from udfs.search.opened import (
    OpenShard,
    ShardFiles,
    mapping_flags,
    open_shard,
    read_faiss,
    read_gone,
)
from udfs.search.within import EXACT_ROWS, RowSet, exact_within, widen

MIN_CANDIDATES = 200  # re-ranked even for small k, unless k_factor is given: k = 1 needs them most
FEW_SHARE = 0.75  # of the rows; where more may be found, inverted lists miss none and cost a tenth
BLOCK_CANDIDATES = 4_000_000  # (query, candidate) pairs held at a time


@dataclass(frozen=True)
class SearchResult:
    """D float32 (q, n) inner products, best first; I int64 (q, n) vector_ids; ids (q, n) row ids.

    n = min(k, rows that may be found): never fewer, and never padded.
    """

    D: Floats
    I: Ints
    ids: NDArray[np.object_]


@dataclass(frozen=True)
class _Asked:
    """What one block of queries is searched for."""

    xq: Floats
    k: int
    candidates: int
    nprobe: int
    within: RowSet | None


class Searcher:
    """One opened index. Safe to share between threads; opened once per process."""

    def __init__(
        self, manifest: Manifest, quantizer: Any, shards: list[OpenShard], *, threads: int
    ) -> None:
        self.manifest = manifest
        self.shards = [shard for shard in shards if shard.rows]
        self.alive = RowSet.select(self.shards)  # None: all rows are
        held = sum(shard.rows for shard in self.shards)
        self.rows = held if self.alive is None else self.alive.rows
        self._source = CandidateSource(quantizer, self.shards)
        self._starts = np.array([shard.first for shard in self.shards], dtype=np.int64)
        self._threads = threads

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        cache_dir: str | None = None,
        model_id: str | None = None,
        threads: int = 1,
        shards: Sequence[int] | None = None,
        manifest_sha256: str | None = None,
    ) -> Searcher:
        """Opens the index in folder `root` (path or URI); every file is checked before it is read.

        `cache_dir` keeps local copies of a remote index; `model_id` is the model the queries come from; `shards` are
        the numbers of those to open, as `Manifest.all_shards` has them (default: all); `manifest_sha256` is what the
        manifest's file must be, as `indexes` says.
        Raises IndexDataError for missing or damaged files, or an index of another model.
        """
        root = str(root)
        manifest = Manifest.read(root, sha256=manifest_sha256)
        built_for = manifest.spec.model_id
        if model_id is not None and model_id != built_for:
            raise IndexDataError(
                f"queries of model {model_id} cannot search index {manifest.spec.index_id} of model "
                f"{built_for}; embed the queries with that model or search an index of this one"
            )
        path = fetch_verified(manifest.base_root(root), manifest.quantizer, cache_dir=cache_dir)
        quantizer = read_faiss(path, manifest.quantizer, flags=0)
        flags = mapping_flags(inner_index(quantizer))
        gone = read_gone(manifest, root, cache_dir=cache_dir)
        opened, first = [], 0
        for number, (folder, record) in enumerate(manifest.all_shards(root)):
            if shards is not None and number not in shards:
                continue
            files, dim = ShardFiles(record, folder, cache_dir), manifest.spec.dim
            opened.append(open_shard(files, dim=dim, first=first, flags=flags, gone=gone))
            first += record.rows
        return cls(manifest, quantizer, opened, threads=threads)

    @cached_property
    def last_vector_id(self) -> int:
        """The largest vector_id in the index, -1 where it is empty. Reads all of them once."""
        return max((int(shard.vector_ids.max()) for shard in self.shards), default=-1)

    def search(
        self,
        xq: Floats,
        *,
        k: int,
        nprobe: int | None = None,
        k_factor: int | None = None,
        within: RowSet | None = None,
    ) -> SearchResult:
        """The k best rows for each query, of those `within` where it is given.

        `xq` float32 (q, dim), unit vectors. `nprobe` lists are read (default: the plan's) and
        k · `k_factor` candidates re-ranked by their exact inner product (default: the plan's, and at least 200), to
        within SCORE_TOLERANCE and never beyond 1; where the plan keeps no vectors for that, scores are of the codes. Where the lists read hold fewer than k rows, nprobe is doubled until they do. The fewer
        rows are `within`, the more lists are read, and nprobe is doubled until they hold all candidates. Up to 20,000
        rows, unless they are most of the index, and any number where there are no inverted lists, are searched exactly.
        Raises IndexDataError for another dimension, NaN, or queries not of norm 1.
        """
        spec = self.manifest.spec
        if min(k, 1 if nprobe is None else nprobe, 1 if k_factor is None else k_factor) < 1:
            raise ValueError(f"k, nprobe and k_factor start at 1; got {k}, {nprobe} and {k_factor}")
        xq = unit_vectors(xq, spec.dim, what=f"queries to index {spec.index_id}")
        with faiss_threads(self._threads):
            return self._search(xq, k=k, nprobe=nprobe, k_factor=k_factor, within=within)

    def _search(
        self, xq: Floats, *, k: int, nprobe: int | None, k_factor: int | None, within: RowSet | None
    ) -> SearchResult:
        plan = self.manifest.spec.plan
        within = self.alive if within is None else within
        rows = self.rows if within is None else within.rows
        k = min(k, rows)
        candidates = min(self.candidates(k, k_factor), rows)
        nprobe = nprobe or plan.nprobe
        few = rows <= EXACT_ROWS and rows < FEW_SHARE * self.rows
        if within is not None and (few or not self._source.has_lists):
            if not self._source.has_lists or plan.refine == "fp16":
                D, found = exact_within(xq, self.shards, within, k)
                return SearchResult(D, *self._names(found))
            nprobe = plan.nlist  # no vectors to look up by row: all codes are read instead
        elif within is not None:
            nprobe = widen(nprobe, within, self.rows)
        D = np.empty((len(xq), k), dtype=np.float32)
        found = np.empty((len(xq), k), dtype=np.int64)
        step = max(1, BLOCK_CANDIDATES // max(1, candidates * len(self.shards)))
        for start in range(0, len(xq) if k else 0, step):
            at = slice(start, start + step)
            asked = _Asked(xq[at], k, candidates, min(nprobe, max(plan.nlist, 1)), within)
            D[at], found[at] = self._search_block(asked)
        return SearchResult(D, *self._names(found))

    def candidates(self, k: int, k_factor: int | None = None) -> int:
        """How many rows are re-ranked for k results."""
        plan = self.manifest.spec.plan
        if plan.refine == "none":
            return k
        return k * k_factor if k_factor else max(k * plan.k_factor, MIN_CANDIDATES)

    def _search_block(self, asked: _Asked) -> tuple[Floats, Ints]:
        """Scores and global rows (q, k)."""
        plan, nprobe, within, k = (self.manifest.spec.plan, asked.nprobe, asked.within, asked.k)
        xr = self._source.rotate(asked.xq)
        D, rows = self._source.candidates(xr, asked.candidates, nprobe, within)
        wanted = k if within is None else asked.candidates
        while (short := np.flatnonzero((rows != MISSING).sum(axis=1) < wanted)).size:
            if nprobe >= plan.nlist:
                raise IndexDataError(
                    f"{plan.factory} found fewer than {k} of {self.rows} rows for {short.size} queries; "
                    "search for fewer, or build an index with inverted lists (IVF) or Flat"
                )
            nprobe = min(2 * nprobe, plan.nlist)
            found = self._source.candidates(xr[short], asked.candidates, nprobe, within)
            D[short], rows[short] = found
        if plan.refine == "fp16":
            D, rows = self._rerank(asked.xq, rows)
        elif plan.metric == "l2":
            D = np.float32(1) - D / np.float32(2)  # squared distance of unit vectors
        D = clamp(D)
        vector_ids = np.where(rows == MISSING, MISSING, self._vector_ids(rows))
        order = top_order(D, vector_ids, k, keep_max=True)
        return np.take_along_axis(D, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _rerank(self, xq: Floats, rows: Ints) -> tuple[Floats, Ints]:
        """Exact inner products of the candidates, in ascending order of row."""
        rows = np.sort(rows, axis=1)
        D = np.full(rows.shape, -np.inf, dtype=np.float32)
        for q, x in enumerate(xq):
            bounds = [*np.searchsorted(rows[q], self._starts), rows.shape[1]]
            for shard, low, high in zip(self.shards, bounds[:-1], bounds[1:], strict=True):
                if low < high:
                    D[q, low:high] = shard.gather(rows[q, low:high] - shard.first) @ x
        return D, rows

    def _vector_ids(self, rows: Ints) -> Ints:
        found = np.full(rows.shape, MISSING, dtype=np.int64)
        for shard in self.shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            found[at] = shard.vector_ids[rows[at] - shard.first]
        return found

    def _names(self, rows: Ints) -> tuple[Ints, NDArray[np.object_]]:
        ids = np.empty(rows.shape, dtype=object)
        for shard in self.shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            ids[at] = shard.row_names(rows[at] - shard.first)
        return self._vector_ids(rows), ids
