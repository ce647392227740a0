"""Spark Connect clients get the functions of the process that serves the lake: the same rows, the same errors."""

import json
import os
import subprocess
import sys

import pytest

from jobs import register_functions as register_told
from jobs.serve_sql import _connect_service, _start_connect
from jobs.settings.serve import ServeSqlSettings
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.readmes import ROOT
from tests.spark.connect_client import ASKED, make_asked
from udfs.errors import LakeError, SettingsError

pytestmark = [pytest.mark.spark, pytest.mark.long]

SERVED = ServeSqlSettings(connect_port=0)
PICTURE = "(SELECT image FROM delta.`{table}` WHERE id = 'p5')"
VECTOR = "(SELECT max(embedding) FROM {schema}.current_vectors WHERE id = 'p7')"
NEAREST = "SELECT rank, id, title, price, round(score, 4) FROM {call} ORDER BY rank"
CALLS = (
    "search_text('a red mug', k => 4)",
    "search_text('a red mug', 3, filter => 'price < 4')",
    f"search_image({PICTURE}, k => 3)",
    f"search_both('a mug', {PICTURE}, k => 3)",
    "similar_rows('p7', k => 3)",
    f"vector_search({VECTOR}, 3)",
)
OTHERS = (
    f"SELECT rank, id, round(score, 4) FROM {{schema}}.knn({VECTOR}, 3) ORDER BY rank",
    f"SELECT round({{schema}}.similarity(embed_text('a red mug'), embed_image({PICTURE})), 4)",
    "SELECT q.text, s.rank, s.id FROM VALUES ('a mug'), (NULL) q(text), LATERAL search_text(q.text, 2) s ORDER BY rank",
    "SELECT rows, with_vector FROM {schema}.coverage",
)
# Values that a client has, as a frame of its own.
OF_FRAME = (
    f"SELECT a.text, s.rank, s.id FROM {ASKED} a, LATERAL search_text(a.text, 2) s ORDER BY rank"
)
# Delta's parser drops parameters, over Connect under every setting; once this is answered, say so in jobs/README.md.
GIVEN = ["SELECT :text AS text", {"text": "a mug"}]
REFUSED = "SELECT * FROM search_text('a mug', k => 0)"


@pytest.fixture
def served(released, spark):
    """A lake whose session Spark Connect's clients come to: (its statements' names, its URL)."""
    with pytest.raises(LakeError, match="no lake is served where this session is"):
        register_told(spark)
    lake = released.lake("serving.placement=worker")
    functions = register_functions(lake, settings_of(lake))
    port = _start_connect(spark, SERVED, functions)
    yield {"table": released.table, "schema": lake.schema}, f"sc://127.0.0.1:{port}"
    nothing = spark._jvm.scala.Option.empty()
    _connect_service(spark).stop(nothing, nothing)
    spark.catalog.dropGlobalTempView("gme_lake_functions")


def ask_client(url: str, statements: list[list]) -> list:
    """What a client in a process of its own is given."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.spark.connect_client", url],
        input=json.dumps(statements),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_client_gets_the_functions_of_the_process_that_serves(served, spark):
    names, url = served
    statements = [NEAREST.replace("{call}", call) for call in CALLS]
    plain = [[statement.format(**names), None] for statement in (*statements, *OTHERS)]
    make_asked(spark)
    asked = [*plain, [OF_FRAME, None]]
    other, made, *found, refused, unbound, heavy = ask_client(url, [*asked, [REFUSED, None], GIVEN])
    assert "made by Python 3.99 here and run by Python 3." in other
    assert made is None and heavy == []
    for (statement, _), rows in zip(asked, found, strict=True):
        expected = [list(row) for row in spark.sql(statement).collect()]
        assert rows == expected and rows, statement
    assert refused.startswith("[USER_RAISED_EXCEPTION] search_text: k must be 1 to 1000; got 0")
    assert unbound.startswith("[UNBOUND_SQL_PARAMETER]")
    spark.catalog.dropTempView(ASKED)


def test_no_plan_shows_where_the_service_listens_or_its_key(served, spark):
    names, _ = served
    frame = spark.table("global_temp.gme_lake_functions")
    (told,) = frame.collect()
    assert told.source == names["table"] and len(told.key) == 32
    plan = frame._jdf.queryExecution().toString()
    shown = {told.source, told.host, bytes(told.key).hex(), bytes(told.key).hex().upper()}
    assert "key" in plan and not [value for value in shown if value in plan]


def test_a_session_that_serves_connect_already_is_refused(served, spark):
    with pytest.raises(SettingsError, match=r"leave SparkConnectPlugin out of spark\.plugins"):
        _start_connect(spark, SERVED, None)
