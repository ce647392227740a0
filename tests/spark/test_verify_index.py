"""verify_index finds damage in a lake, repair_index makes it good: files and hits are what they were."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.lake.indexes import find_index, read_manifest
from jobs.lake.runs import Run, record_end
from jobs.reports.finding_table import print_verification
from jobs.stages.index.commit import replace_manifest
from jobs.stages.verify.repair import repair_index
from jobs.stages.verify.verify import verify_index
from jobs.verify_index import command
from tests.spark.index_vectors import append_vectors, build, model_of, unit
from tests.unit.search.indexes import flip
from udfs.errors import IndexDataError, LakeError
from udfs.index.files import record_file
from udfs.search.index import Index
from udfs.specs import SearchOptions

pytestmark = pytest.mark.spark

DIM, ROWS = 32, 1500
IVF_PQ = ("index.factory=OPQ8_32,IVF{nlist},PQ8x4fs", "index.nlist=8", "index.shards=3")


def verified(lake, index_id):
    with record_end(Run(lake, "verify_index", "{}")) as run:
        return verify_index(lake, run, index_id=index_id)


def repaired(lake, index_id):
    with record_end(Run(lake, "repair_index", "{}")) as run:
        return repair_index(lake, run, index_id=index_id)


def shas(root: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(root).iterdir()}


def located(verification) -> set:
    return {(f.shard, f.file, f.kind) for f in verification.findings}


@pytest.mark.long
def test_damage_is_found_repaired_and_searches_find_what_they_found(open_lake):
    lake = open_lake(*IVF_PQ)
    append_vectors(lake, unit(ROWS, DIM), model_id="model-a", rejected=2)
    spec = build(lake, model_of("model-a", DIM))[0].spec
    root, xq = Path(spec.root), unit(20, DIM, seed=5)
    whole = verified(lake, spec.index_id)
    assert whole.ok and whole.rows["sampled rows"] == 200, whole
    assert (whole.rows["living"], whole.rows["in the base"]) == (ROWS, ROWS)
    before, hits = shas(spec.root), Index.open(spec.root).search(xq, SearchOptions(10))

    flip(root / "shard-00001.faiss", 5000)
    (root / "shard-00002.rows.arrow").unlink()
    sets = ["--set", f"lake.root={lake.root}", "--set", f"lake.schema={lake.schema}"]
    done = CliRunner().invoke(command, [*sets, "--index-id", spec.index_id, "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and not told["ok"] and told["run_id"], done.output
    assert [(f["shard"], f["file"], f["kind"]) for f in told["findings"]] == [
        (1, "shard-00001.faiss", "sha256"),
        (2, "shard-00002.rows.arrow", "missing"),
    ]
    assert lake.read("runs").where("job = 'verify_index'").count() == 2
    shown = io.StringIO()
    print_verification(verified(lake, spec.index_id), file=shown)
    assert "is damaged" in shown.getvalue() and "shard-00002.rows.arrow" in shown.getvalue()
    times = {p.name: p.stat().st_mtime_ns for p in root.iterdir()}
    repair = repaired(lake, spec.index_id)
    assert repair.ok and "shard(s) 1, 2" in str(repair) and repair.after.ok
    assert shas(spec.root) == before
    kept = {p.name for p in root.iterdir() if times.get(p.name) == p.stat().st_mtime_ns}
    assert kept == {n for n in before if not n.startswith(("shard-00001.", "shard-00002."))}
    found = Index.open(spec.root).search(xq, SearchOptions(10))
    np.testing.assert_array_equal(found.I, hits.I)
    np.testing.assert_array_equal(found.D, hits.D)

    # What all shards share: the manifest out of the tables, the quantizer out of a shard.
    (root / "manifest.json").unlink()
    assert located(verified(lake, spec.index_id)) == {(None, "manifest.json", "missing")}
    (root / "quantizer.faiss").write_bytes(b"x")
    assert repaired(lake, spec.index_id).ok and shas(spec.root) == before
    assert not repaired(lake, spec.index_id).done

    # Damage that was committed: what is made again has another name than the file that a search has open.
    manifest, x = read_manifest(lake, find_index(lake, spec.index_id)), Index.open(spec.root)
    halves = np.memmap(root / "shard-00000.f16", "<f2", "r+", shape=(manifest.shards[0].rows, DIM))
    halves[:] = halves[::-1].copy()
    halves.flush()
    shard = replace(manifest.shards[0], refine=record_file(root / "shard-00000.f16"))
    replace_manifest(lake, replace(manifest, shards=(shard, *manifest.shards[1:])))
    assert {kind for _, _, kind in located(verified(lake, spec.index_id))} == {
        "vector",
        "search",
        "row",
    }
    repair = repaired(lake, spec.index_id)
    assert repair.ok and "manifest.json committed anew" in repair.done, repair
    committed = read_manifest(lake, find_index(lake, spec.index_id))
    assert committed.shards[0].refine.name.startswith("shard-00000-")
    assert committed.shards[0].index == manifest.shards[0].index
    assert (root / "shard-00000.f16").exists() and x.search(
        xq, SearchOptions(10)
    ).I.shape == hits.I.shape
    np.testing.assert_array_equal(Index.open(spec.root).search(xq, SearchOptions(10)).I, hits.I)


@pytest.mark.long
def test_an_index_that_adds_to_another_and_what_cannot_be_repaired(open_lake, tmp_path):
    lake = open_lake(*IVF_PQ)
    append_vectors(lake, unit(ROWS, DIM), model_id="model-a")
    base = build(lake, model_of("model-a", DIM))[0].spec
    append_vectors(lake, unit(100, DIM, seed=1), model_id="model-a")
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-1_'")
    spec = build(lake, model_of("model-a", DIM))[0].spec
    assert Index.open(spec.root).manifest.base.index_id == base.index_id
    before = shas(spec.root) | shas(base.root)
    # Rows that came and went since are no damage.
    append_vectors(lake, unit(30, DIM, seed=2), model_id="model-a")
    whole = verified(lake, spec.index_id)
    assert whole.ok and whole.rows["fresh"] == 30 and whole.rows["gone"] == 10, whole

    (Path(spec.root) / "gone.int64").unlink()
    flip(Path(spec.root) / "shard-00000.f16", 100)
    flip(Path(base.root) / "shard-00002.f16", 100)
    lake.spark.sql(
        f"DELETE FROM {lake.name('index_shards')} WHERE index_id = '{spec.index_id}' AND shard = 3"
    )
    damaged = located(verified(lake, spec.index_id))
    assert damaged == {
        (None, "gone.int64", "missing"),
        (2, "shard-00002.f16", "sha256"),
        (3, "shard-00000.f16", "sha256"),
        (3, "index_shards", "row"),
    }
    assert repaired(lake, spec.index_id).ok
    assert shas(spec.root) | shas(base.root) == before

    flip(Path(spec.root) / "shard-00000.f16", 100)
    marks = lake.name("index_marks")
    lake.spark.sql(f"UPDATE {marks} SET mark = 'removing' WHERE index_id = '{base.index_id}'")
    with pytest.raises(LakeError, match=f"index {base.index_id} is being removed"):
        repaired(lake, spec.index_id)
    lake.spark.sql(f"DELETE FROM {marks}")
    # The version's files are gone: a shard cannot be built again, and that is said.
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-2__'")
    lake.spark.sql(f"OPTIMIZE {lake.name('vectors')}")
    lake.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    try:
        lake.spark.sql(f"VACUUM {lake.name('vectors')} RETAIN 0 HOURS")
    finally:
        lake.spark.conf.unset("spark.databricks.delta.retentionDurationCheck.enabled")
    vacuumed = verified(lake, spec.index_id)
    assert not vacuumed.own_version and "can no longer be read" in str(vacuumed)
    assert located(vacuumed) == {(3, "shard-00000.f16", "sha256")}
    assert vacuumed.rows["gone since"] > 0
    with pytest.raises(IndexDataError, match=r"cannot be repaired: shard 3.*vacuumed.*build-index"):
        repaired(lake, spec.index_id)
