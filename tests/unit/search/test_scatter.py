"""Parts of an index searched by themselves and merged answer as one search; restricted, limited and refused alike."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from tests.unit.search.indexes import FIRST_VECTOR_ID, build, clustered, ranked_halves
from udfs.index.manifest import Manifest
from udfs.index.plan import default_plan
from udfs.index.vectors import SCORE_TOLERANCE
from udfs.search.answers import SEARCH_OUTPUT
from udfs.search.batches import search_batches
from udfs.search.row_files import read_groups, write_groups, write_vector_ids
from udfs.search.scatter import merge_batches, search_part_batches
from udfs.specs import SearchOptions, SearchSpec

ROWS, NEW, DIM, SHARDS = 1600, 30, 16, 5
XB, XNEW = clustered(ROWS, DIM, clusters=6), clustered(NEW, DIM, seed=2, clusters=6)
XQ = clustered(12, DIM, seed=1, clusters=6)
IDS = np.arange(ROWS + NEW, dtype=np.int64) + FIRST_VECTOR_ID
PARTS = [[0, 3], [1], [2, 4]]
QUERIES = pa.schema(
    [
        ("query_id", pa.string()),
        ("k", pa.int32()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
KS = [None, 1, 40, 0, 1001, 5, None, None, None, None, None, None]


@pytest.fixture(scope="module", params=["Flat", "OPQ8_16,IVF{nlist},PQ8x4fs"])
def spec(request, tmp_path_factory):
    root, new = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("new")
    plan = default_plan(ROWS, DIM, factory=request.param, shards=SHARDS)
    build(root, XB, plan)
    build(new, XNEW, default_plan(NEW, DIM), name="new", first=FIRST_VECTOR_ID + ROWS)
    options = SearchOptions(7, nprobe=max(plan.nlist, 1), k_factor=ROWS)
    return SearchSpec(str(root), "model-a", options, fresh_root=str(new))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name, ids in (
        ("gone", IDS[:ROWS:3]),
        ("allowed", IDS[rng.random(len(IDS)) < 0.2]),
        ("nothing", IDS[:0]),
    ):
        batch = pa.RecordBatch.from_arrays([pa.array(ids)], ["vector_id"])
        list(write_vector_ids(iter([batch]), path=str(folder / name)))
    values = [f"group {n % 25}" if n % 50 else None for n in range(len(IDS))]
    batch = pa.RecordBatch.from_arrays([pa.array(IDS), pa.array(values)], ["vector_id", "value"])
    list(write_groups(iter([batch.slice(0, 700), batch.slice(700)]), path=str(folder / "groups")))
    return folder


def queries():
    rows = [
        {"query_id": f"q{n}", "k": k, "status": "ok", "error": None, "embedding": x}
        for n, (k, x) in enumerate(zip(KS, XQ.tolist(), strict=True))
    ]
    rows.append(
        {"query_id": "cut", "k": 3, "status": "image_truncated", "error": "cut", "embedding": None}
    )
    return pa.RecordBatch.from_pylist(rows, schema=QUERIES)


def scattered(spec, parts):
    """What the job does between the two functions: every query to every part, then grouped by query."""
    batch = queries()
    runs = []
    for number, shards in enumerate(parts):
        part = pa.array([number] * batch.num_rows, pa.int32())
        named = pa.array([shards] * batch.num_rows, pa.list_(pa.int32()))
        runs.append(
            pa.RecordBatch.from_arrays(
                [*batch.columns, part, named], [*batch.schema.names, "part", "shards"]
            )
        )
    # Two parts in one batch, as a partition may hold them.
    both = pa.Table.from_batches(runs[:2]).combine_chunks().to_batches()
    found = pa.Table.from_batches(list(search_part_batches(iter([*both, *runs[2:]]), spec=spec)))
    rows = {}
    for row in found.to_pylist():
        mine = rows.setdefault(row["query_id"], {**row, "parts": []})
        mine["complete"] &= row["complete"]
        mine["parts"].append(row["hits"])
        assert (mine["k"], mine["status"]) == (row["k"], row["status"])
    hits = found.schema.field("hits").type
    schema = pa.schema([*list(found.schema)[:5], pa.field("parts", pa.list_(hits))])
    grouped = pa.RecordBatch.from_pylist(
        [{name: row[name] for name in schema.names} for row in rows.values()], schema=schema
    )
    return list(merge_batches(iter([grouped]), spec=spec))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"gone": "gone"},
        {"gone": "gone", "allowed": "allowed"},
        {"allowed": "nothing"},
        {"groups": "groups", "max_per": 1},
        {"groups": "groups", "max_per": 3, "allowed": "allowed", "gone": "gone"},
        {"min_score": 0.75},
        {"min_score": 0.75, "groups": "groups", "max_per": 1},
        {"min_score": 0.99},
        {"fresh_root": None, "gone": "gone"},
    ],
    ids=str,
)
def test_parts_answer_as_one_search(spec, files, asked):
    paths = {n: str(files / v) for n, v in asked.items() if n in {"gone", "allowed", "groups"}}
    spec = replace(spec, **{**asked, **paths})
    (whole,) = search_batches(iter([queries()]), spec=spec)
    parts = [*PARTS, *([None] if spec.fresh_root else [])]
    (merged,) = scattered(spec, parts)
    assert merged.schema == whole.schema == SEARCH_OUTPUT.arrow
    order = [("query_id", "ascending"), ("rank", "ascending")]
    one, other = (pa.Table.from_batches([b]).sort_by(order).to_pylist() for b in (whole, merged))
    for a, b in zip(one, other, strict=True):
        assert a.pop("score") == pytest.approx(b.pop("score"), abs=1e-6)
        assert a == b
    statuses = {row["query_id"]: row["status"] for row in one}
    assert (statuses["q3"], statuses["q4"], statuses["cut"]) == (
        "k_out_of_range", "k_out_of_range", "image_truncated",
    )  # fmt: skip
    if asked.get("allowed") == "nothing":
        assert statuses["q0"] == "no_rows"


def test_a_part_finds_no_worse_rows_than_the_whole_at_the_default_point(spec):
    """Its candidates hold those that the whole would have taken from its shards, so no rank scores lower."""
    spec = replace(spec, options=SearchOptions(7, nprobe=2, k_factor=2))
    (whole,) = search_batches(iter([queries()]), spec=spec)
    (merged,) = scattered(spec, [*PARTS, None])
    order = [("query_id", "ascending"), ("rank", "ascending")]
    one, other = (pa.Table.from_batches([b]).sort_by(order) for b in (whole, merged))
    assert one["query_id"] == other["query_id"]
    scores = [np.array(t["score"].drop_null().to_pylist()) for t in (one, other)]
    assert (scores[1] >= scores[0] - 1e-6).all()


def test_a_lowest_score_gives_all_rows_that_reach_it_and_says_when_k_cut_them(spec):
    kept = Manifest.read(spec.root).spec.plan.refine == "fp16"
    stored = ranked_halves(XB) if kept else XB
    every = np.sort(XQ @ np.vstack([stored, XNEW]).T)[:, ::-1]
    assert np.abs(every - 0.752).min() > SCORE_TOLERANCE, "a tie with the limit would prove nothing"
    spec = replace(spec, min_score=0.752)
    (found,) = search_batches(iter([queries()]), spec=spec)
    rows = found.to_pylist()
    seen = set()
    for n, k in enumerate(KS):
        k = 7 if k is None else k
        if not 1 <= k <= 1000:
            continue
        mine = [r for r in rows if r["query_id"] == f"q{n}"]
        scores = every[n]
        reach = int((scores >= 0.752).sum())
        status = "no_rows" if not reach else "cut" if reach > k else "ok"
        seen.add(status)
        assert {r["status"] for r in mine} == {status}
        hits = [r["score"] for r in mine if r["rank"]]
        np.testing.assert_allclose(hits, scores[: min(reach, k)], atol=1e-6)
        assert (mine[0]["error"] is None) == (status == "ok")
    assert len(seen) >= 2


def test_groups_are_of_equal_values_and_null_is_none(tmp_path):
    ids = pa.array([9, 3, 7, 5, 1])
    batch = pa.RecordBatch.from_arrays(
        [ids, pa.array(["b", "a", None, "b", ""])], ["vector_id", "value"]
    )
    (written,) = write_groups(iter([batch.slice(0, 2), batch.slice(2)]), path=str(tmp_path / "g"))
    assert written["rows"].to_pylist() == [4]
    groups = read_groups(str(tmp_path / "g"))
    codes = groups.of(np.array([[1, 3, 5], [7, 9, 100]]))
    assert groups.count == 3 and codes[1, 0] == codes[1, 2] == -1
    assert codes[0, 2] == codes[1, 1] and len(set(codes[0].tolist())) == 3
    empty = read_groups(str(tmp_path / "g")).of(np.empty(0, np.int64))
    assert empty.shape == (0,)
