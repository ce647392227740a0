"""Every kind of place where an id or its vector may stand is looked into, and what is planted there is found and located."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.reports.hits import Hit, QueryResult, write_search_report
from tests.unit.search.indexes import build, clustered, small_ivf_plan
from udfs.full_text.text_index import write_full_text
from udfs.index.plan import default_plan
from udfs.index.vectors import halves_of_floats
from udfs.purge.scan import (
    ID,
    TEXT,
    UNREADABLE,
    UNTOLD,
    VECTOR,
    VECTOR_ID,
    learn_batches,
    scan_batches,
    scan_file,
)
from udfs.purge.traces import Traces, read_traces
from udfs.recall.query_set import QUERY_SET_INPUT, QuerySetSpec, write_query_set

DIM, ROWS, GONE = 32, 700, 17
X = clustered(ROWS, DIM)
IDS = [f"sku-{n}" for n in range(ROWS)]
VECTOR_IDS = np.arange(ROWS, dtype=np.int64) + 1000
NOTHING = pa.table(
    {"vector_id": pa.array([], pa.int64()), "embedding": pa.array([], pa.list_(pa.float32()))}
)


def traces(*ids: str, rows: tuple[int, ...] = (GONE,), x=X) -> Traces:
    known = pa.table(
        {
            "vector_id": pa.array(VECTOR_IDS[list(rows)]),
            "embedding": pa.array([x[row] for row in rows], pa.list_(pa.float32())),
        }
    )
    return Traces.of(ids or [IDS[row] for row in rows], known)


def parquet(path: Path, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=100)
    return path


def plant_vectors(root: Path, rows) -> Path:
    embedding = pa.array([X[row] for row in rows], pa.list_(pa.float32()))
    ids, numbers = pa.array([IDS[row] for row in rows]), pa.array(VECTOR_IDS[list(rows)])
    path = root / "tables" / "vectors" / "_change_data" / "cdc-1.parquet"
    return parquet(path, id=ids, vector_id=numbers, embedding=embedding)


def plant_first_hits(root: Path, rows) -> Path:
    hits = pa.array([[IDS[row], "other"] for row in rows])
    queries = pa.array([f"q{n}" for n in range(len(rows))])
    return parquet(
        root / "tables" / "evaluated_queries" / "a.parquet", query_id=queries, first_hits=hits
    )


def plant_error(root: Path, rows) -> Path:
    texts = pa.array([f"ids have no vector row: '{IDS[row]}', …" for row in rows])
    return parquet(root / "tables" / "run_events" / "a.parquet", error=texts)


def plant_struct(root: Path, rows) -> Path:
    hits = pa.array([{"hits": [{"name": IDS[row]}]} for row in rows])
    marks = pa.array([[(IDS[row], 1)] for row in rows], pa.map_(pa.string(), pa.int32()))
    pictures = pa.array([b"\xff\xd8" for _ in rows])
    return parquet(root / "mine" / "a.parquet", chosen=hits, marks=marks, image=pictures)


def plant_staged(root: Path, rows) -> Path:
    path = root / "staging" / "run" / "changes" / "a.parquet"
    return parquet(
        path, vector_id=pa.array(VECTOR_IDS[list(rows)]), is_new=pa.array([True] * len(rows))
    )


def plant_unnamed(root: Path, rows) -> Path:
    embedding = pa.array([X[row] for row in rows], pa.list_(pa.float32()))
    return parquet(
        root / "staging" / "run" / "copy.parquet",
        content=pa.array(["x"] * len(rows)),
        embedding=embedding,
    )


def plant_query_set(root: Path, rows) -> Path:
    columns = [
        [f"query {row}" for row in rows],
        [None] * len(rows),
        [X[row].tolist() for row in rows],
    ]
    batch = QUERY_SET_INPUT.batch(*columns)
    spec = QuerySetSpec(str(root / "recall"), DIM)
    (made,) = write_query_set(iter([batch]), spec=spec)
    return root / "recall" / f"{made['query_set'][0].as_py()}.queries.arrow"


def plant_page(root: Path, rows) -> Path:
    hits = [Hit(n + 1, IDS[row], 0.5) for n, row in enumerate(rows)]
    path = root / "reports" / "hits.html"
    return write_search_report(
        path, title="t", queries=[QueryResult("q", "a mug", None, hits)], facts={}
    )


def plant_log(root: Path, rows) -> Path:
    stats = {"minValues": {"id": IDS[rows[0]]}, "numRecords": len(rows)}
    path = root / "tables" / "vectors" / "_delta_log" / "00000000000000000001.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"add": {"path": "a", "stats": json.dumps(stats)}}) + "\n")
    return path


def plant_jsonl(root: Path, rows) -> Path:
    path = root / "results.jsonl"
    root.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"rank": 1, "id": IDS[row]}) + "\n" for row in rows))
    return path


def plant_halves(root: Path, rows) -> Path:
    path = root / "indexes" / "left" / "shard-00000.f16"
    path.parent.mkdir(parents=True)
    path.write_bytes(halves_of_floats(X[list(rows)]).tobytes())
    return path


def plant_flat(root: Path, rows) -> Path:
    """A cached shard: a copy by sha-256 without the row map beside it."""
    build(root / "aside", X[list(rows)], default_plan(len(rows), DIM, factory="Flat"))
    path = root / "cache" / "0123-shard-00000.faiss"
    path.parent.mkdir()
    (root / "aside" / "shard-00000.faiss").rename(path)
    return path


def plant_database(root: Path, rows) -> Path:
    path = root / "mlflow.db"
    root.mkdir(exist_ok=True)
    path.write_bytes(
        b"\0\1" + b"\0".join(f"note about thing:{IDS[row]}".encode() for row in rows) + b"\0"
    )
    return path


PLACES: list[tuple[Callable, str, str]] = [
    (plant_vectors, ID, "id"),
    (plant_first_hits, ID, "first_hits"),
    (plant_error, TEXT, "error"),
    (plant_struct, ID, "chosen.hits.name"),
    (plant_struct, ID, "marks.key"),
    (plant_staged, VECTOR_ID, "vector_id"),
    (plant_unnamed, VECTOR, "embedding"),
    (plant_query_set, VECTOR, "embedding"),
    (plant_page, TEXT, ""),
    (plant_log, TEXT, ""),
    (plant_jsonl, TEXT, ""),
    (plant_halves, VECTOR, ""),
    (plant_flat, VECTOR, ""),
    (plant_database, TEXT, ""),
]


@pytest.mark.parametrize(
    ("plant", "kind", "place"), PLACES, ids=lambda p: getattr(p, "__name__", None)
)
def test_what_is_planted_is_found_and_located(plant, kind, place, tmp_path):
    rows = [*range(GONE - 5, GONE), *range(GONE + 1, GONE + 8)]
    clean = plant(tmp_path / "clean", rows)
    assert [f for f in scan_file(str(clean), traces()) if f.kind != UNTOLD] == []
    path = plant(tmp_path / "planted", [GONE, *rows])
    found = {(f.kind, f.place): f for f in scan_file(str(path), traces())}
    one = found[kind, place]
    assert (one.path, one.rows) == (str(path), 1)
    if kind in (ID, TEXT):
        assert one.ids == (IDS[GONE],)


def test_words_of_a_tables_comments_are_no_ids(tmp_path):
    """What a log says of its table's columns stays in it for good; what it says of rows is looked into as ever."""
    word, (named, other) = "picture", IDS[:2]
    schema = json.dumps({"fields": [{"name": word, "metadata": {"comment": f'a "{word}" of it'}}]})
    table = {"id": "5ec66945", "description": f"One row a {word}.", "schemaString": schema}
    log = tmp_path / "tables" / "vectors" / "_delta_log"
    log.mkdir(parents=True)
    commit, sums = log / "00000000000000000003.json", log / "00000000000000000003.crc"
    for holds, found in ((other, []), (named, [TEXT])):
        added = {"add": {"path": "a", "partitionValues": {"description": holds}}}
        lines = [json.dumps(one, separators=(",", ":")) for one in ({"metaData": table}, added)]
        commit.write_text("\n".join(lines))
        sums.write_text(json.dumps({"metadata": table, "allFiles": [added]}, separators=(",", ":")))
        for path in (commit, sums):
            assert [f.kind for f in scan_file(str(path), traces(word, named))] == found
        meta = pa.array([table, None], pa.struct([(name, pa.string()) for name in table]))
        paths = pa.array([None, holds])
        checkpoint = parquet(
            log / "00000000000000000003.checkpoint.parquet", metaData=meta, add=paths
        )
        places = [f.place for f in scan_file(str(checkpoint), traces(word, named))]
        assert places == ["add"] * len(found)
    # Elsewhere it may be a row's.
    outside = tmp_path / "results.json"
    outside.write_text(json.dumps({"schemaString": f"{word}"}, separators=(",", ":")))
    assert scan_file(str(outside), traces(word))


def index_of(root: Path):
    return build(root, X, small_ivf_plan(ROWS, DIM, nlist=4, shards=2), first=1000, name="sku")


def found_below(root: Path, wanted: Traces) -> list[tuple[str, str]]:
    files = sorted(str(p) for p in root.rglob("*") if p.is_file())
    found = [one for path in files for one in scan_file(path, wanted)]
    return [(Path(one.path).name, one.kind) for one in found]


def test_an_index_is_told_by_its_row_maps_and_its_manifest(tmp_path):
    root = tmp_path / "index"
    index_of(root)
    name = "sku-1017"  # the index names its rows by vector_id
    (mapped,) = [
        p.name
        for p in root.glob("*.rows.arrow")
        if name in pa.ipc.open_file(p).read_all()["id"].to_pylist()
    ]
    assert found_below(root, traces(name)) == [(mapped, VECTOR_ID), (mapped, ID)]
    assert found_below(root, traces("sku-99", rows=())) == []
    # An id may be a word of other rows' texts, which are in the index as the row map says.
    write_full_text([(1000, "mug noted")], shard=0, root=str(root), work_dir=None)
    assert found_below(root, traces("noted", rows=())) == []

    # Without its manifest nobody knows what the quantizer was trained on; without its row map what a shard holds.
    (root / "manifest.json").unlink()
    assert ("quantizer.faiss", UNTOLD) in found_below(root, traces("sku-99", rows=()))
    (root / mapped).unlink()
    shard = mapped.removesuffix(".rows.arrow")
    left = found_below(root, traces(name))
    assert (f"{shard}.faiss", UNTOLD) in left and (f"{shard}.f16", VECTOR) in left


def test_ids_and_vectors_are_learnt_from_tables_and_row_maps(tmp_path):
    index_of(tmp_path / "index")
    paths = [str(p) for p in (tmp_path / "index").glob("*.rows.arrow")]
    paths += [str(plant_vectors(tmp_path, range(ROWS))), str(tmp_path / "gone.parquet")]
    wanted = traces("sku-17", "sku-1699", "nobody", rows=()).write(str(tmp_path))
    batch = pa.RecordBatch.from_pydict({"path": paths})
    learnt = pa.Table.from_batches(learn_batches(iter([batch]), traces=wanted))
    by_id = {}
    for row in learnt.to_pylist():
        by_id.setdefault(row["id"], []).append((row["vector_id"], row["embedding"] is not None))
    assert by_id == {"sku-1699": [(1699, False)], "sku-17": [(1017, True)]}

    known = Traces.of(["sku-17", "sku-1699"], learnt)
    assert known.vector_ids.tolist() == [1017, 1699]
    assert [v.tolist() for v in known.vectors] == [X[17].tolist()]
    assert Traces.of(["sku-17"], learnt, shared=[X[17].tobytes()]).vectors == ()
    again = read_traces(known.write(str(tmp_path / "again")))
    assert (again.ids, again.vector_ids.tolist()) == (known.ids, [1017, 1699])
    assert [v.tobytes() for v in again.vectors] == [X[17].tobytes()]


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("sku-7", "sku-7 was rejected", True),
        ("sku-7", "sku-77 and asku-7 were rejected", False),
        ("a.b(c)", "see a.b(c).", True),
        ("a.b(c)", "see axb(c).", False),
        ("p7", "ids p7 of 9", False),  # as any word may be
        ("p7", "'p7', …", True),
        ("p7", '{\\"minValues\\":{\\"id\\":\\"p7\\"}}', True),
        ("p7", '<div class="id">p7</div>', True),
        ("7", "7 rows of '7' more", False),
        ("7", '<div class="id">7</div>', True),
        ("7", '{"id": 7, "rank": 1}', True),
        ("7", '{"id": 1, "rank": 7}', False),
        ("7", '{\\"id\\":\\"7\\"}', True),
        ("12345678", "row 12345678 was rejected", True),
        ('say "x"', json.dumps({"id": 'say "x"'}), True),
        ("a&b & c", "<div>a&amp;b &amp; c</div>", True),
        ("größe-1", json.dumps({"id": "größe-1"}), True),
    ],
)
def test_when_a_text_names_an_id(name, text, named, tmp_path):
    path = tmp_path / "text"
    path.write_text(f"first line\n{text}\n")
    assert [f.kind for f in scan_file(str(path), traces(name, rows=()))] == [TEXT] * named


def test_vectors_are_found_wherever_they_begin_and_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr("udfs.purge.traces._BLOCK", 1000)
    rng = np.random.default_rng(0)
    for form in (X[GONE].tobytes(), halves_of_floats(X[[GONE]]).tobytes()):
        for start in (0, 1, 2, 3, 500, 999, 1000, 1001, 1000 - len(form) // 2, 4000 - len(form)):
            data = bytearray(rng.bytes(4000))
            data[0] = 0xFF  # no text
            path = tmp_path / "file.bin"
            path.write_bytes(data[:start] + form + data[start + len(form) :])
            assert [(f.kind, f.rows) for f in scan_file(str(path), traces())] == [(VECTOR, 1)], (
                start
            )
            data[start : start + len(form)] = form[:-1] + bytes([form[-1] ^ 1])
            path.write_bytes(data)
            assert scan_file(str(path), traces()) == [], start


def test_what_is_no_finding_and_what_cannot_be_read(tmp_path):
    wanted = traces()
    assert scan_file(str(tmp_path / "vacuumed meanwhile.parquet"), wanted) == []
    (tmp_path / "empty.f16").touch()
    assert scan_file(str(tmp_path / "empty.f16"), wanted) == []
    whole = plant_vectors(tmp_path, range(50))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-100])
    assert [f.kind for f in scan_file(str(cut), wanted)] == [UNREADABLE]
    # Columns of a lake table in which no id stands, and vector_ids of another lake, say nothing.
    assert scan_file(str(whole), wanted, columns=[], same_lake=False) == []
    kinds = [f.kind for f in scan_file(str(whole), wanted, columns=["id"], same_lake=False)]
    assert kinds == [ID]


def test_a_task_looks_into_the_files_of_its_rows(tmp_path):
    rows = [GONE, 3, 4]
    paths = [plant_vectors(tmp_path, rows), plant_jsonl(tmp_path, rows)]
    wanted = traces().write(str(tmp_path))
    asked = pa.RecordBatch.from_pydict(
        {"path": [str(p) for p in paths], "columns": [["id"], None], "same_lake": [True, True]}
    )
    found = pa.Table.from_batches(scan_batches(iter([asked]), traces=wanted)).to_pylist()
    assert [(f["path"], f["kind"], f["ids"]) for f in found] == [
        (str(paths[0]), ID, [IDS[GONE]]),
        (str(paths[0]), VECTOR_ID, []),
        (str(paths[1]), TEXT, [IDS[GONE]]),
    ]
