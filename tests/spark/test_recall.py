"""measure_recall and tune_index over small tables, against brute force and searches in this process."""

import json
from pathlib import Path

import numpy as np
import pytest

from jobs.driver.printing import json_line
from jobs.stages.status.history import read_history
from tests.lake_settings import settings_of
from tests.spark.conftest import picture
from tests.spark.index_vectors import append_vectors, build, model_of
from tests.unit.search.indexes import clustered
from udfs.errors import LakeError, SettingsError

pytestmark = pytest.mark.spark

DIM, ROWS = 32, 1500
IVF_PQ = ("index.factory=OPQ8_32,IVF{nlist},PQ8x4fs", "index.nlist=16", "index.shards=2")


def measured(lake, spec, model):
    from jobs.lake.registry import Registry
    from jobs.lake.runs import open_run
    from jobs.stages.recall.job import measure_recall

    settings = settings_of(lake)
    with open_run(lake, Registry(settings), job="measure_recall") as run:
        return measure_recall(lake, run, spec=spec, model=model, settings=settings), run


def tuned(lake, model):
    from jobs.lake.registry import Registry
    from jobs.lake.runs import open_run
    from jobs.stages.tune.job import tune_index

    settings = settings_of(lake)
    with open_run(lake, Registry(settings), job="tune_index") as run:
        return tune_index(lake, run, model=model, settings=settings), run


def stored_vectors(lake):
    rows = lake.read("vectors").where("model_id = 'model-a' AND status = 'ok'").collect()
    return (
        np.array([row.vector_id for row in rows], np.int64),
        np.array([row.embedding for row in rows], np.float32),
        {row.id: n for n, row in enumerate(rows)},
    )


def brute_force(spec, lake, names, point):
    """Recall@10 of held-out rows by numpy and one opened index."""
    from udfs.search.index import Index
    from udfs.specs import SearchOptions

    ids, xb, at = stored_vectors(lake)
    index, found = Index.open(spec.root), []
    for name in names:
        x, own = xb[at[name]], ids[at[name]]
        scores = np.where(ids == own, -np.inf, xb @ x)
        near = set(ids[np.argsort(-scores)[:10]].tolist())
        hits = index.search(x[None], SearchOptions(11, point.nprobe, point.k_factor)).I[0]
        found.append(len(near & set([i for i in hits.tolist() if i != own][:10])) / 10)
    return np.mean(found)


@pytest.mark.long
def test_held_out_rows_are_measured_tuned_and_kept_with_the_index(open_lake, tmp_path):
    import mlflow

    from udfs.index.manifest import Manifest
    from udfs.index.points import Point, point_for

    page = tmp_path / "pages" / "recall.html"
    lake = open_lake(
        *IVF_PQ, "recall.held_out=120", "recall.nprobe=1,4,16", f"recall.report={page}"
    )
    append_vectors(lake, clustered(ROWS, DIM), model_id="model-a", rejected=3)
    model = model_of("model-a", DIM)
    spec = build(lake, model)[0].spec
    report, run = measured(lake, spec, model)

    assert len(report.asked.query_ids) == 120 and set(report.asked.kinds) == {"row"}
    values = json.loads(json_line(report.values()))
    assert values["queries"] == 120 and len(values["figures"]) == len(report.figures)
    for point in (Point(1, 1), Point(4, 10), Point(16, 20)):
        of_all = next(f for f in report.figures if f.measured.point == point)
        assert of_all.recall.value == pytest.approx(
            brute_force(spec, lake, report.asked.query_ids, point), abs=2e-3
        )
        assert of_all.recall.low <= of_all.recall.value <= of_all.recall.high
    rows = lake.read("recalls").where(f"run_id = '{run.run_id}'").collect()
    assert len(rows) == 9 * 2  # three nprobe and three k_factor; any and row
    assert {(r.part, r.origin, r.k, r.queries) for r in rows} == {("all", "held_out", 10, 120)}
    assert {r.reranked for r in rows if r.k_factor == 1} == {False}
    by = {(r.nprobe, r.k_factor): r for r in rows if r.kind == "any"}
    assert by[1, 1].recall < by[4, 10].recall < by[16, 20].recall
    assert by[16, 20].first > 0.97 and by[16, 20].ms_p95 >= by[16, 20].ms_median > 0
    shown = read_history(lake).recall  # of the index's own point, or the widest measured
    assert {kind: [one.value for one in line] for kind, line in shown.items()} == {
        kind: [by[16, 20].recall] for kind in ("any", "row")
    }
    logged = mlflow.get_run(run.mlflow_run_id).data
    assert logged.metrics["recall_at_10.row"] == pytest.approx(by[16, 20].recall)
    assert (
        page.read_text().count('<td class="wide">row</td>') == 9
        and "http://" not in page.read_text()
    )
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    # The same version and queries: exact results are not computed again. A new version: they are.
    kept = set((tmp_path / "lake/recall").glob("*.truth.arrow"))
    again, rerun = measured(lake, spec, model)
    assert again.asked.query_set == report.asked.query_set
    assert rerun.counts["exact_results_kept"] == 120 and "exact_results" not in rerun.counts
    assert set((tmp_path / "lake/recall").glob("*.truth.arrow")) == kept and len(kept) == 1
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-%5'")
    other, _ = measured(lake, build(open_lake(*IVF_PQ, "index.extend=false"), model)[0].spec, model)
    assert other.spec.vectors_version > spec.vectors_version
    assert len(set((tmp_path / "lake/recall").glob("*.truth.arrow"))) == 2

    # Tuning the newest: its points are stored with the index that is there, and searches can ask for them.
    tune = open_lake(*IVF_PQ, "recall.held_out=400", "tune.recall=0.93", "tune.min_queries=150")
    rows_of_index = tune.read("indexes").collect()
    told, run = tuned(tune, model)
    assert told.met, str(told)
    values = json.loads(json_line(told.values()))
    assert values["met"] and values["goal"]["recall"] == 0.93 and values["points"]
    assert "target recall@10 ≥ 0.93 is met by index" in str(told) and "search.recall=0.93" in str(
        told
    )
    assert tune.read("indexes").count() == 2 and told.best.committed
    row = tune.read("indexes").where(f"index_id = '{told.best.manifest.spec.index_id}'").first()
    manifest = Manifest.read(tune.resolve(row.root), sha256=row.manifest_sha256)
    assert manifest.points == told.points and manifest.spec.plan == other.spec.plan
    assert json.loads(row.params)["points"] == [vars(p) for p in told.points]
    # A search that looked its row up before, or one after a run that was killed in between, reads it all the same.
    (before,) = {r.manifest_sha256 for r in rows_of_index if r.index_id == row.index_id}
    assert manifest.replaces == before != row.manifest_sha256
    assert point_for(manifest.points, recall=0.93, k=10) in {
        Point(p.nprobe, p.k_factor) for p in told.points if p.target >= 0.93
    }
    point = told.best.chosen.point
    seen, unseen = told.trial.tuning, ~told.trial.tuning
    names = np.array(told.trial.asked.query_ids)
    assert abs(int(seen.sum()) - int(unseen.sum())) <= 1
    mine = manifest.spec
    whole = brute_force(mine, tune, names[unseen].tolist(), point)
    stored = next(p for p in told.points if (p.kind, p.target) == ("any", 0.93))
    assert Point(stored.nprobe, stored.k_factor) == point
    assert stored.recall == pytest.approx(whole, abs=2e-3) and stored.low <= stored.recall
    rows = tune.read("recalls").where(f"run_id = '{run.run_id}'").collect()
    assert {(r.part, r.nprobe, r.k_factor, r.queries) for r in rows} == {
        ("unseen", point.nprobe, point.k_factor, int(unseen.sum()))
    }

    search_by_recall(open_lake, tune, run, point_for(manifest.points, recall=0.93, k=10))

    # A build that asks for no shape keeps the tuned one while few rows are new.
    append_vectors(lake, clustered(60, DIM, seed=5), model_id="model-a")
    added, _ = build(open_lake(), model)
    assert added.extension.base.spec.index_id == manifest.spec.index_id
    assert Manifest.read(added.spec.root).points == told.points
    assert added.spec.plan.factory == manifest.spec.plan.factory


def search_by_recall(open_lake, lake, run, point):
    """A search of the released index asks for the stored point by recall."""
    from jobs.lake.releases import newest_index, promote
    from jobs.lake.runs import Run
    from jobs.stages.search.target import find_target, search_spec

    index_id = newest_index(lake, model_id="model-a")
    promote(lake, run, index_id=index_id, limits=settings_of(lake).release)

    def spec(*sets):
        searching = open_lake(*sets)
        target = find_target(searching)
        return search_spec(
            Run(searching, "search", "{}"),
            settings_of(searching).search,
            target=target,
            staging="/nowhere",
        )

    found = spec("search.recall=0.93")
    options = found.options
    assert (options.nprobe, options.k_factor) == (point.nprobe, point.k_factor)
    assert spec().options.nprobe is None
    for sets, words in (
        (("search.recall=0.93", "search.k=50"), "recall 0.93 at 50 was asked for"),
        (("search.recall=0.93", "search.nprobe=3"), "set either it"),
    ):
        with pytest.raises(SettingsError, match=words):
            spec(*sets)


@pytest.mark.long
def test_a_target_that_cannot_be_met_says_so_and_commits_nothing(open_lake):
    sets = ("recall.held_out=300", "tune.min_queries=100", "index.seed=3")
    lake = open_lake("tune.recall=0.98", "tune.max_ms=0.0001", *sets)
    append_vectors(lake, clustered(ROWS, DIM), model_id="model-a")
    model = model_of("model-a", DIM)
    told, run = tuned(lake, model)
    assert not told.met and run.metrics["target_met"] == 0
    assert json.loads(json_line(told.values()))["points"] == []
    # Exact search is too slow, 4-bit codes too; twice the lists would need more rows, finer codes be slower still.
    assert [t.manifest.spec.plan.factory for t in told.tries] == ["Flat", "OPQ16_32,IVF32,PQ16x4fs"]
    text = str(told)
    assert "target recall@10 ≥ 0.98 under 0.0001 ms cannot be met" in text
    assert "Flat (128 bytes a vector): too slow; reaches it with nprobe 1" in text
    assert lake.read("indexes").count() == 0
    left = [Path(t.manifest.spec.root).exists() for t in told.tries]
    assert left == [t is told.best for t in told.tries]

    # Within 30 bytes there is no exact search; the ladder's first that fits is built, chosen and committed.
    lake = open_lake("tune.recall=0.9", "tune.max_bytes=30", *sets)
    told, run = tuned(lake, model)
    assert told.met and [t.bytes for t in told.tries] == [16]
    assert [str(c).split(" ")[0] for c in told.too_large] == ["Flat", "IVF32,SQ8"]
    row = lake.read("indexes").first()
    assert row.index_id == told.best.manifest.spec.index_id
    assert json.loads(row.params)["points"] and json.loads(row.params)["nlist"] > 0
    assert all(p.recall > 0.85 for p in told.points if p.target >= 0.9)

    with pytest.raises(SettingsError, match=r"tune.max_bytes=3: OPQ16_32.* is the smallest"):
        tuned(open_lake("tune.max_bytes=3", *sets), model)
    with pytest.raises(LakeError, match=r"kind row has 300 queries .* needs 400"):
        tuned(open_lake("recall.held_out=300", "tune.min_queries=200"), model)


def test_a_query_table_is_embedded_and_reported_by_kind_and_segment(released, tmp_path):
    from jobs.lake.registry import Registry
    from jobs.stages.recall.job import index_to_measure
    from jobs.stages.recall.summary import Group

    shop = released
    queries = str(tmp_path / "queries")
    shop.sets += [f"recall.queries={queries}", "recall.segments=shelf", "recall.k=3"]
    lake = shop.lake()
    asked = [
        *((f"t{n}", f"a thing numbered {n}", None, "low") for n in range(4)),
        *((f"i{n}", None, picture(n), "high") for n in range(3)),
        ("both", "thing 5", picture(5), None),
        ("cut", None, picture(3)[:100], "low"),
        ("blank", "  ", picture(6), "high"),
    ]
    frame = shop.spark.createDataFrame(
        asked, "query_id string, text string, image binary, shelf string"
    )
    frame.write.format("delta").save(queries)
    spec, model = index_to_measure(lake, Registry(settings_of(lake)), index_id=None)
    report, run = measured(lake, spec, model)
    assert run.counts["queries"] == 9 and run.counts["queries_refused"] == 1
    assert dict(zip(report.asked.query_ids, report.asked.kinds, strict=True)) == {
        **{f"t{n}": "text" for n in range(4)},
        **{f"i{n}": "image" for n in range(3)},
        "both": "image,text",
        "blank": "image",
    }
    groups = {str(f.group): f.recall for f in report.figures}
    assert {name: r.queries for name, r in groups.items()} == {
        "any": 9, "text": 4, "image": 4, "image,text": 1, "shelf=low": 4, "shelf=high": 4,
        "shelf=None": 1,
    }  # fmt: skip
    assert all(r.value == 1 for r in groups.values())  # an exact index
    rows = lake.read("recalls").where("segment = 'shelf' AND segment_value = 'high'").collect()
    assert [(r.kind, r.queries, r.recall) for r in rows] == [("any", 4, 1.0)]
    assert Group("text") in {f.group for f in report.figures}

    for sets, words in (
        (["recall.segments=shelves"], r"no column shelves; it has query_id"),
        (["recall.index=0123"], r"index 0123 is not in"),
        (["recall.queries=", "source.table="], r"set source.table"),
    ):
        broken = shop.lake(*sets)
        told = settings_of(broken)
        with pytest.raises(LakeError, match=words):
            measured(
                broken,
                *index_to_measure(broken, Registry(told), index_id=told.recall.index),
            )
    of_source = shop.lake("recall.queries=", "recall.segments=title", "recall.held_out=5")
    held, _ = measured(of_source, spec, model)
    assert {s["title"] for s in held.asked.segments} == {
        f"thing {name[1:]}" for name in held.asked.query_ids
    }
