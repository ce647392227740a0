"""What search tasks do: queries in, hits or a reason out."""

import pickle
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, exact
from udfs.errors import IndexDataError
from udfs.index.plan import default_plan
from udfs.search.answers import SEARCH_OUTPUT
from udfs.search.batches import indexed_ids, search_batches
from udfs.search.row_files import write_vector_ids
from udfs.specs import SearchOptions, SearchSpec

ROWS, DIM = 60, 8
XB, XQ = clustered(ROWS, DIM), clustered(4, DIM, seed=1)
QUERIES = pa.schema(
    [
        ("query_id", pa.string()),
        ("k", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("embedding", pa.list_(pa.float32())),
    ]
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("index")
    build(path, XB, default_plan(ROWS, DIM, shards=2))
    return str(path)


def queries(*rows):
    columns = [(*row[:4], None if row[4] is None else row[4].tolist()) for row in rows]
    names = QUERIES.names
    return pa.RecordBatch.from_pylist(
        [dict(zip(names, row, strict=True)) for row in columns], schema=QUERIES
    )


def test_each_query_gets_its_own_k_or_its_reason(root):
    spec = SearchSpec(root, "model-a", SearchOptions(3))
    batch = queries(
        ("default", None, "ok", None, XQ[0]),
        ("one", 1, "ok", None, XQ[1]),
        ("bad", 2, "image_truncated", "image_truncated: cut", None),
        ("all", 1000, "ok", None, XQ[2]),
        ("none", 0, "ok", None, XQ[3]),
        ("many", 1001, "ok", None, XQ[3]),
    )
    found, second = list(
        search_batches(iter([batch, batch.slice(0, 0), batch.slice(1, 1)]), spec=spec)
    )
    assert found.schema == SEARCH_OUTPUT.arrow and second.num_rows == 1
    rows = found.to_pylist()
    by_query = {
        name: [r for r in rows if r["query_id"] == name] for name in batch["query_id"].to_pylist()
    }
    D, I = exact(XQ, XB, ROWS)
    for name, q, k in (("default", 0, 3), ("one", 1, 1), ("all", 2, ROWS)):
        mine = by_query[name]
        assert [r["rank"] for r in mine] == list(range(1, k + 1))
        assert [r["vector_id"] for r in mine] == I[q, :k].tolist()
        np.testing.assert_allclose([r["score"] for r in mine], D[q, :k], atol=1e-6)
        assert {(r["index_id"], r["model_id"], r["status"]) for r in mine} == {
            ("index-1", "model-a", "ok")
        }
    for name, status in (
        ("bad", "image_truncated"),
        ("none", "k_out_of_range"),
        ("many", "k_out_of_range"),
    ):
        (row,) = by_query[name]
        assert (
            row["status"] == status
            and row["error"]
            and row["rank"] is row["id"] is row["score"] is None
        )


def test_rows_gone_are_left_out_by_the_file_that_names_them(root, tmp_path):
    _, I = exact(XQ, XB, 5)
    path = str(tmp_path / "gone")
    batches = [
        pa.RecordBatch.from_arrays([pa.array(part)], ["vector_id"])
        for part in (I[0, :1], I[0, 2:3])
    ]
    (written,) = write_vector_ids(iter(batches), path=path)
    assert written["rows"].to_pylist() == [2]
    spec = SearchSpec(root, "model-a", SearchOptions(3), gone=path)
    (found,) = search_batches(iter([queries(("q", None, "ok", None, XQ[0]))]), spec=spec)
    assert found["vector_id"].to_pylist() == I[0, [1, 3, 4]].tolist()


def test_indexed_ids_are_those_of_the_asked_shards(root):
    shards = [pa.RecordBatch.from_arrays([pa.array([n])], ["id"]) for n in (0, 1)]
    parts = [
        pa.Table.from_batches(list(indexed_ids(iter([s]), root=root)))["vector_id"].to_pylist()
        for s in shards
    ]
    assert sorted(parts[0] + parts[1]) == (np.arange(ROWS) + FIRST_VECTOR_ID).tolist()
    assert parts[0] and parts[1]


def test_an_empty_table_says_so(tmp_path):
    build(tmp_path, XB[:0], default_plan(0, DIM))
    spec = SearchSpec(str(tmp_path), "model-a", SearchOptions(3))
    (found,) = search_batches(iter([queries(("q", None, "ok", None, XQ[0]))]), spec=spec)
    assert found["status"].to_pylist() == ["no_rows"] and found["rank"].to_pylist() == [None]


def test_another_model_or_width_is_refused(root):
    batch = queries(("q", None, "ok", None, XQ[0]))
    with pytest.raises(IndexDataError, match="model-b cannot search index index-1 of model"):
        list(search_batches(iter([batch]), spec=SearchSpec(root, "model-b", SearchOptions(3))))
    narrow = queries(("q", None, "ok", None, XQ[0, :4]))
    with pytest.raises(IndexDataError, match="must have 8 floats"):
        list(search_batches(iter([narrow]), spec=SearchSpec(root, "model-a", SearchOptions(3))))


def test_what_spark_is_handed_travels_by_reference():
    from pyspark import cloudpickle

    spec = SearchSpec("/some/where", "model-a", SearchOptions(3))
    pickled = cloudpickle.dumps(partial(search_batches, spec=spec))
    assert len(pickled) < 1000
    assert b"udfs" in pickled and pickle.loads(pickled) is not None


@pytest.mark.parametrize("factory", ["IVF{nlist},SQ8", "Flat"])
def test_a_lowest_score_of_1_gives_all_exact_copies_and_nothing_else(factory, tmp_path):
    """At the width of the 7B model; halves of a vector are up to 5e-4 longer or shorter than it."""
    dim, copies = 3584, 5
    xb = np.repeat(clustered(200, dim), copies, axis=0)
    build(tmp_path, xb, default_plan(len(xb), dim, factory=factory, shards=2))
    spec = SearchSpec(str(tmp_path), "model-a", SearchOptions(10, nprobe=10_000), min_score=1)
    asked = [(f"q{n}", None, "ok", None, xb[n * copies]) for n in range(200)]
    (found,) = search_batches(iter([queries(*asked)]), spec=spec)
    rows = found.to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    for n in range(200):
        mine = [r["vector_id"] - FIRST_VECTOR_ID for r in rows if r["query_id"] == f"q{n}"]
        assert sorted(mine) == list(range(n * copies, (n + 1) * copies))
    assert max(row["score"] for row in rows) <= 1
