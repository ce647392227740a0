"""promote and rollback decide what current_vectors shows, by one appended row each."""

import re
import shutil
from pathlib import Path

import pytest

from tests.spark.index_vectors import append_vectors, build, model_of, released, unit
from udfs.errors import IndexDataError, LakeError

pytestmark = pytest.mark.spark

DIM = 8


def rows_scanned(frame, table: str) -> int:
    """Rows of a table that an executed query took from its files, before any filter."""

    def walk(node):
        name = node.nodeName()
        if "AdaptiveSparkPlan" in name:
            yield from walk(node.executedPlan())
        elif "QueryStage" in name:
            yield from walk(node.plan())
        elif name.startswith("Scan ") and name.endswith(table):
            yield node.metrics().apply("numOutputRows").value()
        children = node.children().iterator()
        while children.hasNext():
            yield from walk(children.next())

    frame.collect()
    (rows,) = walk(frame._jdf.queryExecution().executedPlan())
    return rows


def test_indexes_of_a_table_vectors_that_was_dropped_are_of_no_use(open_lake, monkeypatch):
    """The one that is made in its place counts versions and rows from the start, and gives the same numbers to others."""
    from jobs.lake.releases import promote, rollback
    from jobs.stages.index import extend
    from jobs.stages.search.target import find_target

    monkeypatch.setattr(extend, "MAX_ERROR", 10.0)  # random vectors are unlike any other
    sets, model = ("index.factory=IVF{nlist},Flat", "index.nlist=2"), model_of("model-a", DIM)
    lake, former = open_lake(*sets, "index.extend=false"), []
    for seed in (0, 1):
        append_vectors(lake, unit(200, DIM, seed=seed), model_id="model-a")
        former.append(build(lake, model)[0].spec)
        released(lake, promote, index_id=former[-1].index_id)
    lake.spark.sql(f"DROP TABLE {lake.name('vectors')}")
    shutil.rmtree(lake.folder("tables", "vectors"))

    lake = open_lake(*sets)
    append_vectors(lake, unit(200, DIM, seed=2), model_id="model-a")
    assert lake.version("vectors") == former[0].vectors_version
    refused = "was built from another table .*vectors, which was dropped and made again"
    with pytest.raises(IndexDataError, match=refused):
        find_target(lake)
    for action, options in ((rollback, {"to": 1}), (promote, {"index_id": former[1].index_id})):
        with pytest.raises(IndexDataError, match=refused):
            released(lake, action, **options)
    again, _ = build(lake, model)
    assert again.built and not again.kept and again.spec.index_id != former[0].index_id
    released(lake, promote, index_id=again.spec.index_id)
    assert find_target(lake).index_id == again.spec.index_id
    for seed in (3, 4):
        append_vectors(lake, unit(10, DIM, seed=seed), model_id="model-a")
    assert lake.version("vectors") > former[1].vectors_version
    added, _ = build(lake, model)
    assert added.extension is not None
    assert added.extension.base.spec.index_id == again.spec.index_id


@pytest.mark.long
def test_promote_and_rollback_switch_what_current_vectors_shows(open_lake):
    from pyspark.sql import functions as F

    from jobs.lake.releases import (
        current_release,
        newest_index,
        newest_releases,
        promote,
        rollback,
    )

    lake = open_lake()
    current = lake.name("current_vectors")
    with pytest.raises(LakeError, match="nothing to roll back to"):
        released(lake, rollback)
    with pytest.raises(LakeError, match="model-a has no index"):
        newest_index(lake, model_id="model-a")
    with pytest.raises(LakeError, match="index 0000 is not in"):
        released(lake, promote, index_id="0000")
    assert lake.spark.table(current).count() == 0

    indexes = {}
    for model_id, rows in (("model-a", 30), ("model-b", 20)):
        append_vectors(lake, unit(rows, DIM), model_id=model_id, rejected=2)
        indexes[model_id] = build(lake, model_of(model_id, DIM))[0].spec.index_id
    assert newest_index(lake, model_id="model-b") == indexes["model-b"]

    first = released(lake, promote, index_id=indexes["model-a"])
    assert (first.release_id, first.model_id) == (1, "model-a")
    # The same index twice appends nothing; another model is released only where it is named.
    assert released(lake, promote, index_id=indexes["model-a"]) == first
    with pytest.raises(LakeError, match=r"current release 1: .* has to be named: --model model-b"):
        released(lake, promote, index_id=indexes["model-b"])
    with pytest.raises(LakeError, match="of model model-b, not of model model-a"):
        released(lake, promote, index_id=indexes["model-b"], model_id="model-a")
    with pytest.raises(LakeError, match="is what a rollback writes"):
        released(lake, promote, index_id=indexes["model-a"], note="rollback from 2 to 1")
    with pytest.raises(LakeError, match="no earlier release other than the current one"):
        released(lake, rollback)
    assert _shown(lake) == {("model-a", 30)}
    released(lake, promote, index_id=indexes["model-b"], model_id="model-b", note="better")
    assert _shown(lake) == {("model-b", 20)}
    # The 20 good and 2 rejected rows of model-b's partition; the other model's 32 are not read at all.
    query = lake.spark.sql(f"SELECT sum(size(embedding)) FROM {current}")
    assert rows_scanned(query, lake.name("vectors")) == 22

    back = released(lake, rollback)
    assert (back.release_id, back.index_id) == (3, indexes["model-a"])
    assert back.note == "rollback from 2 to 1" and current_release(lake) == back
    assert _shown(lake) == {("model-a", 30)}
    # A second rollback does not go forward again: nothing was shown before the first release.
    with pytest.raises(LakeError, match="no earlier release other than the current one"):
        released(lake, rollback)
    assert released(lake, rollback, to=2).index_id == indexes["model-b"]
    assert released(lake, rollback).index_id == indexes["model-a"]
    with pytest.raises(LakeError, match=re.escape("no earlier release 77")):
        released(lake, rollback, to=77)
    assert [r.release_id for r in newest_releases(lake, limit=3)] == [5, 4, 3]
    runs = lake.read("runs").where("job = 'release' AND status = 'succeeded'").select("run_id")
    assert lake.read("releases").join(runs, F.col("by_run") == F.col("run_id")).count() == 5

    history = lake.spark.table(lake.name("model_history")).orderBy("release_id").collect()
    assert [row.model_id for row in history] == [f"model-{name}" for name in "ababa"]
    assert [row.replaced_at for row in history] == [*(r.released_at for r in history[1:]), None]
    assert [row.note for row in history[:3]] == [None, "better", "rollback from 2 to 1"]
    assert {(row.model_name, row.model_version) for row in history} == {("gme", "1")}

    check_old_and_damaged_indexes_are_not_released(open_lake, lake, indexes)
    lake.spark.sql(f"DELETE FROM {lake.name('indexes')} WHERE model_id = 'model-b'")
    with pytest.raises(LakeError, match="no longer in"):
        released(lake, rollback, to=2)


def check_old_and_damaged_indexes_are_not_released(open_lake, lake, indexes):
    """Shown is model-a. An index far from `vectors`, without some files, or with another's manifest is refused."""
    from jobs.lake.releases import current_release, newest_releases, promote, rollback
    from jobs.stages.search.target import find_target

    before = newest_releases(lake, limit=None)
    other = {"index_id": indexes["model-b"], "model_id": "model-b"}
    vectors = lake.name("vectors")
    lake.spark.sql(f"DELETE FROM {vectors} WHERE status = 'ok' AND id LIKE 'model-b-%5'")
    append_vectors(lake, unit(4, DIM, seed=3), model_id="model-b")
    lake.spark.sql(f"DELETE FROM {vectors} WHERE id LIKE 'model-b-1_'")
    with pytest.raises(
        LakeError, match=r"11 of 20 rows in it are gone .*55%.* 20%: release.max_gone"
    ):
        released(lake, promote, **other)
    append_vectors(lake, unit(30, DIM, seed=4), model_id="model-b")
    with pytest.raises(LakeError, match=r"34 of 43 rows .* not in it .*release.max_missing"):
        released(lake, promote, **other)
    check_views_say_what_an_index_and_a_model_lack(lake, indexes)
    willing = open_lake("release.max_missing=1", "release.max_gone=1")

    manifest = Path(lake.folder("indexes", indexes["model-b"], "manifest.json"))
    kept = manifest.read_bytes()
    foreign = Path(lake.folder("indexes", indexes["model-a"], "manifest.json")).read_bytes()
    shard = manifest.with_name("shard-00000.faiss")
    for damage, words in (
        (lambda: manifest.write_bytes(foreign), "the index was committed with"),
        (
            lambda: shard.rename(shard.with_suffix(".away")),
            r"is not whole: .*shard-00000.faiss is gone",
        ),
    ):
        damage()
        for action, options in ((promote, other), (rollback, {"to": 2})):
            with pytest.raises(IndexDataError, match=words):
                released(willing, action, **options)
        manifest.write_bytes(kept)
    assert newest_releases(lake, limit=None) == before
    shard.with_suffix(".away").rename(shard)
    released(willing, promote, **other)
    assert find_target(lake).release == current_release(lake)
    shard.unlink()
    with pytest.raises(IndexDataError, match=r"release 6: .*is gone.*gme-lake release rollback"):
        find_target(lake)
    assert released(lake, rollback).index_id == indexes["model-a"]
    assert find_target(lake).index_id == indexes["model-a"]


def check_views_say_what_an_index_and_a_model_lack(lake, indexes):
    """The figures of the refusals above, from SQL."""
    health = {row.index_id: row for row in lake.spark.table(lake.name("index_health")).collect()}
    found = {
        name: (row.is_released, row.rows, row.model_rows, row.not_indexed, row.gone)
        for name, index_id in indexes.items()
        if (row := health.pop(index_id))
    }
    assert not health
    assert found == {"model-a": (True, 30, 30, 0, 0), "model-b": (False, 20, 43, 34, 11)}
    (old,) = lake.spark.table(lake.name("index_health")).where("not_indexed > 0").collect()
    assert old.not_indexed_share == pytest.approx(34 / 43) and 0 < old.age_hours < 1
    assert old.bytes > 0 and old.model_id == "model-b"

    covered = {row.model_id: row for row in lake.spark.table(lake.name("coverage")).collect()}
    for model_id, good in (("model-a", 30), ("model-b", 43)):
        row, rows = covered.pop(model_id), good + 2
        assert (row.rows, row.with_vector, row.rejected) == (rows, good, 2)
        assert row.share == pytest.approx(good / rows)
        assert row.by_status == {"empty": 2, "ok": good}
        assert row.shares == pytest.approx({"empty": 2 / rows, "ok": good / rows})
        assert row.is_released == (model_id == "model-a") and row.model_name == "gme"
    assert not covered


def _shown(lake) -> set:
    rows = lake.spark.table(lake.name("current_vectors")).groupBy("model_id").count().collect()
    return {(row.model_id, row["count"]) for row in rows}
