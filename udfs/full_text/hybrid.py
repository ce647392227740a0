"""Hybrid search: rows by vector and rows by words, put in one order by reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from udfs.errors import IndexDataError
from udfs.full_text.text_index import FullText, WordCounts, count_words
from udfs.index.manifest import Manifest
from udfs.index.vectors import Floats, floats_of
from udfs.search.answers import QueryAnswer, answer_query
from udfs.search.batches import read_queries
from udfs.search.hits import NOTHING, Hits, limit_groups, merge_hits
from udfs.search.index import Index
from udfs.search.limited import search_limited
from udfs.search.opened import ShardFiles
from udfs.specs import MAX_K, SearchOptions, SearchSpec

# Rows that each of both searches finds: for each of k, and at least.
DEPTH_FACTOR, MIN_DEPTH = 4, 100


@lru_cache(maxsize=2)
def open_full_text(root: str, *, manifest_sha256: str | None = None) -> tuple[FullText, ...]:
    """The texts of the shards of the index in folder `root`, opened once per process; every file is checked first.

    Raises IndexDataError for damaged files, and for an index that was built without.
    """
    manifest = Manifest.read(root, sha256=manifest_sha256)
    texts = []
    for folder, record in manifest.all_shards(root):
        if record.full_text is None:
            raise IndexDataError(
                f"index {manifest.spec.index_id} has no full text, which hybrid search needs: build one with gme-lake "
                "build-index --set index.full_text=true, and promote it"
            )
        texts.append(FullText.open(ShardFiles(record, folder, None).path(record.full_text)))
    return tuple(texts)


@dataclass(frozen=True, eq=False)
class HybridIndex:
    """An index, and the texts of its rows: those of its shards, and of the rows that are new since it was built."""

    index: Index
    texts: tuple[FullText, ...]

    def answer(
        self, batch: pa.RecordBatch, texts: Sequence[str], spec: SearchSpec, *, rrf_k: int
    ) -> list[QueryAnswer]:
        """The answers to a SEARCH_INPUT batch of queries with their texts; scores are sums of `fuse`, which
        `spec.min_score`, a cosine, says nothing of.
        """
        spec = replace(spec, min_score=None)
        answers = read_queries(batch, spec)
        xq = batch.column("embedding")
        for number, asked in enumerate(answers):
            if asked.status == "ok":
                x = floats_of(
                    xq.slice(number, 1), self.index.manifest.spec.dim, what="query vectors"
                )
                options = replace(spec.options, k=asked.k)
                hits = self.search(x, texts[number], options, rrf_k=rrf_k, max_per=spec.max_per)
                answers[number] = answer_query(asked._replace(hits=hits), spec)
        return answers

    def search(
        self,
        x: Floats,
        text: str,
        options: SearchOptions,
        *,
        rrf_k: int,
        max_per: int | None = None,
    ) -> Hits:
        """The k best rows for one query, its vector x float32 (1, dim) and its text; D holds the sums of `fuse`.

        Both searches find DEPTH_FACTOR times k rows, and MIN_DEPTH at least, of those that may be found. At most `max_per`
        of one group.
        """
        depth = min(max(DEPTH_FACTOR * options.k, MIN_DEPTH), MAX_K)
        deep = replace(options, k=depth)
        (near,) = search_limited(self.index, x, deep, max_per=max_per)
        words = self.search_words(text, depth, max_per=max_per)
        return fuse([near, words], options.k, rrf_k=rrf_k, max_per=max_per)

    def search_words(self, text: str, n: int, *, max_per: int | None = None) -> Hits:
        """The n best rows that have a word of the text, at most `max_per` of one group; D holds BM25 scores.

        Words are weighed by the rows of all parts, as a few rows that are new know nothing of how common a word is; the
        mean length of texts is that of each part.
        """
        counts = count_words(self.texts, text)
        parts = [self._words_of(texts, text, n, counts, max_per=max_per) for texts in self.texts]
        return merge_hits([NOTHING, *parts], n, max_per=max_per)

    def _words_of(
        self, texts: FullText, text: str, n: int, counts: WordCounts, *, max_per: int | None
    ) -> Hits:
        fetch = n
        while True:
            D, I = texts.search(text, fetch, allowed=self.index.findable, counts=counts)
            found = self.index.name_rows(D, I)
            if max_per is None:
                return found
            kept = found.take(limit_groups(found.groups, max_per))
            if len(kept.D) >= n or len(I) < fetch:
                return kept
            fetch *= 2  # full groups may take all places


def fuse(parts: Sequence[Hits], k: int, *, rrf_k: int, max_per: int | None = None) -> Hits:
    """The k best rows of several orders of one query's rows by reciprocal rank fusion: the sum of 1 / (rrf_k + rank).

    Equal sums by smaller vector_id; at most `max_per` of one group. Source: Cormack, Clarke, Büttcher, "Reciprocal Rank
    Fusion outperforms Condorcet and individual Rank Learning Methods" (SIGIR 2009), where rrf_k is 60.
    """
    I, first, place = np.unique(
        np.concatenate([part.I for part in parts]), return_index=True, return_inverse=True
    )
    weights = np.concatenate([1 / (rrf_k + np.arange(1, len(part.I) + 1)) for part in parts])
    D = np.bincount(place, weights=weights, minlength=len(I)).astype(np.float32)
    ids = np.concatenate([part.ids for part in parts])[first]
    groups = np.concatenate([part.groups for part in parts])[first]
    order = np.lexsort((I, -D))
    best = Hits(D, I, ids, groups, all(part.complete for part in parts)).take(order)
    if max_per is not None:
        best = best.take(limit_groups(best.groups, max_per))
    return best.take(slice(k))
