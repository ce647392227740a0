"""Whatever becomes of a source table, its lake opens, searches and goes back; the next embed-table says what is wrong."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import pytest

from jobs.lake.sql import table_sql
from jobs.settings.load import load_settings
from jobs.stages.embed.source import Source
from tests.spark.conftest import source_rows
from tests.spark.index_vectors import release, released
from tests.spark.test_search import QUERIES, own_content, search
from udfs.errors import LakeError

pytestmark = [pytest.mark.spark, pytest.mark.long]


@pytest.fixture
def warned(caplog):
    """Warnings of this project since the last call, but that the shop's model has no canaries."""
    caplog.set_level(logging.WARNING, "gme_lake")

    def texts() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "gme_lake"]
        caplog.clear()
        return [text for text in found if "has no canaries" not in text]

    return texts


def test_a_changed_source_never_shuts_a_lake(embedded, tmp_path, warned):
    from jobs.lake.releases import newest_releases, rollback

    shop = embedded
    spark, table = shop.spark, table_sql(shop.table)
    shop.sets += [
        f"search.queries={tmp_path / 'queries'}",
        f"search.output={tmp_path / 'results'}",
        f"search.report={tmp_path / 'page.html'}",
        "search.k=2",
    ]
    rows = source_rows(range(6))
    spark.createDataFrame([own_content(rows[4])], QUERIES).write.format("delta").save(
        str(tmp_path / "queries")
    )
    mapped = "'delta.columnMapping.mode' = 'name'"
    spark.sql(f"ALTER TABLE {table} SET TBLPROPERTIES ({mapped})")
    lake = shop.lake()
    first = release(lake).index_id
    view = lake.name("products_with_vectors")
    assert spark.table(view).where("embedding IS NOT NULL").count() == 6
    warned()

    def still_works(*words: str, titles: bool) -> None:
        """In a session that knows nothing of the lake: it opens, with one warning that has these words, and searches."""
        spark.sql(f"DROP SCHEMA {lake.schema} CASCADE")
        again = shop.lake()
        (said,) = warned()
        assert said.startswith(f"no view of vectors beside {shop.table}: ")
        assert all(word.lower() in said.lower() for word in words), said
        assert not spark.catalog.tableExists(view)
        assert len(newest_releases(again, limit=1)) == 1
        found, _, page = search(again)
        assert [hit.rank for hit in found["like p4"]] == [1, 2] and found["like p4"][0].id == "p4"
        said = warned()
        second = found["like p4"][1].id.removeprefix("p")
        assert (f"a thing numbered {second}" in page.read_text("utf-8")) == titles
        assert len(said) == (not titles), said
        assert titles or said[0].startswith("rows are shown without their texts and pictures: ")

    def is_refused(*words: str, sets: tuple[str, ...] = ()) -> None:
        vectors = lake.version("vectors")
        with pytest.raises(LakeError) as refused:
            shop.embed(*sets)
        assert all(word in str(refused.value) for word in words), refused.value
        assert lake.version("vectors") == vectors
        warned()

    spark.sql(f"ALTER TABLE {table} ADD COLUMNS (Vector_ID STRING)")
    still_works("Vector_ID", titles=True)
    is_refused("already has a column Vector_ID", "embed.write_back to columns or none")

    spark.sql(f"ALTER TABLE {table} RENAME COLUMN Vector_ID TO other")
    spark.sql(f"ALTER TABLE {table} RENAME COLUMN title TO name")
    spark.sql(f"DROP SCHEMA {lake.schema} CASCADE")
    shop.lake()
    # The view needs no text; a filter needs none, too.
    assert warned() == [] and spark.table(view).where("embedding IS NOT NULL").count() == 6
    found, _, _ = search(shop.lake("search.filter=name <> 'thing 4'"))
    assert "p4" not in {hit.id for hit in found["like p4"]}
    assert warned()[-1].startswith("rows are shown without their texts and pictures: column title")

    spark.sql(f"ALTER TABLE {table} RENAME COLUMN id TO sku")
    still_works("id", titles=False)
    is_refused("column id is not in", "renamed it to sku. It has: sku, name")
    is_refused("column title is not in", "renamed it to name.", sets=("source.id=sku",))
    with pytest.raises(LakeError, match=r"column id is not in .*renamed it to sku"):
        search(shop.lake("search.filter=price > 1"))

    shutil.rmtree(shop.table)
    warned()
    still_works("does not exist", titles=False)
    is_refused("does not exist")

    lake = shop.lake("index.factory=SQfp16")
    release(lake)
    assert released(lake, rollback).index_id == first


def test_what_is_no_source_is_said_to_be_what_it_is(shop, tmp_path):
    """A view, a table or folder of Parquet, a table that only takes rows, columns that cannot be what they are to be."""
    spark, lake = shop.spark, shop.lake()
    name = f"{lake.schema}.products"
    rows = spark.createDataFrame(
        source_rows(range(2)),
        "id string, title string, description string, image binary, price double",
    )
    rows.write.format("delta").saveAsTable(name)
    spark.sql(f"CREATE VIEW {name}_view AS SELECT * FROM {name}")
    rows.write.format("parquet").saveAsTable(f"{name}_parquet")
    rows.write.parquet(str(tmp_path / "parquet"))
    rows.write.partitionBy("price").parquet(str(tmp_path / "parted"))
    (tmp_path / "empty").mkdir()
    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.appendOnly' = 'true')")
    for table, sets, words in (
        (f"{name}_view", (), "is a view, which has no versions"),
        (f"{name}_parquet", (), "is a table of format parquet, not a Delta table: convert it"),
        (f"{lake.schema}.nothing", (), "does not exist in this catalog"),
        ("no.such.catalog", (), "does not exist in this catalog"),
        ("a..b", (), "is no name of a table"),
        (str(tmp_path / "parquet"), (), "looks like Parquet files.*CONVERT TO DELTA"),
        (str(tmp_path / "parted"), (), "looks like Parquet files.*CONVERT TO DELTA"),
        (str(tmp_path / "empty"), (), "no _delta_log found there"),
        (str(tmp_path / "nothing"), (), "does not exist"),
        (name, ("embed.write_back=columns",), "delta.appendOnly=true"),
        (name, ("source.id=image",), "source.id=image of .* is binary"),
        (name, ("source.text=title",), r"did you mean \{title\}\?"),
        (name, ("source.text={titel}",), r"; did you mean title\? It has: id, title"),
        (name, ("embed.vector_column=Price",), "already has a column price"),
    ):
        settings = load_settings(sets=[f"source.table={table}", *sets], env={})
        with pytest.raises(LakeError, match=words):
            Source.open(
                lake,
                settings.source,
                max_image_bytes=settings.embed.max_image_bytes,
                written=settings.embed,
            )
    assert lake.version("vectors") == 0
    # Names are found whatever their case, as Spark finds them; ids of any plain type.
    again = replace(shop, table=f"`{lake.schema}`.PRODUCTS")
    lake, report = again.embed("source.id=PRICE", "source.text={Title}", "source.image=IMAGE")
    assert report.counts["embedded"] == 2 and set(again.vectors(lake)) == {"0.0", "1.0"}
    assert spark.table(f"{name}_with_vectors").count() == 2
