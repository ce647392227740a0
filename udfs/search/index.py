"""An opened index: candidates by the codes of all shards, exact re-ranking, and which rows may be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from udfs.errors import IndexDataError
from udfs.index.files import fetch_verified
from udfs.index.manifest import Manifest
from udfs.index.plan import inner_index, transforms
from udfs.index.threads import faiss_threads
from udfs.index.vectors import Floats, Ints, clamp, unit_vectors
from udfs.search.exact import MISSING, merge_topk, top_order
from udfs.search.groups import NO_GROUP, Groups
from udfs.search.hits import Hits, merge_hits
from udfs.search.opened import (
    OpenShard,
    ShardFiles,
    mapping_flags,
    open_shard,
    read_faiss,
    read_gone,
)
from udfs.search.within import EXACT_ROWS, RowSet, exact_within, widen
from udfs.specs import SearchOptions

MIN_CANDIDATES = 200  # re-ranked even for small k, unless k_factor is given: k = 1 needs them most
FEW_SHARE = 0.75  # of the rows; where more may be found, inverted lists miss none and cost a tenth
BLOCK_CANDIDATES = 4_000_000  # (query, candidate) pairs held at a time


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index and the rows of it that may be found. Safe to share between threads.

    Its shards, those of the base first where it adds to one, lie behind the quantizer they share. `within` are the rows
    that live and may be found (None: all), `groups` what `without` and `only` choose by, `fresh` the index of rows that are
    new since this one was built. Opening costs; what `restrict`, `without` and `only` make shares the opened files.
    """

    manifest: Manifest
    quantizer: Any  # as read; owns what rotations and centroids point into
    shards: tuple[OpenShard, ...]  # that have rows
    threads: int = 1
    within: RowSet | None = None
    groups: Groups | None = None
    fresh: Index | None = None

    @classmethod
    def open(
        cls,
        root: str | Path,
        *,
        model_id: str | None = None,
        cache_dir: str | None = None,
        threads: int = 1,
        shards: Sequence[int] | None = None,
        manifest_sha256: str | None = None,
    ) -> Index:
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
        numbered = enumerate(manifest.all_shards(root))
        wanted = [
            ShardFiles(record, folder, cache_dir)
            for number, (folder, record) in numbered
            if shards is None or number in shards
        ]
        quantizer = fetch_verified(
            manifest.base_root(root), manifest.quantizer, cache_dir=cache_dir
        )
        gone = read_gone(manifest, root, cache_dir=cache_dir)
        return cls.of_files(manifest, quantizer, wanted, gone=gone, threads=threads)

    @classmethod
    def of_files(
        cls,
        manifest: Manifest,
        quantizer: Path,
        files: Sequence[ShardFiles],
        *,
        gone: Ints | None = None,
        threads: int = 1,
    ) -> Index:
        """Opens some shards of an index behind its verified quantizer, less the vector_ids `gone`, ascending."""
        owner = read_faiss(quantizer, manifest.quantizer, flags=0)
        flags = mapping_flags(inner_index(owner))
        opened: list[OpenShard] = []
        first, dim = 0, manifest.spec.dim
        for shard in files:
            opened.append(open_shard(shard, dim=dim, first=first, flags=flags, gone=gone))
            first += shard.record.rows
        shards = tuple(shard for shard in opened if shard.rows)
        return cls(manifest, owner, shards, threads, within=RowSet.select(shards))

    def restrict(
        self,
        *,
        gone: Ints | None = None,
        allowed: Ints | None = None,
        groups: Groups | None = None,
        fresh: Index | None = None,
    ) -> Index:
        """The same files without the vector_ids that are `gone` since it was built, and with the `fresh` rows.

        Where `allowed` is given, only rows with these vector_ids are found, of either.
        """
        allowed = None if allowed is None else np.sort(allowed)
        gone = None if gone is None else np.sort(gone)
        within = RowSet.select(self.shards, allowed=allowed, gone=gone)
        if fresh is not None:
            fresh = fresh.restrict(allowed=allowed, groups=groups)
        return replace(self, within=within, groups=groups, fresh=fresh)

    def without(self, groups: NDArray[np.int32]) -> Index:
        """The same without the rows of some groups."""
        return self._choose(groups, keep=False)

    def only(self, groups: NDArray[np.int32]) -> Index:
        """The same with the rows of some groups alone."""
        return self._choose(groups, keep=True)

    def _choose(self, groups: NDArray[np.int32], *, keep: bool) -> Index:
        if self.groups is None:
            raise ValueError("groups were named in a search that knows none")
        members = self.groups.members(self._codes, groups)
        removed = [~mask for mask in members] if keep else members
        within = self.within
        within = RowSet.of([~mask for mask in removed]) if within is None else within.less(removed)
        fresh = None if self.fresh is None else self.fresh._choose(groups, keep=keep)
        return replace(self, within=within, fresh=fresh)

    @property
    def rows(self) -> int:
        """Rows that a search can return."""
        return self._own_rows + (0 if self.fresh is None else self.fresh.rows)

    @cached_property
    def last_vector_id(self) -> int:
        """The largest vector_id in the index, -1 where it is empty. Reads all of them once."""
        return max((int(shard.vector_ids.max()) for shard in self.shards), default=-1)

    def search(self, xq: Floats, options: SearchOptions) -> Hits:
        """The best rows for each query, as many as there are up to k: arrays (q, n), n = min(k, self.rows), not padded.

        `xq` float32 (q, dim), unit vectors. Candidates are re-ranked by their exact inner product, to within
        SCORE_TOLERANCE and never beyond 1; where the plan keeps no vectors for that, scores are of the codes. Where the
        lists read hold fewer than k rows, nprobe is doubled until they do. The fewer rows may be found, the more lists
        are read, and nprobe is doubled until they hold all candidates. Up to 20,000 rows, unless they are most of the
        index, and any number where there are no inverted lists, are searched exactly.
        Raises IndexDataError for another dimension, NaN, or queries not of norm 1.
        """
        spec, within, findable = self.manifest.spec, self.within, self._own_rows
        plan = spec.plan
        xq = unit_vectors(xq, spec.dim, what=f"queries to index {spec.index_id}")
        k, n = min(options.k, findable), min(self.count_candidates(options), findable)
        few = within is not None and findable <= EXACT_ROWS and findable < FEW_SHARE * self._alive
        with faiss_threads(self.threads):
            if within is not None and (self._coarse is None or (few and plan.refine == "fp16")):
                D, rows = exact_within(xq, self.shards, within, k)
            else:
                nprobe = options.nprobe or plan.nprobe
                if few:
                    nprobe = plan.nlist  # no vectors to look up by row: all codes are read instead
                elif within is not None:
                    nprobe = widen(nprobe, within, self._alive)
                nprobe, least = min(nprobe, max(plan.nlist, 1)), k if within is None else n
                D, rows = np.empty((len(xq), k), np.float32), np.empty((len(xq), k), np.int64)
                step = max(1, BLOCK_CANDIDATES // max(1, n * len(self.shards)))
                for start in range(0, len(xq) if k else 0, step):
                    at = slice(start, start + step)
                    # Each step lets go of what the one before it made.
                    found = self.candidates(self.rotate(xq[at]), n, nprobe, least=least)
                    found = self._score(xq[at], *found)
                    found = self._best(*found, k)
                    D[at], rows[at] = found
        hits = self._name(D, rows)
        if self.fresh is None:
            return hits
        return merge_hits([hits, self.fresh.search(xq, options)], options.k)

    def count_candidates(self, options: SearchOptions) -> int:
        """How many rows are re-ranked for k results."""
        plan, k = self.manifest.spec.plan, options.k
        if plan.refine == "none":
            return k
        return k * options.k_factor if options.k_factor else max(k * plan.k_factor, MIN_CANDIDATES)

    def rotate(self, xq: Floats) -> Floats:
        """Queries as the indexes behind the rotation see them."""
        for rotation in transforms(self.quantizer):
            xq = np.ascontiguousarray(rotation.apply(xq))
        return xq

    def candidates(self, xr: Floats, n: int, nprobe: int, *, least: int = 0) -> tuple[Floats, Ints]:
        """The n best rows of rotated queries xr by their codes: D (q, n) in the index's metric, I global rows, -1 padded.

        Queries are assigned to lists once for all shards. Of inverted lists, rows that are not `within` are passed over;
        other indexes have no such search here. nprobe is doubled for queries with fewer rows than `least`; raises
        IndexDataError where all lists hold fewer.
        """
        coarse, plan = self._coarse, self.manifest.spec.plan
        assigned = None if coarse is None else coarse.search(xr, nprobe)
        Ds, Is = [], []
        for position, shard in enumerate(self.shards):
            k = min(n, shard.rows)
            if assigned is None:
                D, I = shard.searched.search(xr, k)
            else:
                # faiss's Python wrapper of this takes no parameters and reads nprobe from the file.
                Dq, Iq = assigned
                D, I = np.empty((len(xr), k), np.float32), np.empty((len(xr), k), np.int64)
                x, *arrays = (faiss.swig_ptr(array) for array in (xr, Iq, Dq, D, I))
                bitmap = None if self.within is None else self.within.bitmaps[position]
                chosen = _parameters(nprobe, bitmap)
                shard.searched.search_preassigned_c(len(xr), x, k, *arrays, False, chosen)
            Ds.append(D)
            Is.append(np.where(I == MISSING, MISSING, I + shard.first))
        D, I = _merge(Ds, Is, n, keep_max=self._inner.metric_type == faiss.METRIC_INNER_PRODUCT)
        short = np.flatnonzero((I != MISSING).sum(axis=1) < least)
        if short.size:
            if nprobe >= plan.nlist:
                raise IndexDataError(
                    f"{plan.factory} found fewer than {least} of {self._alive} rows for {short.size} queries; "
                    "search for fewer, or build an index with inverted lists (IVF) or Flat"
                )
            wider = min(2 * nprobe, plan.nlist)
            D[short], I[short] = self.candidates(xr[short], n, wider, least=least)
        return D, I

    @cached_property
    def findable(self) -> Ints | None:
        """The vector_ids that a search may return, ascending; None: all that the shards and the fresh rows have."""
        if all(part.within is None for part in self._with_fresh):
            return None
        every = [np.empty(0, np.int64)]
        for part in self._with_fresh:
            masks = [np.ones(shard.rows, np.bool_) for shard in part.shards]
            if part.within is not None:
                masks = part.within.masks([len(mask) for mask in masks])
            every += [s.vector_ids[mask] for s, mask in zip(part.shards, masks, strict=True)]
        return np.sort(np.concatenate(every))

    def name_rows(self, D: Floats, I: Ints) -> Hits:
        """Hits of rows that something else has found: D float32 (n,) scores, I int64 (n,) vector_ids of rows that a search
        may return. Raises IndexDataError for a vector_id that no shard has.
        """
        ids = np.full(I.shape, None, dtype=object)
        for shard in (shard for part in self._with_fresh for shard in part.shards):
            rows = np.minimum(np.searchsorted(shard.vector_ids, I), shard.rows - 1)
            at = shard.vector_ids[rows] == I
            ids[at] = shard.row_names(rows[at])
        if lost := [int(i) for i, name in zip(I, ids, strict=True) if name is None][:1]:
            raise IndexDataError(
                f"the full text of index {self.manifest.spec.index_id} has vector_id {lost[0]}, which its row maps "
                "have not; build the index again"
            )
        return Hits(D, I, ids, self._groups_of(I))

    def vector_ids(self, rows: Ints) -> Ints:
        """vector_ids of global rows, of any shape; -1 for no row."""
        found = np.full(rows.shape, MISSING, dtype=np.int64)
        for shard in self.shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            found[at] = shard.vector_ids[rows[at] - shard.first]
        return found

    def _score(self, xq: Floats, D: Floats, rows: Ints) -> tuple[Floats, Ints]:
        """Inner products (q, n) of candidates with their global rows, for which D has what their codes say."""
        plan = self.manifest.spec.plan
        if plan.refine == "fp16":
            rows = np.sort(rows, axis=1)  # files are read forwards
            D = np.full(rows.shape, -np.inf, dtype=np.float32)
            starts = np.array([shard.first for shard in self.shards], dtype=np.int64)
            for q, x in enumerate(xq):
                bounds = [*np.searchsorted(rows[q], starts), rows.shape[1]]
                for shard, low, high in zip(self.shards, bounds[:-1], bounds[1:], strict=True):
                    if low < high:
                        D[q, low:high] = shard.gather(rows[q, low:high] - shard.first) @ x
        elif plan.metric == "l2":
            D = np.float32(1) - D / np.float32(2)  # squared distance of unit vectors
        return clamp(D), rows

    def _best(self, D: Floats, rows: Ints, k: int) -> tuple[Floats, Ints]:
        """The k best of scored candidates."""
        order = top_order(D, self.vector_ids(rows), k, keep_max=True)
        return np.take_along_axis(D, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _name(self, D: Floats, rows: Ints) -> Hits:
        """Hits (q, n) from global rows."""
        ids = np.empty(rows.shape, dtype=object)
        for shard in self.shards:
            at = (rows >= shard.first) & (rows < shard.first + shard.rows)
            ids[at] = shard.row_names(rows[at] - shard.first)
        I = self.vector_ids(rows)
        return Hits(D, I, ids, self._groups_of(I))

    def _groups_of(self, vector_ids: Ints) -> NDArray[np.int32]:
        """The group of each row, of any shape."""
        if self.groups is None:
            return np.full(vector_ids.shape, NO_GROUP, np.int32)
        return self.groups.of(vector_ids)

    @property
    def _with_fresh(self) -> tuple[Index, ...]:
        """This index, and that of the fresh rows where there are any."""
        return (self,) if self.fresh is None else (self, self.fresh)

    @property
    def _own_rows(self) -> int:
        """Rows that a search can return, without the fresh ones."""
        return self._alive if self.within is None else self.within.rows

    @cached_property
    def _alive(self) -> int:
        """Rows of the shards that were not gone when the index was built."""
        gone = [int(np.count_nonzero(s.gone)) for s in self.shards if s.gone is not None]
        return sum(shard.rows for shard in self.shards) - sum(gone)

    @cached_property
    def _codes(self) -> list[NDArray[np.int32]]:
        """The group of every row of every shard."""
        return [] if self.groups is None else [self.groups.of(s.vector_ids) for s in self.shards]

    @cached_property
    def _inner(self) -> Any:
        """The quantizer behind its rotations."""
        return inner_index(self.quantizer)

    @cached_property
    def _coarse(self) -> Any:
        """What assigns queries to inverted lists; None where there are none."""
        ivf = isinstance(self._inner, faiss.IndexIVF)
        return faiss.downcast_index(self._inner.quantizer) if ivf else None


def _merge(
    Ds: Sequence[Floats], Is: Sequence[Ints], n: int, *, keep_max: bool
) -> tuple[Floats, Ints]:
    """As `merge_topk`, but of rows with equal codes any may come first, as in faiss: they are ranked again anyway."""
    D, I = (Ds[0], Is[0]) if len(Is) == 1 else (np.hstack(Ds), np.hstack(Is))
    if D.shape[1] == n and len(Is) == 1:
        return D, I
    if D.shape[1] <= n:
        return merge_topk([D], [I], n, keep_max=keep_max)
    key = np.where(I == MISSING, np.float32(np.inf), -D if keep_max else D)
    order = np.argpartition(key, n - 1, axis=1)[:, :n]
    best = np.argsort(np.take_along_axis(key, order, axis=1), axis=1)
    order = np.take_along_axis(order, best, axis=1)
    return np.take_along_axis(D, order, axis=1), np.take_along_axis(I, order, axis=1)


def _parameters(nprobe: int, bitmap: NDArray[np.uint8] | None) -> Any:
    """Both are given in full: a file keeps an nprobe of its own, and fast-scan refuses any other kind."""
    parameters: Any = faiss.SearchParametersIVF  # its constructor keeps what it is given alive
    selector: Any = faiss.IDSelectorBitmap
    return (
        parameters(nprobe=nprobe)
        if bitmap is None
        else parameters(nprobe=nprobe, sel=selector(bitmap))
    )
