"""build_index makes whole indexes of exactly the model's vectors, resumes, and refuses what it cannot build."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jobs.driver.printing import json_line
from jobs.lake.indexes import index_drift
from jobs.stages.index.extend import MAX_ERROR
from tests.lake_settings import settings_of
from tests.spark.conftest import IVF_PQ
from tests.spark.index_vectors import append_vectors, build, model_of, unit
from udfs.errors import IndexDataError, LakeError, SettingsError
from udfs.index.manifest import Manifest

pytestmark = pytest.mark.spark

DIM, ROWS = 32, 1500


@pytest.fixture
def sharded(lakes, open_lake, tmp_path):
    """A lake of ROWS vectors of model-a and their index, copied; with the index's manifest as it lies there."""
    from jobs.lake.indexes import read_indexes, read_manifest

    lakes.copy(lakes.sharded, tmp_path / "lake")
    lake = open_lake(*IVF_PQ)
    (row,) = read_indexes(lake, model_id="model-a").values()
    return lake, read_manifest(lake, row).spec


def files(root: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(root).iterdir()}


def test_sharded_ivf_pq_holds_every_vector_resumes_and_is_built_once(open_lake):
    import mlflow

    from udfs.search.exact import exact_topk
    from udfs.search.index import Index
    from udfs.specs import SearchOptions

    lake = open_lake(*IVF_PQ)
    x = unit(ROWS, DIM)
    x[7] = x[8]  # the same content twice
    append_vectors(lake, x, model_id="model-a", rejected=5)
    append_vectors(lake, unit(40, DIM, seed=1), model_id="model-b")
    report, run = build(lake, model_of("model-a", DIM))
    stored = lake.read("vectors").where("model_id = 'model-a' AND status = 'ok'").collect()

    index = Index.open(report.spec.root, model_id="model-a")
    vector_ids = np.array([row.vector_id for row in stored], np.int64)
    xb = np.array([row.embedding for row in stored], np.float32)
    parts = [set(shard.vector_ids.tolist()) for shard in index.shards]
    assert len(parts) == 3 and sum(map(len, parts)) == ROWS
    assert set.union(*parts) == set(vector_ids.tolist())

    xq = unit(40, DIM, seed=2)
    D, I = exact_topk(xq, [(vector_ids, xb)], 10)
    found = index.search(xq, SearchOptions(10, nprobe=8, k_factor=150))
    assert np.abs(found.D - D).max() < 1e-3 and (found.I == I).mean() > 0.98
    names = {row.vector_id: row.id for row in stored}
    assert [names[v] for v in found.I.ravel()] == found.ids.ravel().tolist()

    row = lake.read("indexes").collect()
    assert [(r.index_id, r.rows, r.shards, r.model_id) for r in row] == [
        (report.spec.index_id, ROWS, 3, "model-a")
    ]
    assert json.loads(row[0].params)["nlist"] == 8 and row[0].run_id == run.run_id
    shards = lake.read("index_shards").collect()
    assert {Path(s.path).name for s in shards} < set(files(report.spec.root)) and len(shards) == 9
    logged = mlflow.get_run(run.mlflow_run_id)
    assert logged.data.tags["index_id"] == report.spec.index_id
    assert logged.data.metrics["rows.indexed"] == ROWS
    assert logged.data.metrics["rows.trained_on"] == ROWS
    assert logged.data.metrics["index.bytes"] == report.bytes
    assert logged.data.metrics["rows.checked"] == 50
    assert [i.tags[0].value for i in logged.inputs.dataset_inputs] == ["vectors"]

    told = {one.name: one for one in report.predictions}
    assert len(told) == 4 and all(one.measured > 0 for one in told.values())
    memory = told["encode, memory of a task"]
    assert memory.in_bytes and 0.6 < memory.predicted / memory.measured < 1.6
    assert "train, core seconds " in str(report) and "(predicted " in str(report)
    values = json.loads(json_line(report.values()))
    assert (values["index_id"], values["built"]) == (report.spec.index_id, True)
    assert len(values["predictions"]) == 4
    kept = lake.read("runs").where(f"run_id = '{run.run_id}'").first()
    assert kept.seconds["tasks.train.predicted"] > 0
    assert kept.counts["encode_peak_predicted_bytes"] == memory.predicted

    version, before = lake.version("indexes"), files(report.spec.root)
    again, _ = build(lake, model_of("model-a", DIM))
    assert not again.built and "nothing to build" in str(again)
    assert files(report.spec.root) == before and lake.version("indexes") == version

    # As a build leaves it that was killed in the middle: no row, no manifest, one shard missing.
    lake.spark.sql(f"DELETE FROM {lake.name('indexes')}")
    for path in [
        *Path(report.spec.root).glob("shard-00001.*"),
        Path(report.spec.root) / "manifest.json",
    ]:
        path.unlink()
    resumed, _ = build(lake, model_of("model-a", DIM))
    after = files(report.spec.root)
    assert resumed.built and resumed.kept == (0, 2)
    assert [one.name.split(",")[0] for one in resumed.predictions] == ["encode", "encode"]
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {n for n in before if n.startswith("shard-00001.")} | {"manifest.json"}
    # A second attempt of a task writes the same bytes, so it cannot spoil what the first one recorded.
    assert {s.path: s.sha256 for s in lake.read("index_shards").collect()} == {
        s.path: s.sha256 for s in shards
    }
    assert Index.open(report.spec.root).rows == ROWS


def test_few_rows_get_an_exact_index_and_shards_without_rows_are_built(open_lake):
    from udfs.search.index import Index
    from udfs.specs import SearchOptions

    lake = open_lake("index.shards=4")
    x = unit(2, 16)
    append_vectors(lake, x, model_id="model-a")
    report, _ = build(lake, model_of("model-a", 16))
    assert report.spec.plan.factory == "Flat" and report.spec.plan.refine == "none"
    rows = [s.rows for s in Index.open(report.spec.root).manifest.shards]
    assert len(rows) == 4 and sum(rows) == 2 and 0 in rows
    found = Index.open(report.spec.root).search(x, SearchOptions(1))
    assert found.ids.ravel().tolist() == ["model-a-0", "model-a-1"]


def test_a_shard_damaged_before_the_commit_is_found(sharded):
    lake, whole = sharded
    lake.spark.sql(f"DELETE FROM {lake.name('indexes')}")
    path = Path(whole.root) / "shard-00002.f16"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(IndexDataError, match=r"shard-00002.f16 has sha-256 .* not committed"):
        build(lake, model_of("model-a", DIM))
    assert lake.read("indexes").count() == 0


def test_refusals_say_what_was_asked_and_what_was_found(open_lake):
    lake = open_lake("index.factory=IVF{nlist},SQ8", "index.nlist=4")
    with pytest.raises(LakeError, match=r"no vectors of model model-a .* none of any model"):
        build(lake, model_of("model-a", DIM))
    append_vectors(lake, unit(100, DIM), model_id="model-b")
    with pytest.raises(LakeError, match=re.escape("model-b (100 rows)")):
        build(lake, model_of("model-a", DIM))
    with pytest.raises(SettingsError, match=r"needs 156 rows to train on .* there are 100"):
        build(lake, model_of("model-b", DIM))
    append_vectors(lake, unit(100, DIM, seed=1), model_id="model-b")
    few = open_lake("index.factory=IVF{nlist},SQ8", "index.nlist=4", "index.train_rows=120")
    with pytest.raises(SettingsError, match=r"needs 156 rows to train on .* there are 120"):
        build(few, model_of("model-b", DIM))
    append_vectors(lake, unit(30, 16, seed=1), model_id="model-b")
    with pytest.raises(IndexDataError, match=r"must have 32 floats each; .* has 16 floats"):
        build(lake, model_of("model-b", DIM))
    assert lake.read("indexes").count() == 0 and lake.read("index_shards").count() == 0


def exact_of(lake, xq, k):
    """Scores of exact search over the vectors of now."""
    from udfs.search.exact import exact_topk

    stored = lake.read("vectors").where("model_id = 'model-a' AND status = 'ok'").collect()
    vector_ids = np.array([row.vector_id for row in stored], np.int64)
    return exact_topk(xq, [(vector_ids, np.array([r.embedding for r in stored], np.float32))], k)


@pytest.mark.long
def test_a_later_build_adds_what_is_new_to_the_whole_index(sharded):
    from jobs.stages.index.changes import changes_since
    from jobs.stages.index.plan import plan_index
    from udfs.search.index import Index
    from udfs.specs import SearchOptions

    lake, whole = sharded
    before = files(whole.root)
    append_vectors(lake, unit(100, DIM, seed=1), model_id="model-a", rejected=3)
    append_vectors(lake, unit(40, DIM, seed=2), model_id="model-b")
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-1_'")

    shown = str(plan_index(lake, settings_of(lake).index, model=model_of("model-a", DIM)))
    report, run = build(lake, model_of("model-a", DIM))
    # The names of the second hundred are those of the first: twenty rows are gone.
    assert f"90 new rows and 10 gone are added to index {whole.index_id}" in shown
    assert shown.split(": ", 1)[1].split(";")[0].endswith(str(report.extension))
    assert report.built and report.rows == ROWS + 80 and "tasks.train" not in run.seconds
    assert files(whole.root) == before and run.counts["checked"] == 50
    assert not {"quantizer.faiss", "shard-00001.faiss"} & set(files(report.spec.root))

    index = Index.open(report.spec.root, model_id="model-a")
    xq = unit(30, DIM, seed=5)
    D, I = exact_of(lake, xq, 10)
    found = index.search(xq, SearchOptions(10, nprobe=8, k_factor=160))
    assert index.rows == ROWS + 80
    assert np.abs(found.D - D).max() < 1e-3 and (found.I == I).mean() > 0.98
    changes = changes_since(lake, index.manifest, version=lake.version("vectors"))
    assert (changes.gone, changes.fresh) == (0, 0)

    row = lake.read("indexes").where(f"index_id = '{report.spec.index_id}'").first()
    assert (row.rows, row.shards, row.bytes) == (ROWS + 80, 4, report.bytes)
    assert json.loads(row.params)["base"] == whole.index_id
    shards = lake.read("index_shards").where(f"index_id = '{report.spec.index_id}'").collect()
    kinds = {(s.kind, s.shard): s.rows for s in shards}
    assert kinds["tombstones", -1] == 10 and kinds["delta", 3] == 90
    assert sum(rows for (kind, _), rows in kinds.items() if kind == "base") == ROWS
    assert all(Path(lake.resolve(s.path)).stat().st_size == s.bytes for s in shards)

    again, _ = build(lake, model_of("model-a", DIM))
    assert not again.built and again.spec.index_id == report.spec.index_id
    # A row is no index: where its files are gone they are made again, and the row tells of those.
    (Path(report.spec.root) / "shard-00000.rows.arrow").unlink()
    (Path(report.spec.root) / "gone.int64").unlink()
    mended, _ = build(lake, model_of("model-a", DIM))
    assert mended.built and mended.spec == report.spec and mended.rows == ROWS + 80
    stands = lake.read("indexes").where(f"index_id = '{report.spec.index_id}'").collect()
    assert (
        len(stands) == 1
        and Manifest.read(report.spec.root, sha256=stands[0].manifest_sha256).missing_files() == []
    )
    # A third build adds to the whole index, not to what was added to it: searches open two at most.
    extended = Index.open(report.spec.root).manifest
    assert index_drift(lake, extended) is None
    append_vectors(lake, unit(50, DIM, seed=3), model_id="model-a")
    assert 0.8 < index_drift(lake, extended) < MAX_ERROR
    third, _ = build(lake, model_of("model-a", DIM))
    assert (third.extension.fresh, third.extension.gone) == (140, 10)
    assert Index.open(third.spec.root).manifest.base.index_id == whole.index_id

    # As it is left by a build that was killed before its commit.
    lake.spark.sql(f"DELETE FROM {lake.name('indexes')} WHERE index_id = '{third.spec.index_id}'")
    (Path(third.spec.root) / "manifest.json").unlink()
    resumed, _ = build(lake, model_of("model-a", DIM))
    assert resumed.built and resumed.kept == (0,) and resumed.spec == third.spec


@pytest.mark.long
def test_many_or_unlike_new_rows_and_other_shapes_are_built_whole(sharded, open_lake, caplog):
    lake, _ = sharded
    append_vectors(lake, unit(20, DIM, seed=1), model_id="model-a")
    for sets in (("index.seed=7",), ("index.shards=2",), ("index.extend=false",)):
        other, _ = build(open_lake(*IVF_PQ, *sets), model_of("model-a", DIM))
        assert other.built and other.extension is None

    half, other_half = np.zeros((2, 1000, DIM), np.float32)
    half[:, : DIM // 2], other_half[:, DIM // 2 :] = unit(1000, DIM // 2), unit(1000, DIM // 2)
    append_vectors(lake, half, model_id="model-c")
    base, _ = build(lake, model_of("model-c", DIM))
    append_vectors(lake, other_half[:100], model_id="model-c")
    assert index_drift(lake, Manifest.read(base.spec.root)) > MAX_ERROR
    with caplog.at_level("INFO", "gme_lake"):
        drifted, _ = build(lake, model_of("model-c", DIM))
    assert drifted.built and drifted.extension is None
    assert re.search(r"built again: its quantizer loses 1\.\d+ of a new row's", caplog.text)

    rows_file = Path(other.spec.root) / "shard-00001.rows.arrow"
    kept = rows_file.read_bytes()
    rows_file.write_bytes(kept[:-9])
    damaged, _ = build(lake, model_of("model-a", DIM))
    assert damaged.extension is None and "shard-00001.rows.arrow has" in caplog.text
    rows_file.write_bytes(kept)

    append_vectors(lake, unit(ROWS // 4, DIM, seed=3), model_id="model-a")
    caplog.clear()
    with caplog.at_level("INFO", "gme_lake"):
        many, _ = build(lake, model_of("model-a", DIM))
    assert many.built and many.extension is None
    assert re.search(r"built again: \d+ rows are new since, more than 20% of its", caplog.text)
