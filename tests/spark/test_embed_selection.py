"""embed_table over a part of the source: a predicate, the first so many, those rejected before; the rest stays as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.spark.conftest import picture, source_rows
from tests.spark.sources import assert_clean, expected_hashes
from udfs.errors import LakeError

pytestmark = pytest.mark.spark

FIRST = "embed.first=price DESC"


@pytest.mark.long
def test_the_first_rows_go_first_and_the_next_run_goes_on(shop, monkeypatch):
    import jobs.stages.embed.changes as changes

    rows = source_rows(range(10))
    rows[4] = (*rows[4][:4], None)  # no price: last
    twin = ("twin", *rows[9][1:4], 0.0)  # of the content that comes first: costs nothing
    shop.write([*rows, twin], files=3, cdf=True)
    few = ("embed.limit=3", FIRST, "embed.files_per_batch=1")
    lake, report = shop.embed(*few)
    assert set(shop.vectors(lake)) == {"p9", "p8", "p7", "twin"}
    counts = report.counts
    assert (counts["embedded"], counts["copied"], counts["left"]) == (3, 1, 7)
    assert "7 rows left" in str(report)

    # A run over a part proves nothing of the whole; killed half-way, the next one goes on.
    real, calls = changes.commit, []

    def dies_on_the_second(*args, **named):
        calls.append(named["rows"])
        if len(calls) == 2:
            raise RuntimeError("power cut")
        real(*args, **named)

    monkeypatch.setattr(changes, "commit", dies_on_the_second)
    with pytest.raises(RuntimeError, match="power cut"):
        shop.embed("embed.limit=6", FIRST, "embed.files_per_batch=1")
    monkeypatch.setattr(changes, "commit", real)
    done = set(shop.vectors(lake))
    assert {"p9", "p8", "p7", "twin"} < done < {"twin", "p4", *(f"p{n}" for n in range(10))}

    # What changes or goes meanwhile is seen: the changed row that comes first by the order is the next.
    spark, table = shop.spark, f"delta.`{shop.table}`"
    spark.sql(f"UPDATE {table} SET title = 'changed', price = 100 WHERE id = 'p8'")
    spark.sql(f"DELETE FROM {table} WHERE id = 'p7'")
    old = shop.vectors(lake)["p9"].vector_id
    _, report = shop.embed("embed.limit=1", FIRST, "embed.max_deleted=.5")
    after = shop.vectors(lake)
    assert (report.counts["embedded"], report.counts["deleted"]) == (1, 1)
    assert set(after) == done - {"p7"} and after["p9"].vector_id == old
    assert report.counts["left"] == 10 - len(after)

    # Without a limit the rest follows, and only then nothing has changed: with and without a limit.
    _, report = shop.embed()
    assert_clean(shop)
    assert report.counts["embedded"] == 10 - len(after) and "left" not in report.counts
    assert shop.embed()[1].unchanged and shop.embed(*few)[1].unchanged


def test_a_limit_that_leaves_nothing_is_a_whole_run(shop):
    shop.write(source_rows(range(4)))
    _, report = shop.embed("embed.limit=3")
    assert report.counts["left"] == 1
    _, report = shop.embed("embed.limit=3")
    assert report.counts["embedded"] == 1 and "left" not in report.counts
    assert shop.embed()[1].unchanged
    assert_clean(shop)


@pytest.mark.long
def test_a_predicate_lets_a_part_follow_and_the_rest_as_it_is(shop, tmp_path):
    rows = source_rows(range(10))
    rows[3] = (*rows[3][:4], None)  # of null no predicate is true
    rows += [("p8", "another p8", None, None, 0.0), (None, "no id", None, None, 0.0)]
    shop.write(rows, files=2, cdf=True)
    part = "embed.where=price < 5"
    lake = shop.lake()
    for wrong, words in {
        "prise < 5": "prise",
        "price": "it is double",
        "price < 5; DROP TABLE x": "';'",
        "price < (SELECT max(price) FROM x)": "subquery",
        "rand() < price": "Non-deterministic",
        "max(price) > 5": "aggregate",
        "current_date() > '2020-01-01'": "current_date",
    }.items():
        with pytest.raises(LakeError, match=f"embed.where=.*{words}.*Its columns are id, title"):
            shop.embed(f"embed.where={wrong}")
    assert shop.vectors(lake) == {}

    _, report = shop.embed(part)
    assert set(shop.vectors(lake)) == {"p0", "p1", "p2", "p4", "p8"}
    counts = report.counts
    assert (counts["outside"], counts["duplicates"], counts["without_id"]) == (5, 1, 1)
    assert "5 rows outside" in str(report) and shop.embed(part)[1].unchanged

    # Out of the part, into it, changed outside of it, and gone.
    spark, table = shop.spark, f"delta.`{shop.table}`"
    before = shop.vectors(lake)
    spark.sql(f"UPDATE {table} SET title = 'changed', price = 50 WHERE id = 'p1'")
    spark.sql(f"UPDATE {table} SET price = 1 WHERE id = 'p6'")
    spark.sql(f"UPDATE {table} SET title = 'changed' WHERE id = 'p5'")
    spark.sql(f"DELETE FROM {table} WHERE id = 'p2' OR title = 'another p8'")
    _, report = shop.embed(part)
    after = shop.vectors(lake)
    assert (report.counts["embedded"], report.counts["deleted"]) == (1, 1)
    assert set(after) == {"p0", "p1", "p4", "p6", "p8"}
    assert after["p1"].vector_id == before["p1"].vector_id

    other = replace(shop, table=str(tmp_path / "others"))
    other.write(source_rows([1]))
    with pytest.raises(LakeError, match=r"replace_source=true .* run without these first"):
        other.embed(part, "embed.replace_source=true")

    # A part that was up to date says nothing of the whole; a whole that is says all of a part.
    expected = expected_hashes(shop)
    stale = [i for i in expected if i not in after or after[i].content_hash not in expected[i]]
    assert {"p1", "p3", "p5", "p7", "p9"} <= set(stale) <= {"p1", "p3", "p5", "p7", "p8", "p9"}
    _, report = shop.embed()
    assert_clean(shop)
    assert report.counts["embedded"] == len(stale) and "outside" not in report.counts
    assert shop.embed(part)[1].unchanged and shop.embed()[1].unchanged

    # From there parts follow the change feed, and the whole goes on from where it was itself.
    before = shop.vectors(lake)
    for row_id in ("p0", "p7"):
        spark.sql(f"UPDATE {table} SET title = 'again' WHERE id = '{row_id}'")
    spark.sql(f"DELETE FROM {table} WHERE id = 'p9'")
    _, report = shop.embed(part)
    assert (report.counts["embedded"], report.counts["deleted"]) == (1, 1)
    after = shop.vectors(lake)
    assert "p9" not in after and after["p7"].vector_id == before["p7"].vector_id
    _, report = shop.embed()
    assert_clean(shop)
    assert report.counts["embedded"] == 1


@pytest.mark.long
def test_a_part_that_was_killed_is_not_gone_on_from_by_the_whole(shop, monkeypatch):
    """The stream of a part has passed over the rows outside it."""
    import jobs.stages.embed.changes as changes

    shop.write(source_rows(range(6)))
    shop.write(source_rows(range(6, 12)))
    real, calls = changes.commit, []

    def dies_on_the_second(*args, **named):
        calls.append(named["rows"])
        if len(calls) == 2:
            raise RuntimeError("power cut")
        real(*args, **named)

    part = "embed.where=CAST(price AS INT) % 4 < 2"
    monkeypatch.setattr(changes, "commit", dies_on_the_second)
    with pytest.raises(RuntimeError, match="power cut"):
        shop.embed(part, "embed.files_per_batch=1")
    monkeypatch.setattr(changes, "commit", real)
    _, report = shop.embed("embed.files_per_batch=1")
    assert_clean(shop)
    assert report.counts["embedded"] == 12 - calls[0]

    shop.write(
        [(row[0], "new", *row[2:]) for row in source_rows(range(12))], mode="overwrite", files=2
    )
    calls.clear()
    monkeypatch.setattr(changes, "commit", dies_on_the_second)
    with pytest.raises(RuntimeError, match="power cut"):
        shop.embed(part, "embed.files_per_batch=1")
    monkeypatch.setattr(changes, "commit", real)
    _, report = shop.embed(part, "embed.files_per_batch=1")
    assert (report.counts["embedded"], report.counts["outside"]) == (6 - calls[0], 6)
    assert shop.embed(part)[1].unchanged
    shop.embed()
    assert_clean(shop)


@pytest.mark.long
def test_only_rows_rejected_with_some_statuses_are_tried_again(shop, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(4):
        (pictures / f"{n}.png").write_bytes(picture(n))
    (pictures / "5.png").write_bytes(b"<html>gone</html>")
    rows = [(f"p{n}", f"thing {n}", f"{n}.png") for n in range(6)]
    frame = shop.spark.createDataFrame(rows, "id string, title string, image string")
    frame.repartition(2).write.format("delta").save(shop.table)
    shop.sets += ["source.text={title}", f"source.image_base={pictures}"]
    lake, _ = shop.embed()
    before = shop.vectors(lake)
    assert (before["p4"].status, before["p5"].status) == (
        "image_missing",
        "image_unsupported_format",
    )
    with pytest.raises(
        LakeError, match=r"retry=lost: .*there are 1 image_missing, 1 image_unsupported_format"
    ):
        shop.embed("embed.retry=image_missing,lost")
    with pytest.raises(LakeError, match=r"embed.limit and embed.retry cannot be set together"):
        shop.embed("embed.retry=rejected", "embed.limit=1")
    assert shop.embed("embed.retry=too_slow")[1].counts["outside"] == 6

    # What else has changed meanwhile, in files and rows, is left to the next run.
    (pictures / "4.png").write_bytes(picture(4))
    (pictures / "5.png").write_bytes(picture(5))
    spark, table = shop.spark, f"delta.`{shop.table}`"
    spark.sql(f"UPDATE {table} SET title = 'changed' WHERE id = 'p1'")
    spark.sql(f"DELETE FROM {table} WHERE id = 'p2'")
    _, report = shop.embed("embed.retry=image_missing")
    after = shop.vectors(lake)
    assert (report.counts["embedded"], report.counts["rejected"]) == (1, 0)
    assert (report.counts["outside"], report.counts["deleted"]) == (4, 0)
    assert after["p4"].status == "ok"
    assert all(after[i].vector_id == before[i].vector_id for i in before if i != "p4")
    _, report = shop.embed("embed.retry=rejected")
    assert report.counts["embedded"] == 1 and shop.vectors(lake)["p5"].status == "ok"
    assert shop.embed("embed.retry=rejected")[1].counts["embedded"] == 0

    _, report = shop.embed()
    assert (report.counts["embedded"], report.counts["deleted"]) == (1, 1)
    assert shop.embed()[1].unchanged
    after = shop.vectors(lake)
    assert set(after) == {"p0", "p1", "p3", "p4", "p5"}
    assert {row.status for row in after.values()} == {"ok"}
