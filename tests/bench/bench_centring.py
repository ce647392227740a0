"""Does it help to subtract a mean for each kind of row? `python -m tests.bench.bench_centring build/drawn`.

Tables of catalogues mix texts, pictures and rows of both, whose vectors lie apart (the modality gap). Measured with
gme-tiny: nDCG@10 of exact search over all kinds together, by kind of query, as it is, less the mean of all rows, and
less the mean of the rows of the same kind (unit length again in both cases); differences with paired 95 % intervals.

Drawn products are the first rows of `tests.bench.drawn_vectors`, right is what shows the same combination; with
`--retrieval` the rows of that folder's catalogue, each as text, picture and both, right is what its tasks say.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from tests.bench.drawn_vectors import KINDS, encoder, read_vectors, unit
from udfs.bootstrap import difference
from udfs.drawing.catalogue import CatalogueSpec, product
from udfs.gme import Row

K = 10


class Pool(NamedTuple):
    """Unit vectors with their kinds; `right` (q, n) bool."""

    name: str
    xb: np.ndarray
    kinds_b: np.ndarray
    xq: np.ndarray
    kinds_q: np.ndarray
    right: np.ndarray


def main() -> None:
    """Measure both pools and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", type=Path, help="folder of tests.bench.drawn_vectors")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument(
        "--retrieval", type=Path, help="folder with catalog, queries and qrels .parquet"
    )
    arguments = parser.parse_args()
    table = Table(
        "pool", "queries", "as it is", "less one mean", "less the mean of its kind", "gap"
    )
    pools = [_drawn(arguments.vectors, arguments.rows)]
    pools += [_real(arguments.retrieval)] if arguments.retrieval else []
    for pool in pools:
        _add_lines(table, pool)
    Console(width=130).print(f"nDCG@{K} of gme-tiny, exact search over all kinds together", table)


def _drawn(folder: Path, rows: int) -> Pool:
    xb, xq = read_vectors(folder)
    kinds_b, kinds_q = (np.load(folder / f"kinds_{n}.npy") for n in "bq")
    shown = [
        np.array(
            ["/".join(product(n, spec=CatalogueSpec(seed=seed)).combination) for n in range(count)]
        )
        for seed, count in ((0, rows), (1, len(xq)))
    ]
    return Pool(
        f"drawn, {rows:,} rows",
        xb[:rows],
        kinds_b[:rows],
        xq,
        kinds_q,
        shown[1][:, None] == shown[0],
    )


def _real(folder: Path) -> Pool:
    catalog, queries, qrels = (
        pq.read_table(folder / f"{n}.parquet").to_pylist() for n in ("catalog", "queries", "qrels")
    )
    documents = [
        (row["id"], kind, _row(kind, f"{row['title']} {row['description'] or ''}", row["image"]))
        for row in catalog
        for kind in KINDS
    ]
    judged = defaultdict(set)
    for one in qrels:
        judged[one["query_id"]].add(one["corpus_id"])
    names = {"text": "text", "image": "image", "image,text": "both"}
    asked = [
        q
        for q in queries
        if q["query_id"] in judged and not (q["modality"] != "text" and q["image"] is None)
    ]
    xq = [
        Row(
            q["text"],
            q["image"] if q["modality"] != "text" else None,
            q["instruction"],
            is_query=True,
        )
        for q in asked
    ]
    found_b, found_q = encoder().encode([d[2] for d in documents]), encoder().encode(xq)
    kept_b, kept_q = (np.array([error is None for error in f.errors]) for f in (found_b, found_q))
    ids = np.array([d[0] for d in documents])[kept_b]
    kinds_q = np.array([names[q["modality"]] for q in asked])
    right = np.stack([np.isin(ids, list(judged[q["query_id"]])) for q in asked])
    return Pool(
        "real",
        found_b.vectors[kept_b],
        np.array([d[1] for d in documents])[kept_b],
        found_q.vectors[kept_q],
        kinds_q[kept_q],
        right[kept_q],
    )


def _row(kind: str, text: str, image: bytes) -> Row:
    return Row(text if kind != "image" else None, image if kind != "text" else None)


def _add_lines(table: Table, pool: Pool) -> None:
    of_kind = {kind: pool.xb[pool.kinds_b == kind].mean(axis=0) for kind in KINDS}
    gap = max(np.linalg.norm(of_kind[a] - of_kind[b]) for a in KINDS for b in KINDS)
    whole = dict.fromkeys(KINDS, pool.xb.mean(axis=0))
    ways = (None, whole, of_kind)
    scores = [_ndcg(pool, means) for means in ways]
    for kind in ("any", *KINDS):
        mine = np.ones(len(pool.xq), bool) if kind == "any" else pool.kinds_q == kind
        plain = scores[0][mine]
        cells = [f"{plain.mean():.4f}"]
        for score in scores[1:]:
            change = difference(score[mine], plain)
            cells.append(
                f"{score[mine].mean():.4f}; {change.mean:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
            )
        table.add_row(pool.name, f"{kind}, {mine.sum()}", *cells, f"{gap:.3f}")
    table.add_section()


def _ndcg(pool: Pool, means: dict[str, np.ndarray] | None) -> np.ndarray:
    """float64 (q,): binary gains."""
    xb, xq = pool.xb, pool.xq
    if means is not None:
        xb, xq = (
            unit(x - np.stack([means[k] for k in kinds]))
            for x, kinds in ((xb, pool.kinds_b), (xq, pool.kinds_q))
        )
    order = np.argsort(-(xq @ xb.T), axis=1, kind="stable")[:, :K]
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gains = np.take_along_axis(pool.right, order, axis=1) @ discounts
    best = np.cumsum(discounts)[np.minimum(pool.right.sum(axis=1), K) - 1]
    return gains / best


if __name__ == "__main__":
    main()
