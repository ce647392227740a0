"""A lake opens whatever an opening before it left: tables are made when they are first named, half-made ones again."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from jobs.lake.lake import Lake, create_statement, newest_commit
from jobs.lake.model_work import ModelWork
from jobs.lake.runs import Run, record_end
from jobs.lake.sql_catalog import is_published, publish_catalog
from jobs.lake.tables import RUN_EVENTS, VECTORS
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from udfs.errors import LakeError

pytestmark = pytest.mark.spark


def tables(lake) -> set[str]:
    folder = Path(lake.folder("tables"))
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def comments(lake, name: str) -> tuple[str, dict[str, str | None]]:
    """Those of a table or view, and of its columns."""
    described = lake.spark.sql(f"DESCRIBE TABLE EXTENDED {lake.quoted(name)}")
    fields = lake.spark.table(lake.quoted(name)).schema.fields
    (of_table,) = described.where("col_name = 'Comment'").collect()
    return of_table.data_type, {f.name: f.metadata.get("comment") for f in fields}


def body_of(function: str, spark) -> str:
    rows = spark.sql(f"DESCRIBE FUNCTION EXTENDED {function}").collect()
    return "\n".join(row[0] for row in rows)


def test_a_lake_opens_after_kills_among_other_files_and_for_sql_once(
    open_lake, monkeypatch, tmp_path
):
    """One lake for all, as a lake costs seconds."""
    lake = open_lake(published=False)
    assert tables(lake) == set() and not is_published(lake)
    monkeypatch.setattr("jobs.lake.lake._FIRST_COMMIT_SECONDS", 0.6)

    # Killed between the file of the first commit and its rename.
    log = Path(lake.folder("tables", "releases", "_delta_log"))
    (log / "_staged_commits").mkdir(parents=True)
    (log / ".00000000000000000000.json.9d1e.tmp").write_text("{")
    assert lake.read("releases").count() == 0 and tables(lake) == {"releases"}

    # Files of somebody else are left alone.
    foreign = Path(lake.folder("tables", "recalls"))
    foreign.mkdir()
    (foreign / "part-0.parquet").write_bytes(b"not ours")
    with pytest.raises(LakeError, match=r"holds files but no Delta table \(part-0.parquet\)"):
        lake.read("recalls")
    assert (foreign / "part-0.parquet").read_bytes() == b"not ours"

    # A table of an earlier version gets the columns that it lacks, and comments where it has none.
    columns = [c for c in RUN_EVENTS.columns if c[0] != "metrics"]
    older = dataclasses.replace(RUN_EVENTS, columns=tuple(columns))
    place = f"delta.`{lake.folder('tables', 'run_events')}`"
    statement = create_statement(older, name=place, location=None)
    silent = re.sub(r" COMMENT '[^']*'", "", statement)
    assert "COMMENT" not in silent
    lake.spark.sql(silent)
    lake.spark.sql(f"ALTER TABLE {place} ALTER COLUMN job COMMENT 'of their own'")
    lake.spark.sql(
        f"INSERT INTO {place} (run_id, job, started_at, ended_at, status, settings, seconds) VALUES "
        "('r1', 'embed_table', now(), now(), 'succeeded', '{}', map('total', 1.5D))"
    )

    publish_catalog(lake)
    assert is_published(lake)
    said = dict(RUN_EVENTS.comments) | {"job": "of their own"}
    assert comments(lake, "run_events") == (RUN_EVENTS.comment, said)
    made = lake.version("run_events")
    Lake(lake.spark, settings_of(lake).lake).open_table(RUN_EVENTS)
    assert lake.version("run_events") == made
    # One that is made now has them, and views have their tables'; `runs` its figures' own.
    assert comments(lake, "vectors") == (VECTORS.comment, VECTORS.comments)
    for view in (
        "coverage",
        "current_vectors",
        "functions",
        "index_health",
        "model_history",
        "rejected_rows",
        "runs",
        "vector_lineage",
    ):
        told, by_column = comments(lake, view)
        assert told.startswith("One row for each") and all(by_column.values())
    assert by_column["run_id"] == VECTORS.comments["run_id"]
    (old,) = lake.spark.table(lake.quoted("runs")).collect()
    assert (old.run_id, old.wall_seconds, old.metrics, old.tokens) == ("r1", 1.5, None, None)
    with record_end(Run(lake, "search_table", "{}")) as run:
        answered = "tokens int, budget_tokens double, input_bytes bigint, prepare_seconds double"
        answered += ", model_seconds double, load_seconds double, server string, load_report string"
        rows = [
            (3, 8.0, 5, 0.5, 0.25, 2.0, "new", '{"device": "cpu", "canary_cosine": "0.99991"}'),
            (4, 6.0, 5, 0.5, 0.25, 0.0, "new", None),
            (0, 0.0, 0, 0.5, 0.0, 0.0, None, None),  # rejected before the model
            (0, 0.0, 0, 0.5, 0.5, 0.0, "old", '{"device": "cpu", "canary_cosine": "0.99999"}'),
        ]
        run.work = ModelWork.read(lake.spark.createDataFrame(rows, answered), wall_seconds=1)
        assert run.work.servers == {"new", "old"} and run.work.prepare_seconds == 2
    (row,) = lake.spark.table(lake.quoted("runs")).where("tokens = 7").collect()
    assert (row.run_id, row.batch_fill, row.model_busy) == (run.run_id, 0.5, 0.5)
    assert row.environment == {"device": "cpu", "canary_cosine": "0.99991"}
    assert (row.model_loads, row.metrics["load_seconds"], row.bytes_read) == (1, 2, 10)
    nothing = ModelWork.read(lake.spark.createDataFrame([], answered), wall_seconds=1)
    assert nothing == ModelWork()
    assert tables(lake) == {"releases", "recalls", "vectors", "indexes", "run_events"}
    view = lake.name("current_vectors")
    assert lake.spark.table(view).count() == 0
    # Functions with Python in them are a session's own; what they read is of the lake that it opened last.
    other = Lake(lake.spark.newSession(), settings_of(lake).lake)
    register_functions(other, settings_of(lake))
    assert other.spark.catalog.functionExists("search_text")
    assert not lake.spark.newSession().catalog.functionExists("search_text")
    second = open_lake("lake.schema=gme_second", root=tmp_path / "second")
    register_functions(second, settings_of(second))
    assert "gme_second." in body_of("similar_rows", lake.spark)
    register_functions(lake, settings_of(lake))
    assert "gme_second." not in body_of("similar_rows", lake.spark)
    lake.spark.sql(f"DROP SCHEMA {second.schema} CASCADE")
    # By the mark nothing is made again, unless somebody has dropped it.
    monkeypatch.setattr("jobs.lake.sql_catalog._publish", lambda *_: pytest.fail("made again"))
    publish_catalog(lake)
    monkeypatch.undo()
    lake.spark.sql(f"DROP VIEW {view}")
    publish_catalog(lake)
    assert lake.spark.table(view).count() == 0


def test_a_table_made_again_has_another_newest_commit(spark, tmp_path):
    """By name as by path, though its version is the same: what a session of SQL remembers of it would be wrong."""
    folder = str(tmp_path / "made_again")
    for table, named in (("made_again", "made_again"), (folder, f"delta.`{folder}`")):
        seen = []
        for _ in range(2):
            spark.sql(f"CREATE OR REPLACE TABLE {named} (n INT) USING delta")
            seen.append(newest_commit(spark, table))
            if table == folder:
                shutil.rmtree(folder)
            else:
                spark.sql(f"DROP TABLE {named}")
        assert seen[0] != seen[1]
        assert newest_commit(spark, folder) == ()
