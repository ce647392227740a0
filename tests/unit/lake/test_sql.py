"""Names of tables as users write them, and names and values as SQL text; what Spark reads is in
tests/spark/test_names.py.
"""

import pytest

from jobs.lake.lake import create_statement, table_given
from jobs.lake.sql import identifier, is_path, literal, name_parts, readable, table_sql
from jobs.lake.tables import Table
from udfs.errors import LakeError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gme", "`gme`"),
        ("main.gme", "`main`.`gme`"),
        ("my-cat.gme.vectors", "`my-cat`.`gme`.`vectors`"),
        ("`a.b`.c", "`a.b`.`c`"),
        ("`a``b`.`c/d`", "`a``b`.`c/d`"),
        ("Häuser am See.x", "`Häuser am See`.`x`"),
        ("/data/my products", "`delta`.`/data/my products`"),
        ("s3://bucket/it's `here`", "`delta`.`s3://bucket/it's ``here```"),
        ("delta.`/data/x`", "`delta`.`/data/x`"),
        ("`x`/products", "`delta`.```x``/products`"),
    ],
)
def test_tables_are_quoted_whether_by_name_or_by_path(name, text):
    assert table_sql(name) == text


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a.", "`a", "a`b", "`a`b", "``", "a.``"])
def test_names_that_cannot_be_read_are_refused(name):
    with pytest.raises(LakeError):
        name_parts(name)


def test_names_people_read_have_backticks_where_they_are_needed_alone():
    assert readable("main", "gme_1") == "main.gme_1"
    assert readable("my-cat", "1st", "a.b", "ä") == "`my-cat`.`1st`.`a.b`.`ä`"
    assert name_parts(readable("a.b", "c`d")) == ["a.b", "c`d"]


def test_variables_of_spark_do_not_get_into_names_or_values():
    assert "${" not in literal("${env:HOME}")
    with pytest.raises(LakeError, match="Spark replaces"):
        identifier("a", "b${env:HOME}")
    assert identifier("price in ${") == "`price in ${`"


def test_paths_and_names_are_told_apart():
    paths = ["/a", "a/b", "s3://b/k", r"C:\a", "./a.b", "dbfs:/x", "`x`/y"]
    names = ["a", "a.b", "`a/b`.c", "delta.`/a/b`", "a b.c"]
    assert [is_path(p) for p in paths] == [True] * len(paths)
    assert [is_path(n) for n in names] == [False] * len(names)


def test_tables_of_settings_are_written_one_way(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert table_given("data/x/") == f"{tmp_path}/data/x"
    assert table_given("delta.`/data/x`") == "/data/x"
    assert [table_given(uri) for uri in ("dbfs:/x/", "s3://b/k")] == ["dbfs:/x", "s3://b/k"]
    assert table_given("`main`.`gme`.`my-products`") == "main.gme.`my-products`"


def test_a_lake_table_is_made_by_one_statement():
    columns = (("model_id", "!STRING", "whose"), ("embedding", "ARRAY<FLOAT>", "it's"))
    checked = {"delta.constraints.ok": "status <> 'ok'"}
    table = Table("t", "rows", columns, ("n", "no."), ("model_id",), checked)
    assert create_statement(table, name="`my-cat`.gme.t", location="/it's") == (
        "CREATE TABLE IF NOT EXISTS `my-cat`.gme.t (`n` BIGINT GENERATED ALWAYS AS IDENTITY COMMENT 'no.', "
        "`model_id` STRING NOT NULL COMMENT 'whose', `embedding` ARRAY<FLOAT> COMMENT 'it\\'s') USING delta "
        "PARTITIONED BY (`model_id`) LOCATION '/it\\'s' "
        "TBLPROPERTIES ('delta.constraints.ok' = 'status <> \\'ok\\'') COMMENT 'rows'"
    )
    plain = create_statement(Table("t", "rows", columns[1:]), name="a.t", location=None)
    assert plain.endswith("USING delta COMMENT 'rows'")
