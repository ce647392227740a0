"""Ids that are not UTF-8 go through search, merge, query sets and mining as the bytes that they are."""

import numpy as np
import pyarrow as pa

from udfs.recall.query_set import QuerySetSpec, query_set_path, read_query_set, write_query_set
from udfs.search import scatter
from udfs.search.answers import QueryAnswer, answer_rows
from udfs.search.hits import Hits
from udfs.search.row_files import read_groups, write_groups
from udfs.strings import printable, python_values
from udfs.training.negatives import NEGATIVES_INPUT, NegativesSpec, choose_batches

ODD = [b"\xff", b"a", b"caf\xe9"]


def strings(values):
    return pa.array(values, pa.binary()).view(pa.string())


def hits():
    ids = np.array(python_values(strings(ODD)), dtype=object)
    n = len(ids)
    return Hits(np.ones(n, np.float32), np.arange(n), ids, np.zeros(n, np.int32))


def test_answers_carry_them():
    answers = [QueryAnswer("\udcfe", 3, hits=hits()), QueryAnswer("b", 3, "not_utf8", "why")]
    made = answer_rows(answers, index_id="i", model_id="m")
    assert made["id"].cast(pa.binary()).to_pylist() == [*ODD, None]
    assert made["query_id"].cast(pa.binary()).to_pylist() == [b"\xfe"] * 3 + [b"b"]
    for name in hits().ids:
        printable(name).encode()  # as SQL shows them


def test_parts_of_a_scattered_search_carry_them():
    lists = scatter._hit_lists([hits(), hits()])
    back = scatter._collect_hits(lists.values, complete=True)
    assert back.ids.tolist() == [*hits().ids] * 2


def test_query_sets_and_groups_carry_them(tmp_path):
    rows = pa.RecordBatch.from_arrays(
        [
            strings(ODD),
            pa.nulls(3, pa.int64()),
            pa.array([[1.0, 0.0]] * 3, pa.list_(pa.float32())),
        ],
        ["query_id", "own", "embedding"],
    )
    (made,) = write_query_set(iter([rows]), spec=QuerySetSpec(str(tmp_path), 2))
    assert made["query_ids"].cast(pa.list_(pa.binary())).to_pylist() == [sorted(ODD)]
    found = read_query_set(query_set_path(str(tmp_path), made["query_set"][0].as_py()))
    assert sorted(found.query_ids) == sorted(python_values(strings(ODD)))
    values = pa.RecordBatch.from_arrays(
        [pa.array([3, 1, 2]), strings([b"\xff", b"\xfe", b"\xff"])], ["vector_id", "value"]
    )
    list(write_groups(iter([values]), path=f"{tmp_path}/groups"))
    codes = read_groups(f"{tmp_path}/groups").of(np.array([1, 2, 3]))
    assert codes[1] == codes[2] != codes[0]


def test_mining_tells_them_apart():
    assert "right_ids" in NEGATIVES_INPUT.names
    odd = strings([b"\xff"])[0]
    found = pa.StructArray.from_arrays(
        [
            pa.array(["k1", "k2"]),
            pa.array([0.5, 0.4]),
            pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), strings([b"\xff", b"\xfe"])),
        ],
        ["key", "score", "ids"],
    )
    one = pa.array([0, 1], pa.int32())
    columns = {
        "pair": pa.array([7]),
        "status": pa.array(["ok"]),
        "query_key": pa.array(["q"]),
        "own_key": pa.nulls(1, pa.string()),
        "own_ids": pa.nulls(1, pa.list_(pa.string())),
        "right_keys": pa.array([["r"]]),
        "right_ids": pa.ListArray.from_arrays(
            one, pa.array([odd.as_buffer().to_pybytes()]).view(pa.string())
        ),
        "positive_score": pa.array([0.9]),
        "found": pa.ListArray.from_arrays(pa.array([0, 2], pa.int32()), found),
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    (made,) = choose_batches(iter([batch]), spec=NegativesSpec(2, 0, None, False))
    assert made["keys"].to_pylist() == [["k2"]]
