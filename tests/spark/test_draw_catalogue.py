"""draw-catalogue through Spark: the same rows as in one process, and no table lost by accident."""

import pytest

from jobs.settings.load import load_settings
from jobs.stages.demo.drawn_catalogue import draw_catalogue
from udfs.drawing import catalogue_rows
from udfs.errors import LakeError, SettingsError

pytestmark = pytest.mark.spark


def drawn(table, *sets):
    return load_settings(
        sets=[f"source.table={table}", "draw.rows=30", "draw.files=3", *sets], env={}
    )


def test_the_table_has_the_rows_that_one_process_draws(spark, tmp_path):
    table = draw_catalogue(spark, settings=drawn(tmp_path / "products", "draw.seed=3"))
    rows = spark.read.format("delta").load(table).orderBy("id").collect()
    assert [row.asDict() for row in rows] == list(catalogue_rows(30, seed=3))
    detail = spark.sql(f"DESCRIBE DETAIL delta.`{table}`").first()
    assert detail.numFiles == 3
    assert detail.properties["delta.enableChangeDataFeed"] == "true"


def test_an_existing_table_is_kept_unless_told_otherwise(spark, tmp_path):
    table = draw_catalogue(spark, settings=drawn(tmp_path / "products"))
    other = drawn(tmp_path / "products", "draw.rows=10")
    with pytest.raises(LakeError, match="exists already; --overwrite"):
        draw_catalogue(spark, settings=other)
    assert spark.read.format("delta").load(table).count() == 30
    draw_catalogue(spark, settings=other, overwrite=True)
    assert spark.read.format("delta").load(table).count() == 10


def test_a_missing_table_name_is_said_plainly(spark):
    with pytest.raises(SettingsError, match=r"source\.table is not set"):
        draw_catalogue(spark, settings=load_settings(env={}))
