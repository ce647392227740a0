"""Query sets, exact results in parts, and what a task measures, against brute force in one process."""

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, exact, small_ivf_plan
from udfs.errors import IndexDataError
from udfs.index.plan import default_plan
from udfs.index.points import Point
from udfs.recall.measure import MeasureSpec, measure_batches, price_batches
from udfs.recall.query_set import QuerySetSpec, query_set_path, read_query_set, write_query_set
from udfs.recall.recall import recall_by_query, recall_of
from udfs.recall.truth import (
    TIES,
    TruthKey,
    TruthSpec,
    merge_nearest,
    nearest_batches,
    read_truth,
    truth_name,
)
from udfs.search.index import Index
from udfs.specs import SearchOptions

ROWS, DIM, K = 3000, 48, 10
XB = clustered(ROWS, DIM)
XB[7] = XB[8]
KEY = TruthKey("table-1", 7, "model-a", "query-set", K)
NAMES = [f"q{n:03}" for n in range(60)]


def rows_of(ids, x, **columns):
    embedding = pa.array(x.tolist(), pa.list_(pa.float32()))
    return pa.record_batch({**columns, **ids, "embedding": embedding})


def written(folder, xq, *, own=None, names=NAMES):
    """A query set in a file; returns its path."""
    ids = {"query_id": pa.array(names), "own": pa.array(own or [None] * len(xq), pa.int64())}
    batch = rows_of(ids, xq)
    spec = QuerySetSpec(str(folder), DIM)
    (out,) = write_query_set(iter([batch.slice(20), batch.slice(0, 20)]), spec=spec)
    (row,) = out.to_pylist()
    assert row["query_ids"] == sorted(names)
    return query_set_path(str(folder), row["query_set"])


def exact_results(folder, path, *, parts=3, key=KEY):
    """Through both functions, as tasks run them, partitions merged in one arbitrary batch."""
    spec = TruthSpec(key, path, str(folder), DIM)
    ids = np.arange(ROWS, dtype=np.int64) + FIRST_VECTOR_ID
    near = []
    for part in range(parts):
        mine = slice(part, None, parts)
        batch = rows_of({"vector_id": pa.array(ids[mine])}, XB[mine])
        near += nearest_batches(iter(batch.slice(at, 400) for at in range(0, 1200, 400)), spec=spec)
    assert not list(nearest_batches(iter([]), spec=spec))
    table = pa.Table.from_batches(near)
    mixed = table.take(np.random.default_rng(0).permutation(table.num_rows))
    (out,) = merge_nearest(iter(mixed.combine_chunks().to_batches()), spec=spec)
    assert out.to_pylist() == [{"queries": len(read_query_set(path).xq)}]
    return read_truth(str(folder), key)


@pytest.fixture(scope="module")
def measured_index(tmp_path_factory):
    """An index in two shards, 60 queries outside it and their exact results."""
    root = tmp_path_factory.mktemp("index")
    build(root, XB, replace(small_ivf_plan(ROWS, DIM, nlist=16), shards=2))
    xq = clustered(60, DIM, seed=1)
    path = written(root, xq)
    return root, path, exact_results(root, path), xq


def spec_of(root, path, points):
    return MeasureSpec(str(root), path, str(root), KEY, tuple(points))


def by_point(batches):
    table = pa.Table.from_batches(batches).to_pydict()
    found = {}
    for n, point in enumerate(zip(table["nprobe"], table["k_factor"], strict=True)):
        found.setdefault(Point(*point), []).append(table["recall"][n])
    return found


def test_exact_results_in_parts_are_those_of_one_product(measured_index):
    _, _, truth, xq = measured_index
    D, I = exact(xq, XB, K + TIES)
    np.testing.assert_array_equal(truth.I, I)
    np.testing.assert_allclose(truth.D, D, atol=1e-6)


def test_held_out_rows_are_not_among_their_own_results(tmp_path):
    picked = np.arange(60) * 5
    path = written(tmp_path, XB[picked], own=(picked + FIRST_VECTOR_ID).tolist())
    truth = exact_results(tmp_path, path)
    everything = exact(XB[picked], XB, K + TIES + 1)[1]
    for own, found, full in zip(picked + FIRST_VECTOR_ID, truth.I, everything, strict=True):
        assert found.tolist() == [i for i in full.tolist() if i != own]
    build(tmp_path, XB, replace(default_plan(ROWS, DIM), shards=2))
    (out,) = measure_batches(iter([]), spec=spec_of(tmp_path, path, [Point(1, 1)]))
    assert set(out.column("recall").to_pylist()) == {1.0}
    (priced,) = price_batches(iter([]), spec=spec_of(tmp_path, path, [Point(1, 1)]))
    assert set(priced.column("recall").to_pylist()) == {1.0}


def test_measured_recall_is_that_of_searches_and_prices_foretell_it(measured_index):
    root, path, truth, xq = measured_index
    points = [Point(n, factor) for n in (1, 4, 16) for factor in (1, 5, 20)]
    measured = by_point(measure_batches(iter([]), spec=spec_of(root, path, points)))
    index = Index.open(root)
    for point, recalls in measured.items():
        found = index.search(xq, SearchOptions(K, nprobe=point.nprobe, k_factor=point.k_factor))
        np.testing.assert_allclose(recalls, recall_by_query(found.I, truth.I, K, D_exact=truth.D))
    means = {point: np.mean(recalls) for point, recalls in measured.items()}
    assert means[Point(1, 1)] < means[Point(4, 5)] < means[Point(16, 20)]
    priced = by_point(price_batches(iter([]), spec=spec_of(root, path, points)))
    for point, recalls in priced.items():
        # float16 may swap neighbours at the end of the list
        assert np.mean(recalls) == pytest.approx(means[point], abs=0.004)
    assert set(priced) == set(measured)


def test_time_and_the_nearest_row_are_measured(measured_index):
    root, path, truth, xq = measured_index
    (out,) = measure_batches(iter([]), spec=spec_of(root, path, [Point(4, 5)]))
    found = Index.open(root).search(xq, SearchOptions(K, nprobe=4, k_factor=5))
    first = (truth.I[:, :1] == found.I).any(axis=1)
    np.testing.assert_array_equal(out.column("first").to_numpy() == 1, first)
    ms = out.column("ms").to_numpy()
    assert (ms > 0).all() and np.median(ms) < 1000


def test_rows_that_tie_with_the_last_are_as_good_as_it():
    D = np.array([[0.9, 0.8, 0.8, 0.8, 0.1]], np.float32)
    I = np.array([[5, 1, 2, 3, 4]])
    share = lambda found, **d: recall_by_query(np.array([found]), I, 2, **d)[0]  # noqa: E731
    assert share([5, 3]) == 0.5 and share([5, 3], D_exact=D) == 1
    assert share([1, 2, 3], D_exact=D) == 0.5  # two tied rows do not make up for a better one
    assert share([4, 9], D_exact=D) == 0
    short = np.array([[5, -1, -1, -1, -1]])
    assert recall_by_query(np.array([[5, -1]]), short, 3, D_exact=D)[0] == 1
    assert recall_by_query(np.array([[-1, -1]]), short * 0 - 1, 3)[0] == 1


def test_an_interval_is_of_a_bootstrap_unless_all_are_alike():
    shares = np.random.default_rng(0).binomial(10, 0.9, 300) / 10
    recall = recall_of(shares, 10)
    assert recall.low < recall.value < recall.high
    assert recall.high - recall.low == pytest.approx(3.92 * recall.standard_error, rel=0.1)
    perfect = recall_of(np.ones(200), 10)
    assert perfect.value == perfect.high == 1 and 0.975 < perfect.low < 0.985


def test_names_of_kept_results_tell_every_input_apart():
    other = {"vectors_version": 8, "k": 11}
    names = {KEY.name()}
    for field in fields(KEY):
        changed = replace(KEY, **{field.name: other.get(field.name, "another")})
        names.add(changed.name())
    assert len(names) == 1 + len(fields(KEY))


def test_a_file_of_other_results_or_queries_is_refused(measured_index, tmp_path):
    root, path, _, xq = measured_index
    other = replace(KEY, vectors_version=8)
    (tmp_path / truth_name(other)).write_bytes((root / truth_name(KEY)).read_bytes())
    with pytest.raises(IndexDataError, match="other results than its name says"):
        read_truth(str(tmp_path), other)
    with pytest.raises(FileNotFoundError):
        read_truth(str(tmp_path), KEY)
    turned = written(tmp_path, np.ascontiguousarray(xq[::-1]))
    assert turned.rsplit("/", 1)[1] != path.rsplit("/", 1)[1]
    fake = tmp_path / path.rsplit("/", 1)[1]
    fake.write_bytes((tmp_path / turned.rsplit("/", 1)[1]).read_bytes())
    with pytest.raises(IndexDataError, match="another content"):
        read_query_set(str(fake))
    with pytest.raises(IndexDataError, match="no query"):
        list(write_query_set(iter([]), spec=QuerySetSpec(str(tmp_path), DIM)))
