"""embed_table the second time: whatever happened to the source, the lake or the last run, `vectors` is what a clean
run makes.

About a minute and a half on two cores: each test is a few runs over a table of some rows.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.lake.holder import Holder
from jobs.lake.lake import now
from jobs.lake.runs import Run
from jobs.stages.refresh.retention import _remove_vectors
from tests.lake_settings import settings_of
from tests.spark.conftest import in_copy, picture, source_rows
from tests.spark.sources import assert_clean, expected_hashes
from udfs.errors import LakeError

pytestmark = pytest.mark.spark

A = "source.text={title}"
B = "source.text={title} {description}"


def test_a_template_changed_and_changed_back_gives_the_first_vectors_without_a_model(embedded):
    shop, lake = embedded, embedded.lake()
    first = shop.vectors(lake)
    shop.embed(A)
    assert_clean(shop, A)
    _, report = shop.embed(B)
    assert_clean(shop, B)
    assert not report.unchanged and report.counts["embedded"] == 0
    assert report.counts["copied"] == 6, (
        "what the model made before is in the change feed of vectors"
    )
    again = shop.vectors(lake)
    assert all(again[i].embedding == row.embedding for i, row in first.items())
    assert shop.embed(B)[1].unchanged


@pytest.mark.parametrize("commits", [2, 1], ids=["as many versions", "fewer versions"])
def test_a_table_made_again_is_looked_at_as_a_whole(embedded, commits):
    shop = embedded
    shutil.rmtree(shop.table)
    changed = [("p0", "another title", None, None, 0.0), *source_rows(range(1, 3))]
    for part in [changed, source_rows([20])][:commits]:
        shop.write(part, cdf=True)
    _, report = shop.embed("embed.max_deleted=1")
    assert_clean(shop)
    assert not report.unchanged and report.counts["deleted"] == 3


def test_columns_of_other_types_and_names_are_looked_at_though_no_row_changed(shop):
    """A change feed tells of rows alone."""
    rows = [(f"p{n}", n, f"thing {n}", None) for n in range(3)]
    frame = shop.spark.createDataFrame(rows, "id string, number int, name string, image binary")
    writer = frame.write.format("delta").option("delta.enableChangeDataFeed", "true")
    writer.option("delta.enableTypeWidening", "true").save(shop.table)
    mapping = "'delta.columnMapping.mode' = 'name'"
    shop.spark.sql(f"ALTER TABLE delta.`{shop.table}` SET TBLPROPERTIES ({mapping})")
    template = "source.text={number} {name}"
    shop.embed(template)
    steps = [
        ("ALTER COLUMN number TYPE DOUBLE",),  # 1 is 1.0 now
        ("RENAME COLUMN name TO former", "ADD COLUMNS (name STRING)"),
        ("DROP COLUMN name", "RENAME COLUMN former TO name"),
        ("ADD COLUMNS (colour STRING)",),
    ]
    for step in steps:
        for change in step:
            shop.spark.sql(f"ALTER TABLE delta.`{shop.table}` {change}")
        lake, _ = shop.embed(template)
        found = shop.vectors(lake)
        _, again = shop.embed(template, "embed.rescan=true")
        assert (again.counts["embedded"], again.counts["copied"]) == (0, 0), step
        assert shop.vectors(lake) == found
    assert len({row.content_hash for row in found.values()}) == 3


def test_a_model_whose_vectors_were_removed_is_embedded_again(embedded):
    """As refresh-lake removes those of a model that no release needs; the source has not changed since."""
    shop = embedded
    lake = shop.lake()
    model_id = shop.vectors(lake)["p1"].model_id
    _remove_vectors(lake, "another model")
    assert shop.embed()[1].unchanged
    _remove_vectors(lake, model_id)
    shop.embed("embed.limit=2")
    _, report = shop.embed()
    assert not report.unchanged and report.counts["embedded"] == 0, "they are in the change feed"
    assert_clean(shop)


@pytest.mark.long
@pytest.mark.parametrize("cdf", [True, False])
def test_a_stream_that_is_stopped_from_outside_is_no_success(shop, monkeypatch, cdf):
    import jobs.stages.embed.job as job

    shop.write(source_rows(range(6)), files=3, cdf=cdf)
    real = job.embed_changes

    def stops_the_stream(*args, **named):
        looked = real(*args, **named)
        streams = shop.spark.streams.active
        threading.Thread(target=lambda: [query.stop() for query in streams]).start()
        time.sleep(1)
        return looked

    monkeypatch.setattr(job, "embed_changes", stops_the_stream)
    with pytest.raises(LakeError, match=r"ended at version none of 0: something has stopped it"):
        shop.embed("embed.files_per_batch=1")
    monkeypatch.setattr(job, "embed_changes", real)
    lake, report = shop.embed("embed.files_per_batch=1")
    assert_clean(shop)
    assert 0 < report.counts["embedded"] < 6, "what the stopped run had committed stays"
    states = [row.status for row in lake.read("runs").orderBy("started_at").collect()]
    assert states == ["failed", "succeeded"]


@pytest.mark.long
def test_a_run_that_died_after_its_commit_is_continued_though_a_picture_changed(
    shop, monkeypatch, tmp_path
):
    import jobs.stages.embed.changes as changes

    for n in range(4):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    rows = [(f"p{n}", f"thing {n}", f"{n}.png") for n in range(4)]
    frame = shop.spark.createDataFrame(rows, "id string, title string, image string")
    frame.repartition(2).write.format("delta").save(shop.table)
    sets = [A, f"source.image_base={tmp_path}", "embed.files_per_batch=1"]
    real = changes.commit

    def dies_after(*args, **named):
        real(*args, **named)
        raise RuntimeError("power cut")

    monkeypatch.setattr(changes, "commit", dies_after)
    with pytest.raises(RuntimeError, match="power cut"):
        shop.embed(*sets)
    monkeypatch.setattr(changes, "commit", real)
    lake = shop.lake(*sets)
    before = shop.vectors(lake)
    assert 0 < len(before) < 4
    changed = next(iter(before))
    (tmp_path / f"{changed[1:]}.png").write_bytes(picture(50))
    _, report = shop.embed(*sets)
    after = shop.vectors(lake)
    assert set(after) == {"p0", "p1", "p2", "p3"}
    assert after[changed].vector_id != before[changed].vector_id
    assert report.counts["embedded"] == 4 - len(before) + 1


@pytest.fixture(scope="module")
def interrupted(lakes):
    """The name of a lake whose only run died on its second micro-batch: two rows of four are embedded."""
    import jobs.stages.embed.job as job

    real = job.embed_changes

    def dies_on_the_second(task, rows, *, name, lost):
        if name == "batch-1":
            raise OSError(28, "No space left on device")
        return real(task, rows, name=name, lost=lost)

    with lakes.new_shop("interrupted") as shop, pytest.MonkeyPatch.context() as patch:
        shop.write(source_rows(range(4)), files=2)
        patch.setattr(job, "embed_changes", dies_on_the_second)
        with pytest.raises(OSError, match="No space left"):
            shop.embed("embed.files_per_batch=1")
    return "interrupted"


@pytest.mark.long
@pytest.mark.parametrize("damage", ["no offsets", "an empty offset", "no identity", "not JSON"])
def test_a_checkpoint_that_cannot_be_continued_is_begun_anew(
    interrupted, lakes, shop, tmp_path, damage
):
    in_copy(shop, lakes, interrupted, tmp_path)
    (stream,) = (Path(shop.lake().root) / "streams").iterdir()
    offsets = sorted((stream / "checkpoint" / "offsets").iterdir())
    if damage == "no offsets":
        for file in offsets:
            file.unlink()
    elif damage == "an empty offset":
        for file in offsets:
            file.write_text("")
    elif damage == "no identity":
        (stream / "identity.json").unlink()
    else:
        (stream / "identity.json").write_text("{")
    shop.embed("embed.files_per_batch=1")
    assert_clean(shop)
    assert not stream.exists(), "a checkpoint lasts no longer than its window"


@pytest.mark.long
def test_a_change_feed_that_is_gone_is_compared_instead(embedded, caplog):
    shop = embedded
    for turn in range(2):
        shop.spark.sql(f"UPDATE delta.`{shop.table}` SET title = 'turn {turn}' WHERE id = 'p1'")
        shop.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id = 'p{turn + 3}'")
        shutil.rmtree(Path(shop.table) / "_change_data", ignore_errors=True)
        with caplog.at_level("WARNING", "gme_lake"):
            _, report = shop.embed("embed.max_deleted=.5")
        assert "change feed" in caplog.text and "every row is compared instead" in caplog.text
        caplog.clear()
        assert_clean(shop)
        assert report.counts["embedded"] == 1 and report.counts["deleted"] == 1
    shop.write(source_rows([9]))
    _, report = shop.embed()
    assert_clean(shop)
    assert report.counts["embedded"] == 1


@pytest.mark.long
def test_contents_that_the_model_has_embedded_before_are_copied(embedded):
    shop, lake = embedded, embedded.lake()
    before = shop.vectors(lake)
    shop.write(source_rows(range(10, 14)), mode="overwrite")
    shop.embed("embed.max_deleted=1")
    assert_clean(shop)
    shop.spark.sql(f"RESTORE TABLE delta.`{shop.table}` TO VERSION AS OF 1")
    _, report = shop.embed("embed.max_deleted=1")
    assert_clean(shop)
    assert report.counts["embedded"] == 0 and report.counts["copied"] == 6
    after = shop.vectors(lake)
    assert all(after[i].embedding == row.embedding for i, row in before.items())


def test_one_of_two_rows_that_came_and_went_between_runs_leaves_the_other(embedded):
    shop = embedded
    shop.write([("p1", "another p1", None, None, 0.0), ("p7", "came and went", None, None, 0.0)])
    shop.spark.sql(
        f"DELETE FROM delta.`{shop.table}` WHERE title IN ('another p1', 'came and went')"
    )
    _, report = shop.embed("embed.max_deleted=.5")
    assert_clean(shop)
    assert report.counts["source_rows"] == 6


def test_what_a_row_was_between_two_runs_costs_nothing(embedded):
    """12 s: each commit is a micro-batch of its own, and only what rows have come to is given to the model."""
    shop, table = embedded, f"delta.`{embedded.table}`"
    for change in (
        f"UPDATE {table} SET title = concat(title, ' between') WHERE id IN ('p1', 'p2', 'p3')",
        f"UPDATE {table} SET title = 'at last' WHERE id = 'p1'",
        f"UPDATE {table} SET title = 'thing 2' WHERE id = 'p2'",
        f"DELETE FROM {table} WHERE id = 'p3'",
        f"UPDATE {table} SET price = 9 WHERE id = 'p1'",
    ):
        shop.spark.sql(change)
    _, report = shop.embed("embed.files_per_batch=1")
    assert_clean(shop)
    assert report.counts["embedded"] == 1 and report.counts["copied"] == 0
    assert report.counts["deleted"] == 1


def test_rows_that_somebody_took_from_vectors_come_back(embedded):
    shop, lake = embedded, embedded.lake()
    shop.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id = 'p2'")
    _, report = shop.embed()
    assert_clean(shop)
    assert report.counts["embedded"] + report.counts["copied"] == 1
    # A comment, as a later version gives to the tables of an earlier one, takes no vector.
    shop.spark.sql(f"ALTER TABLE {lake.name('vectors')} ALTER COLUMN id COMMENT 'theirs'")
    assert shop.embed()[1].unchanged


@pytest.mark.long
def test_more_gone_or_rejected_than_settings_allow_ends_the_run_and_deletes_nothing(embedded):
    shop, lake = embedded, embedded.lake()
    shop.spark.sql(f"DELETE FROM delta.`{shop.table}`")
    for _ in range(2):
        with pytest.raises(LakeError, match=r"6 of 6 vector rows .*100.0%.*embed.max_deleted=0.2"):
            shop.embed()
    assert len(shop.vectors(lake)) == 6
    shop.write(source_rows(range(2)))
    shop.embed("embed.max_deleted=.7")
    assert_clean(shop)

    empty = [(f"e{n}", None, None, None, 0.0) for n in range(120)]
    shop.write(empty)
    for _ in range(2):
        with pytest.raises(LakeError, match=r"120 of 12\d rows .*embed.max_rejected=0.05"):
            shop.embed()
    assert len(shop.vectors(lake)) == 2, "a micro-batch of rejected rows is not committed"
    shop.embed("embed.max_rejected=1")
    assert_clean(shop)


@pytest.mark.long
def test_a_second_run_of_a_model_is_refused_before_it_embeds_and_a_dead_one_is_followed(
    shop, monkeypatch
):
    import jobs.stages.embed.job as job

    shop.write(source_rows(range(4)), files=2)
    real, refused = job.embed_changes, []

    def beside_another(*args, **named):
        if not refused:
            refused.append("")
            with pytest.raises(LakeError, match=r"another run of embed-table .* is active") as said:
                shop.embed()
            refused.append(str(said.value))
        return real(*args, **named)

    monkeypatch.setattr(job, "embed_changes", beside_another)
    lake, report = shop.embed("embed.files_per_batch=1")
    assert len(refused) == 2 and report.counts["embedded"] == 4
    assert_clean(shop)
    monkeypatch.setattr(job, "embed_changes", real)

    # A run that was killed: it has begun, holds the claim, and will never end.
    model_id = lake.read("vectors").first().model_id
    newest = max(r.claim for r in lake.read("run_events").collect() if r.claim)
    this = Holder.this()
    elsewhere = replace(this, machine="another-host")
    for number, (holder, wait) in enumerate(
        [(replace(this, pid=2**22 + 1), 60.0), (elsewhere, 2.0)], start=1
    ):
        dead = Run(lake, "embed_table", "{}", started_at=now() - timedelta(seconds=10))
        row = {**dead._row("running"), "model_id": model_id, "holder": str(holder)}
        lake.append("run_events", [{**row, "claim": newest + number}])
        left = Path(lake.root) / "staging" / dead.run_id
        left.mkdir(parents=True)
        newest += 1
        shop.write(source_rows([20 + number]))
        shop.embed(f"embed.claim_seconds={wait}")
        assert_clean(shop)
        assert not left.exists()
        runs = {r.run_id: r for r in lake.read("runs").collect()}
        assert runs[dead.run_id].status == "killed"

    alive = Run(lake, "embed_table", "{}")
    row = {**alive._row("running"), "model_id": model_id, "holder": str(elsewhere)}
    row["claim"] = newest + 10
    lake.append("run_events", [row])
    shop.write(source_rows([30]))
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(1):
            lake.append("run_events", [{**row, "beat_at": now()}])

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        with pytest.raises(LakeError, match=r"active in this lake: run .* on another-host"):
            shop.embed("embed.claim_seconds=60")
    finally:
        ended.set()
        beating.join()
    lake.append("run_events", [{**row, "status": "failed", "ended_at": now()}])
    shop.embed()
    assert_clean(shop)
    assert expected_hashes(shop)


def test_a_check_shows_rows_as_the_model_sees_them_and_writes_nothing(embedded, capsys):
    from jobs.lake.registry import Registry
    from jobs.stages.embed.check import check_rows, print_check

    rows = [*source_rows(range(6, 30)), ("empty", None, None, None, 0.0)]
    rows[3] = ("p9", "cut", None, picture(9)[:150], 1.0)
    embedded.write(rows)
    lake = embedded.lake()
    files = sorted(Path(lake.root).rglob("*"))
    settings = settings_of(lake)
    check = check_rows(
        lake,
        model=Registry(settings).resolve(),
        source=settings.source,
        embed=settings.embed,
        serving=settings.serving.spec(),
    )
    assert sorted(Path(lake.root).rglob("*")) == files
    assert len(check.rows) == 20 and check.table_rows == 31
    good = [row for row in check.rows if row.status == "ok"]
    assert all(abs(row.norm - 1) < 1e-5 and row.tokens > 3 for row in good)
    assert all(Path(row.picture).read_bytes()[:2] == b"\xff\xd8" for row in good)
    assert check.model_seconds > 0
    print_check(check, file=sys.stdout)
    printed = capsys.readouterr().out
    assert "20 of 31 rows" in printed and "thing 1" in printed
