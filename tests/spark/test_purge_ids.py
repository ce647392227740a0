"""purge-ids: afterwards no file of the lake holds an id or its vector; what is left is found; killed anywhere it
finishes.
"""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import purge_ids as purge_command
from jobs.driver.cli import JobContext
from jobs.lake.claims import PURGE, claim
from jobs.lake.indexes import find_index, read_manifest
from jobs.lake.releases import current_release, rollback
from jobs.lake.runs import Run, open_run, record_end
from jobs.reports.hits import Hit, QueryResult, write_search_report
from jobs.stages.purge import job, tables
from jobs.stages.purge.job import plan_purge, purge_ids
from jobs.stages.verify.verify import verify_index
from tests.lake_settings import settings_of
from tests.spark.conftest import source_rows
from tests.spark.index_vectors import build, model_of, release
from tests.spark.sources import assert_clean
from udfs.errors import ActiveRunError, LakeError
from udfs.full_text.hybrid import open_full_text
from udfs.search.index import Index
from udfs.specs import SearchOptions

pytestmark = [pytest.mark.spark, pytest.mark.long]

GONE = "p9"  # the greatest id of its file: it stands in the statistics of the log


def purge(lake, *ids):
    with record_end(Run(lake, PURGE, "{}")) as run:
        try:
            return purge_ids(lake, run, list(ids), timeout=60)
        finally:
            print("SECONDS", run.seconds)


@contextmanager
def killed(monkeypatch, module, step, *, before):
    """The run ends right before or after a step, as if it were killed."""
    real = getattr(module, step)

    def played(*arguments, **options):
        if not before:
            real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, step, played)
        yield


def names_of(folder: str | Path) -> set[str]:
    """Every id in the Parquet files below a folder, whatever version or change they are of."""
    files = [p for p in Path(folder).rglob("*.parquet") if "_delta_log" not in p.parts]
    tables_ = [pq.ParquetFile(path).read() for path in files]
    return {name for t in tables_ if "id" in t.column_names for name in t["id"].to_pylist()}


def logs(lake) -> str:
    return "".join(p.read_text() for p in Path(lake.root).rglob("tables/*/_delta_log/*.json"))


def found_in(report) -> set[tuple[str, str]]:
    return {(s.file.part, s.found.kind) for s in report.before.ours}


def test_a_purge_from_refusal_to_proof(released, monkeypatch, tmp_path):
    shop = released
    spark, lake = shop.spark, shop.lake()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    with pytest.raises(
        LakeError, match=rf"still has 1 of the 2 ids \('{GONE}'\).*Delete their rows"
    ):
        plan_purge(lake, [GONE, "nobody"])
    spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id = '{GONE}'")

    # Leftovers of another model, other indexes, results, a page, a cache, texts, and a killed run's files.
    vectors = lake.name("vectors")
    spark.sql(
        f"INSERT INTO {vectors} (model_id, id, content_hash, status, error, embedding, run_id, embedded_at) "
        f"SELECT 'model-b', id, content_hash, status, error, reverse(embedding), run_id, embedded_at FROM {vectors}"
    )
    first = current_release(lake)
    own = lake.read("vectors").where(f"model_id = '{first.model_id}' AND id = '{GONE}'").first()
    other = build(lake, model_of("model-b", len(own.embedding)))[0].spec.index_id
    seeded = release(shop.lake("index.seed=1", "index.full_text=true"))
    results = lake.read("vectors").selectExpr("'q' AS query_id", "id", "vector_id")
    results.write.format("delta").save(f"{lake.root}/results")
    page = Path(lake.root) / "pages" / "hits.html"
    hits = [Hit(1, GONE, 0.9), Hit(2, "p1", 0.5)]
    write_search_report(page, title="hits", queries=[QueryResult("q", "x", None, hits)], facts={})
    staged = (
        lake.read("vectors").where("status = 'ok'").selectExpr("content_hash AS c", "embedding")
    )
    staged.write.parquet(f"{lake.root}/staging/killed/copy")
    cached = job.cache_folder()
    cached.mkdir(mode=0o700)
    for file in Path(lake.folder("indexes", first.index_id)).glob("shard-*"):
        shutil.copy(file, cached / f"0123-{file.name}")
    lake.append("evaluated_queries", [
        {"evaluation_id": "e", "task": "t", "query_id": "q", "metrics": {}, "first_hits": [GONE, "p1"]}
    ])  # fmt: skip
    failed = Run(lake, "embed_table", "{}")
    failed.begin()
    failed.end("failed", error=f"2 ids have no vector row: '{GONE}', 'p1', …")

    planned = plan_purge(lake, [GONE])
    assert planned.rows == {first.model_id: 1, "model-b": 1}
    assert set(planned.indexes) == {first.index_id, seeded.index_id, other}
    assert planned.rebuilt == seeded.index_id and planned.releases == (1, 2)
    assert found_in(planned) >= {
        ("table", "id"), ("table", "vector_id"), ("table", "id in a text"), ("index", "id"),
        ("intermediate files", "vector"), ("cache", "id"), ("other", "id"), ("other", "id in a text"),
    }  # fmt: skip
    told = str(planned)
    assert "no longer be rolled back to: 1, 2" in told and "older versions of the source" in told
    assert current_release(lake) == seeded and GONE in names_of(lake.folder("tables"))

    # Killed with the index built and not released, with indexes removed, with old files gone and still named by the log.
    for module, step, before in [
        (job, "commit_index", False),
        (job, "redact", True),
        (tables, "_versions_naming", True),
    ]:
        with killed(monkeypatch, module, step, before=before):
            purge(lake, GONE)
    report = purge(lake, GONE)
    assert GONE not in names_of(lake.folder("tables")) | names_of(lake.folder("staging"))
    assert f'\\"{GONE}\\"' not in logs(lake)
    made = current_release(lake)
    assert {p.name for p in Path(lake.folder("indexes")).iterdir()} == {made.index_id}
    assert not list(cached.iterdir()) and not (Path(lake.root) / "staging" / "killed").exists()
    row = lake.read("evaluated_queries").first()
    assert row.first_hits == ["purged", "p1"]
    errors = [
        r.error for r in lake.read("run_events").where(f"run_id = '{failed.run_id}'").collect()
    ]
    assert sorted(filter(None, errors)) == ["2 ids have no vector row: 'purged', 'p1', …"]

    # What is not the lake's own to remove is found, located, and makes it fail until it is gone.
    assert not report.ok
    left = {Path(f.path).relative_to(lake.root).parts[0]: f.kind for f in report.left}
    assert set(left) == {"results", "pages"} and left["pages"] == "id in a text"
    shutil.rmtree(f"{lake.root}/results")
    page.unlink()
    proof = purge(lake, GONE)
    assert proof.ok and "none holds one of the ids or its vector" in str(proof)
    assert not [line for line in logs(lake).splitlines() if f'"{GONE}' in line]

    # The release works, in the same shape; others cannot be gone back to; nobody embeds it again.
    index = read_manifest(lake, find_index(lake, made.index_id))
    assert index.spec.plan.seed == 1 and index.rows == 11 and made.note == job._NOTE
    x = lake.read("vectors").where(f"model_id = '{made.model_id}' AND id = 'p1'").first().embedding
    hits = Index.open(lake.folder("indexes", made.index_id)).search(
        np.array([x], np.float32), SearchOptions(11)
    )
    assert own.vector_id not in hits.I
    (texts,) = open_full_text(lake.folder("indexes", made.index_id))
    assert texts.rows == 11 and own.vector_id not in texts.search("thing 1 2 3 4 5 6 7", 11)[1]
    with record_end(Run(lake, "verify_index", "{}")) as run:
        verification = verify_index(lake, run, index_id=made.index_id)
    assert verification.ok and verification.own_version  # it can be repaired
    with (
        pytest.raises(LakeError, match="no longer in"),
        record_end(Run(lake, "release", "{}")) as run,
    ):
        rollback(lake, run)
    spark.sql(f"DELETE FROM {vectors} WHERE model_id = 'model-b'")
    _, embedded = shop.embed()
    assert embedded.counts["embedded"] == embedded.counts["copied"] == 0
    assert_clean(shop)


def test_beside_other_runs_and_ids_that_never_were(embedded, tmp_path):
    shop = embedded
    lake = shop.lake()
    context = JobContext(settings_of(lake))
    context.__dict__["session"] = shop.spark
    context.__dict__["lake"] = lake
    command = purge_command.command.callback.__wrapped__
    before = current_release(lake), lake.version("vectors")
    report = command(context, ids="nobody, sku-404", ids_file=None, dry_run=False)
    assert report.status == 0 and report.values["ok"] and report.values["deleted"] == 0
    assert "none of them was found anywhere" in report.text
    assert (current_release(lake), lake.version("vectors")) == before
    listed = tmp_path / "ids.txt"
    listed.write_text("nobody\n\nsomebody, too\n")
    shown = command(context, ids=None, ids_file=listed, dry_run=True)
    assert (shown.values["ids"], shown.values["found"], shown.values["purged"]) == (2, [], False)

    with open_run(lake, context.registry, job="build_index") as run:
        run.begin()
        with pytest.raises(ActiveRunError, match=f"there is run {run.run_id} of build-index"):
            purge(lake, "nobody")
    dead = Run(lake, "build_index", "{}", holder=run.holder.rsplit("|", 1)[0] + "|1")
    dead.begin()
    assert purge(lake, "nobody").ok  # its process is gone

    with open_run(lake, context.registry, job=PURGE) as run, claim(run, name=PURGE, timeout=5):
        with pytest.raises(ActiveRunError, match="another run of purge-ids is active"):
            purge(lake, "nobody")
        shop.write([("new", "a new thing", None, None, 1.0)])
        with pytest.raises(ActiveRunError, match="another run of purge-ids is active"):
            shop.embed()
        with pytest.raises(ActiveRunError, match="another run of purge-ids is active"):
            release(lake)
    shop.embed()
    # A row of the same content as another's: the vector stays where that one is.
    twin = ("twin-of-1", *source_rows([1])[0][1:])
    shop.write([twin])
    shop.embed()
    lake.read("vectors").where("id = 'p1'").select("embedding").write.parquet(f"{lake.root}/copy")
    shop.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id = 'twin-of-1'")
    report = purge(lake, "twin-of-1")
    assert (report.ok, report.deleted) == (True, 1) and "twin-of-1" not in names_of(
        lake.root + "/tables"
    )
    shop.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id = 'p1'")
    assert {(f.path, f.kind) for f in purge(lake, "p1").left} == {
        (str(path), "vector") for path in Path(f"{lake.root}/copy").glob("*.parquet")
    }
