"""embed_table keeps `vectors` equal to what one clean run over the source would write."""

from dataclasses import replace

import numpy as np
import pytest

from tests.spark.conftest import picture, source_rows
from udfs.errors import LakeError

pytestmark = pytest.mark.spark


def test_rows_get_the_encoders_vectors_and_a_rerun_embeds_nothing(shop):
    from udfs.gme import Encoder, Row

    rows = source_rows(range(12))
    rows[3] = ("p3", None, None, None, 1.0)
    rows[4] = ("p4", "cut", None, picture(4)[:150], 1.0)
    rows[5] = ("p5", "only text", None, None, 1.0)
    rows[6] = ("p6", None, None, picture(6), 1.0)
    shop.write(rows, files=3)
    lake, report = shop.embed("embed.files_per_batch=1")
    found = shop.vectors(lake)

    assert len(found) == 12
    assert found["p3"].status == "empty" and found["p3"].embedding is None
    assert found["p4"].status == "image_truncated" and found["p4"].error
    assert report.counts["rejected"] == 2 and report.counts["embedded"] == 12

    from jobs.settings.conf import profile_named

    encoder = Encoder.load(shop.checkpoint, profile=profile_named("tiny"))
    good = [r for r in rows if found[r[0]].status == "ok"]
    texts = [" ".join(t for t in r[1:3] if t) or None for r in good]
    expected = encoder.encode([Row(text=t, image=r[3]) for t, r in zip(texts, good, strict=True)])
    got = np.array([found[r[0]].embedding for r in good], np.float32)
    assert np.abs(got - expected.vectors).max() < 1e-5

    _, again = shop.embed()
    assert again.unchanged
    assert {r.vector_id for r in shop.vectors(lake).values()} == {
        r.vector_id for r in found.values()
    }


@pytest.mark.parametrize("cdf", [True, False])
def test_changes_new_rows_and_deletes_are_followed(embedded, cdf):
    shop, lake = embedded, embedded.lake()
    before = shop.vectors(lake)
    spark, table = shop.spark, f"delta.`{shop.table}`"
    if not cdf:
        spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('delta.enableChangeDataFeed' = 'false')")
    spark.sql(f"UPDATE {table} SET title = 'changed' WHERE id = 'p1'")
    spark.sql(f"UPDATE {table} SET price = 99 WHERE id = 'p2'")  # not what the model sees
    spark.sql(f"DELETE FROM {table} WHERE id = 'p3'")
    shop.write(source_rows([20, 21]))

    lake, report = shop.embed()
    after = shop.vectors(lake)
    assert set(after) == (set(before) - {"p3"}) | {"p20", "p21"}
    assert report.counts["embedded"] == 3 and report.counts["deleted"] == 1
    assert after["p1"].vector_id != before["p1"].vector_id
    same = set(before) - {"p1", "p3"}
    assert all(after[i].vector_id == before[i].vector_id for i in same)
    _, again = shop.embed()
    assert again.unchanged


def test_identical_content_is_embedded_once_and_copied(shop):
    """Three of ten rows are copies of others: three fewer for the model. What changes no content costs it nothing."""
    rows = source_rows(range(7))
    twins = [(f"twin{i}", *rows[i % 3][1:]) for i in range(6)]
    shop.write(rows + twins[:3], cdf=True)
    lake, report = shop.embed()
    assert report.counts["embedded"] == 7 and report.counts["copied"] == 3
    shop.write(twins[3:])
    lake, report = shop.embed()
    assert report.counts["embedded"] == 0 and report.counts["copied"] == 3
    found = shop.vectors(lake)
    assert found["twin4"].embedding == found["p1"].embedding
    assert len({r.vector_id for r in found.values()}) == 13

    shop.write(rows + twins, mode="overwrite", files=2)
    table = f"delta.`{shop.table}`"

    def newest() -> int:
        return shop.spark.sql(f"DESCRIBE HISTORY {table} LIMIT 1").first().version

    shop.spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ('team' = 'shop')")
    shop.spark.sql(f"ALTER TABLE {table} ADD COLUMNS (colour STRING)")
    _, report = shop.embed()
    assert (report.counts["embedded"], report.counts["copied"]) == (0, 0)
    assert shop.vectors(lake) == found
    shop.spark.sql(f"ALTER TABLE {table} ALTER COLUMN colour COMMENT 'as it is said'")
    shop.spark.sql(f"COMMENT ON TABLE {table} IS 'what we sell'")
    _, report = shop.embed()
    assert report.unchanged and report.source_version == newest()
    assert shop.vectors(lake) == found
    shop.spark.sql(f"ALTER TABLE {table} ALTER COLUMN colour FIRST")
    _, report = shop.embed()
    assert not report.unchanged and report.counts["embedded"] == 0


def test_duplicate_ids_give_one_row_whatever_the_file_order(shop, tmp_path):
    rows = source_rows(range(4))
    doubles = [("p1", "another p1", None, None, 0.0), ("p1", "a third p1", None, None, 0.0)]
    hashes = set()
    for order in ([rows, doubles], [doubles, rows]):
        shop.table = str(tmp_path / f"products{len(hashes)}-{order[0] is rows}")
        for part in order:
            shop.write(part)
        lake, report = shop.embed(f"model.name=m{order[0] is rows}", "embed.files_per_batch=1")
        assert report.counts["duplicates"] == 2
        hashes.add(shop.vectors(lake)["p1"].content_hash)
        shop.spark.sql(f"DELETE FROM {lake.name('vectors')}")
    assert len(hashes) == 1


def test_the_row_left_of_two_with_one_id_gets_its_vector(shop):
    rows = source_rows(range(2))
    shop.write([*rows, ("p1", "another p1", None, None, 0.0)], cdf=True)
    lake, _ = shop.embed()
    winner = shop.vectors(lake)["p1"].content_hash
    title = "another p1" if is_text_only(shop, winner) else "thing 1"
    shop.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE title = '{title}'")
    lake, report = shop.embed()
    assert report.counts["embedded"] == 1 and "duplicates" not in report.counts
    assert shop.vectors(lake)["p1"].content_hash != winner


def is_text_only(shop, content_hash) -> bool:
    """Whether a content hash is that of the row without picture."""
    from hashlib import sha256

    text = sha256(b"another p1").hexdigest()
    return content_hash == sha256(f"{text}|-".encode()).hexdigest()


def test_null_ids_are_counted_and_empty_tables_are_fine(shop):
    shop.write([])
    lake, report = shop.embed()
    assert report.counts["source_rows"] == 0
    shop.write([(None, "no id", None, None, 0.0), *source_rows([1])])
    lake, report = shop.embed()
    assert report.counts["without_id"] == 1 and set(shop.vectors(lake)) == {"p1"}


def test_image_paths_partitions_deletion_vectors_and_odd_columns(shop, tmp_path):
    spark = shop.spark
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for n in range(6):
        (pictures / f"{n}.png").write_bytes(picture(n))
    (pictures / "5.png").write_bytes(b"<html>gone</html>")
    rows = [(n, f"thing {n}", f"{n}.png", "a" if n % 2 else "b", {"k": n}) for n in range(7)]
    schema = "sku int, name string, path string, shelf string, extra map<string,int>"
    frame = spark.createDataFrame(rows, schema)
    frame.write.format("delta").partitionBy("shelf").option(
        "delta.enableDeletionVectors", "true"
    ).save(shop.table)
    spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE sku = 0")
    sets = [
        "source.id=sku",
        "source.text={name} on shelf {shelf}",
        "source.image=path",
        f"source.image_base={pictures}",
    ]
    lake, report = shop.embed(*sets)
    found = shop.vectors(lake)
    assert set(found) == {str(n) for n in range(1, 7)}
    assert found["5"].status == "image_unsupported_format"
    assert found["6"].status == "image_missing"
    assert {found[str(n)].status for n in range(1, 5)} == {"ok"}

    # Files change behind the table's back: seen when asked to look again, and only those are embedded.
    (pictures / "6.png").write_bytes(picture(6))
    (pictures / "1.png").write_bytes(picture(100))
    assert shop.embed(*sets)[1].unchanged
    lake, report = shop.embed(*sets, "source.recheck_files=true")
    assert report.counts["embedded"] == 2
    assert shop.vectors(lake)["6"].status == "ok"


def test_pictures_may_be_bytes_in_some_rows_and_files_in_others(shop, tmp_path):
    from udfs.errors import LakeError

    for n in (1, 2):
        (tmp_path / f"{n}.png").write_bytes(picture(n))
    schema = "id string, title string, image binary, file string"
    rows = [
        ("bytes", None, picture(1), None),
        ("file", None, None, "1.png"),
        ("both", None, picture(2), "1.png"),  # what the row holds counts
        ("neither", "words", None, None),
        ("lost", None, None, "3.png"),
    ]
    shop.spark.createDataFrame(rows, schema).write.format("delta").save(shop.table)
    sets = ["source.text={title}", "source.image_uri=file", f"source.image_base={tmp_path}"]
    lake, _ = shop.embed(*sets)
    found = shop.vectors(lake)
    assert {row.status for name, row in found.items() if name != "lost"} == {"ok"}
    assert found["lost"].status == "image_missing"
    assert found["file"].embedding == pytest.approx(found["bytes"].embedding, abs=1e-6)
    assert found["both"].embedding != pytest.approx(found["bytes"].embedding, abs=1e-3)

    (tmp_path / "1.png").write_bytes(picture(7))
    assert shop.embed(*sets)[1].unchanged
    lake, report = shop.embed(*sets, "source.recheck_files=true")
    assert report.counts["embedded"] == 1
    after = shop.vectors(lake)
    assert after["file"].embedding != found["file"].embedding
    assert after["both"].vector_id == found["both"].vector_id
    with pytest.raises(LakeError, match=r"source.image_uri=file stands beside .* bytes"):
        shop.embed(*sets, "source.image=null")


def test_a_missing_column_is_named_with_the_nearest(shop):
    from udfs.errors import LakeError

    shop.write(source_rows([1]))
    with pytest.raises(LakeError, match=r"column titel is not in .* did you mean title"):
        shop.embed("source.text={titel}")


def test_vectors_written_into_the_source_do_not_trigger_embedding(shop):
    shop.write(source_rows(range(5)), cdf=True)
    lake, report = shop.embed("embed.write_back=columns")
    assert report.counts["written_back"] == 5
    vectors = shop.vectors(lake)
    model_id = next(iter(vectors.values())).model_id
    read = shop.spark.read.format("delta").load(shop.table)
    for row in read.collect():
        assert row.embedding == vectors[row.id].embedding and row.embedding_model == model_id
    lake, report = shop.embed("embed.write_back=columns")
    assert report.counts.get("embedded", 0) == 0 and report.counts.get("written_back", 0) == 0


def test_rejected_rows_are_tried_again_on_a_rescan(shop):
    rows = [*source_rows(range(3)), ("bad", None, None, picture(9)[:100], 0.0)]
    shop.write(rows, cdf=True)
    lake, _ = shop.embed()
    before = shop.vectors(lake)
    _, report = shop.embed("embed.rescan=true")
    after = shop.vectors(lake)
    assert report.counts["embedded"] == 1 and report.counts["rejected"] == 1
    assert after["bad"].vector_id != before["bad"].vector_id
    assert after["p0"].vector_id == before["p0"].vector_id


def test_a_run_that_dies_between_micro_batches_is_continued(shop, monkeypatch):
    import jobs.stages.embed.changes as changes

    shop.write(source_rows(range(9)), files=3, cdf=True)
    real, calls = changes.commit, []

    def dies_once(*args, **named):
        calls.append(named["rows"])
        if len(calls) == 2:
            raise RuntimeError("power cut")
        real(*args, **named)

    monkeypatch.setattr(changes, "commit", dies_once)
    with pytest.raises(RuntimeError, match="power cut"):
        shop.embed("embed.files_per_batch=1")
    lake = shop.lake()
    partial = shop.vectors(lake)
    assert 0 < len(partial) < 9
    lake, report = shop.embed("embed.files_per_batch=1")
    found = shop.vectors(lake)
    assert len(found) == 9 and report.counts["embedded"] == 9 - len(partial)
    assert all(found[i].vector_id == row.vector_id for i, row in partial.items())
    states = {r.status for r in lake.read("runs").collect()}
    assert states == {"failed", "succeeded"}


@pytest.mark.long
def test_vectors_of_another_table_are_not_taken_away(embedded, tmp_path):
    """Ids that a source lacks lose their vectors; a second table in the same lake lacks all of the first one's."""
    shop, lake = embedded, embedded.lake()
    first = [f"p{n}" for n in range(6)]
    other = replace(shop, table=str(tmp_path / "reviews"))
    other.write(source_rows(range(10, 12)))
    for _ in range(2):
        with pytest.raises(LakeError, match=r"holds vectors of .*lake of its own.*replace_source"):
            other.embed()
    assert sorted(shop.vectors(lake)) == first
    assert shop.embed()[1].unchanged

    other.embed("embed.replace_source=true")
    assert sorted(shop.vectors(lake)) == ["p10", "p11"]
    assert other.embed()[1].unchanged
    with pytest.raises(LakeError, match="holds vectors of"):
        shop.embed()
    # Back again: though the same version was embedded before, all of it is looked at once more.
    shop.embed("embed.replace_source=true")
    assert sorted(shop.vectors(lake)) == first
