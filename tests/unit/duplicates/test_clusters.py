"""Clusters are the connected components of pairs, named by their smallest id."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.stages.duplicates.clusters import cluster_pairs, connect


def components(edges: list[tuple[int, int]], rows: int) -> list[int]:
    """The smallest number of each number's component, by looking at one edge after the other until nothing changes."""
    smallest = list(range(rows))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(smallest[a], smallest[b])
            changed |= smallest[a] != low or smallest[b] != low
            smallest[a] = smallest[b] = low
    return smallest


def pairs_of(edges: dict[tuple[str, str], float]) -> pa.Table:
    columns = [[a for a, _ in edges], [b for _, b in edges], list(edges.values())]
    kinds = [pa.string(), pa.string(), pa.float64()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return pa.table(arrays, names=["id_a", "id_b", "score"])


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), _edges(n))))
def test_what_pairs_connect_has_one_number(drawn: tuple[int, list[tuple[int, int]]]) -> None:
    rows, edges = drawn
    a, b = (np.array([edge[side] for edge in edges], np.int64) for side in (0, 1))
    assert connect(a, b, rows=rows).tolist() == components(edges, rows)


def _edges(rows: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    number = st.integers(0, rows - 1)
    return st.lists(st.tuples(number, number), max_size=2 * rows)


def test_a_long_chain_is_one_cluster() -> None:
    order = np.random.default_rng(0).permutation(20_000).astype(np.int64)
    assert not connect(order[:-1], order[1:], rows=20_000).any()


@settings(deadline=None)
@given(st.dictionaries(st.tuples(st.text(max_size=2), st.text(max_size=2)), st.floats(0, 1)))
def test_clusters_have_the_rows_of_pairs_once(edges: dict[tuple[str, str], float]) -> None:
    edges = {pair: score for pair, score in edges.items() if pair[0] < pair[1]}
    clusters = cluster_pairs(pairs_of(edges))
    names = sorted({name for pair in edges for name in pair})  # by code points, as by UTF-8's bytes
    assert clusters.ids.to_pylist() == names
    at = {name: number for number, name in enumerate(names)}
    expected = components([(at[a], at[b]) for a, b in edges], len(names))
    rows = clusters.table().to_pylist()
    assert {row["id"]: row["cluster_id"] for row in rows} == {
        name: names[first] for name, first in zip(names, expected, strict=True)
    }
    assert len(rows) == len(names)
    assert all(row["size"] == expected.count(at[row["cluster_id"]]) for row in rows)
    best = {name: max(s for pair, s in edges.items() if name in pair) for name in names}
    assert dict(zip(names, clusters.best.tolist(), strict=True)) == best
    assert clusters.count == len(set(expected))
    shown = clusters.largest(clusters.count)
    assert [len(one) for one in shown] == sorted((len(one) for one in shown), reverse=True)
    assert sorted(row for one in shown for row in one.tolist()) == list(range(len(names)))
