"""Columns, folders and schemas may be called anything: what Spark reads is the name that was meant."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jobs.lake.lake import now
from jobs.lake.sql import identifier, literal, name_parts, readable, table_sql
from tests.spark.conftest import picture
from tests.spark.index_vectors import release
from tests.spark.test_search import search
from udfs.errors import LakeError

pytestmark = pytest.mark.spark

# All of Unicode that a text can hold, and often what means something in SQL.
TEXT = st.text(
    st.one_of(st.sampled_from("`'\"\\.${}-/*;\n\t %_"), st.characters(exclude_categories=["Cs"])),
    min_size=1,
    max_size=12,
).filter(lambda text: "${" not in text)
few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


@few
@given(st.lists(TEXT, min_size=1, max_size=20, unique=True))
@example(["`", "``", "a`.`b", "--", "/*", "\\", "\\u0041", "'", "1", "select", "\0"])
def test_spark_reads_every_name_as_it_was_meant(spark, names):
    listed = ", ".join(f"{literal(n)} AS {identifier(name)}" for n, name in enumerate(names))
    frame = spark.sql(f"SELECT {listed}")
    assert frame.columns == names
    assert frame.select(*map(identifier, names)).columns == names
    parser = spark._jsparkSession.sessionState().sqlParser()
    for text in (identifier(*names), readable(*names), table_sql(readable(*names))):
        parsed = parser.parseMultipartIdentifier(text)
        assert [parsed.apply(n) for n in range(parsed.size())] == names
    assert name_parts(identifier(*names)) == name_parts(readable(*names)) == names


@few
@given(
    st.lists(
        st.one_of(
            TEXT,
            st.sampled_from(["", "${env:HOME}", "${spark.app.name}", "a${system:user.home}\\"]),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False),
            st.booleans(),
            st.none(),
            st.binary(max_size=5),
        ),
        min_size=1,
        max_size=20,
    )
)
@example(["\\", "\\'", "'", "''", "\\\\'; DROP TABLE x; --", "%\\_", "\\u0041", "\0", 1e-300])
def test_spark_reads_every_value_as_it_was_meant(spark, values):
    listed = ", ".join(f"{literal(value)} AS c{n}" for n, value in enumerate(values))
    row = spark.sql(f"SELECT {listed}").first()
    assert [bytes(v) if isinstance(v, bytearray) else v for v in row] == values


SOURCE = "Häuser & `x` it's 50%"
ID, TEXT_COLUMN, IMAGE, GROUP = "die id.", "a.b c`d-ü", "photo `1`", "it's a group"
VECTOR, MODEL = "my vector`s", "model-ü.1"


def source_frame(shop, numbers):
    rows = [(n, f"thing {n}", picture(n), f"g{n % 2}") for n in numbers]
    names = (ID, TEXT_COLUMN, IMAGE, GROUP)
    kinds = ("int", "string", "binary", "string")
    columns = zip(names, kinds, strict=True)
    schema = ", ".join(f"{identifier(name)} {kind}" for name, kind in columns)
    return shop.spark.createDataFrame(rows, schema).write.format("delta").mode("append")


@pytest.mark.long
def test_a_lake_of_odd_names_from_end_to_end(shop, tmp_path):
    """Twice: a session without metastore registers the tables of a lake that it finds by their folders."""
    spark = shop.spark
    root, shop.table = tmp_path / "it's `my` lake, ü", str(tmp_path / SOURCE)
    queries, results = tmp_path / "it's queries", tmp_path / "it's results `ü`"
    source_frame(shop, range(6)).option("delta.columnMapping.mode", "name").save(shop.table)
    followed = "'delta.enableChangeDataFeed' = 'true'"
    spark.sql(f"ALTER TABLE {table_sql(shop.table)} SET TBLPROPERTIES ({followed})")
    shop.sets += [
        f"lake.root={root}",
        f"source.id={ID}",
        f"source.text={{{TEXT_COLUMN}}}",
        f"source.image={IMAGE}",
        f"embed.vector_column={VECTOR}",
        f"embed.model_column={MODEL}",
        f"search.queries={queries}",
        f"search.output={results}",
    ]
    lake, report = shop.embed()
    assert report.counts["embedded"] == 6
    release(lake)
    view = lake.name("H_user____x__it_s_50__with_vectors")
    by_id = {str(row[ID]): row for row in spark.table(view).collect()}
    vectors = shop.vectors(lake)
    assert {n: row[VECTOR] for n, row in by_id.items()} == {
        n: row.embedding for n, row in vectors.items()
    }
    assert dict(spark.table(view).dtypes)[ID] == "int"

    source_frame(shop, [7]).save(shop.table)
    spark.sql(f"DELETE FROM {table_sql(shop.table)} WHERE {identifier(ID)} = 3")
    spark.sql(f"DROP SCHEMA {lake.schema} CASCADE")
    with pytest.raises(LakeError, match="Delta cannot change rows of a table with a change feed"):
        shop.embed("embed.write_back=columns")
    followed = "'delta.enableChangeDataFeed' = 'false'"
    spark.sql(f"ALTER TABLE {table_sql(shop.table)} SET TBLPROPERTIES ({followed})")
    lake, report = shop.embed("embed.write_back=columns")
    assert set(shop.vectors(lake)) == {"0", "1", "2", "4", "5", "7"}
    assert report.counts["written_back"] == 6
    row = spark.read.format("delta").load(shop.table).where(f"{identifier(ID)} = 7").first()
    assert row[VECTOR] == shop.vectors(lake)["7"].embedding and row[MODEL]

    asked = [("q", "thing 2", picture(2))]
    frame = spark.createDataFrame(asked, "query_id string, text string, image binary")
    frame.write.format("delta").save(str(queries))
    where = f"search.filter={identifier(GROUP)} = 'g0' AND {identifier(ID)} < 5"
    found, _, page = search(shop.lake(where, f"search.report={tmp_path / 'page.html'}"))
    hits = [hit.id for hit in found["q"]]
    assert hits[0] == "2" and sorted(hits) == ["0", "2", "4"]
    assert "thing 4" in page.read_text("utf-8")
    found, _, _ = search(shop.lake(f"search.group_by={GROUP}"))
    assert len(found["q"]) == 2


def test_schemas_and_catalogs_have_hyphens_where_they_may(spark, open_lake):
    for schema, words in (
        ("gme-shop", "Valid names only contain"),
        ("no-cat.gme", "REQUIRES_SINGLE_PART"),
    ):
        with pytest.raises(LakeError, match=f"lake.schema=.* cannot be used: .*{words}"):
            open_lake(f"lake.schema={schema}")
    for sets, words in (("schema=a..b", "no name of a table"), ("root=/tmp/[x]", "as a pattern")):
        with pytest.raises(LakeError, match=words):
            open_lake(f"lake.{sets}")
    name = "spark.sql.catalog.my-cat"
    spark.conf.set(name, "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    try:
        catalogs = spark._jsparkSession.sessionState().catalogManager()
        catalogs.catalog("my-cat").setDelegateCatalog(catalogs.v2SessionCatalog())
        lake = open_lake("lake.schema=my-cat.gme_hyphen")
        assert lake.name("vectors") == "`my-cat`.gme_hyphen.vectors"
        row = dict.fromkeys(("model_id", "id", "content_hash", "status", "run_id"), "it's")
        lake.append("vectors", [{**row, "embedded_at": now()}])
        assert lake.version("vectors") == 1 and lake.read("vectors").first().id == "it's"
        assert spark.table(lake.name("current_vectors")).count() == 0
        spark.sql(f"DROP SCHEMA {lake.schema} CASCADE")
    finally:
        spark.conf.unset(name)
