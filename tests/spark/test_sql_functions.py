"""SQL functions that take texts, pictures, ids and vectors, over a release: what they find, and what they refuse."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jobs.driver import task_slots
from jobs.lake.sql_functions import SQL_FUNCTIONS
from jobs.lake.tables import VECTORS
from jobs.stages.sql.searches import Searches
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.spark.conftest import SOURCE_SCHEMA, picture, source_rows
from tests.spark.index_vectors import release

pytestmark = pytest.mark.spark

COLUMNS = ["rank", "score", "id", "vector_id", "title", "description", "image", "price"]


def ask(lake, statement, **args):
    return lake.spark.sql(statement.replace("gme.", f"{lake.schema}."), args=args).collect()


def refusal(lake, statement):
    with pytest.raises(Exception) as error:
        ask(lake, statement)
    found = re.match(r"\[USER_RAISED_EXCEPTION\] (.*) SQLSTATE: P0001", str(error.value))
    assert found, f"no SQL error: {str(error.value)[:2000]}"
    return found[1]


def same_rows(found, expected):
    assert [(r.rank, r.id) for r in found] == [(r.rank, r.id) for r in expected]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], atol=1e-5)


def opened(shop):
    lake = shop.lake("serving.placement=worker")
    register_functions(lake, settings_of(lake))
    return lake


def test_texts_pictures_ids_and_vectors_find_rows_of_the_source(released, checkpoint):
    from jobs.settings.conf import profile_named
    from udfs.gme import Encoder, Row

    lake = opened(released)
    told = "Find the product."
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    asked = [Row("a red mug", is_query=True), Row("a red mug", None, told, is_query=True)]
    asked += [Row(None, picture(5), is_query=True)]
    (made,) = ask(
        lake,
        "SELECT embed_text(:text) AS plain, embed_text(:text, instruction => :told) AS told, "
        "embed_text(NULL) AS nothing, embed_image(:image) AS picture",
        text="a red mug",
        told=told,
        image=bytearray(picture(5)),
    )
    vectors = [made.plain, made.told, made.picture]
    np.testing.assert_allclose(vectors, encoder.encode(asked).vectors, atol=2e-5)
    assert made.nothing is None
    (alike,) = ask(
        lake, "SELECT gme.similarity(embed_text('a red mug'), embed_text('a red mug')) AS s"
    )
    assert abs(alike.s - 1) < 1e-5

    near = "SELECT rank, id, score FROM gme.knn((SELECT embed_text('a red mug')), 4) ORDER BY rank"
    near = ask(lake, near)
    text = "SELECT * FROM search_text(:text, k => :k) ORDER BY rank"
    found = ask(lake, text, text="a red mug", k=4)
    same_rows(found, near)
    assert list(found[0].asDict()) == COLUMNS
    assert all(r.id == f"p{r.price:.0f}" and r.title == f"thing {r.price:.0f}" for r in found)
    by_vector = "SELECT * FROM vector_search((SELECT embed_text('a red mug')), 4) ORDER BY rank"
    same_rows(ask(lake, by_vector), near)
    (best, *_) = ask(
        lake, "SELECT * FROM search_image(:image) ORDER BY rank", image=bytearray(picture(5))
    )
    pictures = "SELECT id FROM gme.knn((SELECT embed_image(:image)), 1)"
    assert best.id == ask(lake, pictures, image=bytearray(picture(5)))[0].id
    both = "SELECT id FROM search_both(:text, :image, k => 3)"
    assert len(ask(lake, both, text="a mug", image=bytearray(picture(5)))) == 3
    for given in ({"text": "a red mug", "image": None}, {"text": None, "image": None}):
        rows = ask(lake, "SELECT * FROM search_both(:text, :image, k => 4) ORDER BY rank", **given)
        same_rows(rows, near if given["text"] else [])
    rows = ask(
        lake,
        "SELECT q.text, s.rank, s.id FROM VALUES ('a red mug'), ('a blue kite'), (NULL) q(text), "
        "LATERAL search_text(q.text, 2) s ORDER BY text DESC, rank",
    )
    assert [r.text for r in rows] == ["a red mug"] * 2 + ["a blue kite"] * 2
    assert [r.id for r in rows[:2]] == [r.id for r in found[:2]]

    own = "SELECT id FROM gme.knn((SELECT embedding FROM gme.current_vectors WHERE id = 'p7'), 4)"
    own = [r.id for r in ask(lake, f"{own} ORDER BY rank")]
    found = ask(lake, "SELECT * FROM similar_rows('p7', 3) ORDER BY rank")
    assert [(r.rank, r.id) for r in found] == list(enumerate(own[1:], 1)) and own[0] == "p7"
    rows = ask(
        lake,
        "SELECT q.id AS asked, s.* FROM VALUES ('p7'), ('p1'), (NULL) q(id), LATERAL similar_rows(q.id, 3) s "
        "ORDER BY asked DESC, rank",
    )
    assert len(rows) == 6 and [r.id for r in rows[:3]] == [r.id for r in found]
    for call in ("search_text(NULL)", "similar_rows(NULL)", "search_image(NULL)"):
        assert ask(lake, f"SELECT * FROM {call}") == []

    # What may be found.
    cheap = "SELECT * FROM search_text('a red mug', 3, filter => 'price < 4 AND title <> ''thing 2''') ORDER BY rank"
    assert {r.id for r in ask(lake, cheap)} == {"p0", "p1", "p3"}
    assert {r.id for r in ask(lake, cheap)} == {"p0", "p1", "p3"}
    # Of the source as it is now.
    table = f"delta.`{released.table}`"
    ask(lake, f"UPDATE {table} SET price = 99, description = 'odd' WHERE id = 'p1'")
    assert {r.id for r in ask(lake, cheap)} == {"p0", "p3"}
    # As it is at the moment.
    moment = time.time() + 5
    since = f"SELECT * FROM search_text('a red mug', 3, filter => 'unix_seconds(now()) > {moment}')"
    assert ask(lake, since) == [] and time.time() < moment
    time.sleep(moment + 1 - time.time())
    assert len(ask(lake, since)) == 3
    ask(lake, f"UPDATE {table} SET description = 'even' WHERE price IN (0, 2, 4, 6, 8, 10)")
    one = "SELECT * FROM search_text('a red mug', 12, group_by => 'description')"
    groups = [r.description for r in ask(lake, one)]
    assert {"even", "odd"} < set(groups) and len(groups) == len(set(groups)) == 7
    ask(lake, f"DELETE FROM {table} WHERE id = '{near[0].id}'")
    (gone,) = [r for r in ask(lake, text, text="a red mug", k=4) if r.rank == 1]
    assert gone.id == near[0].id and gone.title is None
    above = f"SELECT id FROM search_text('a red mug', min_score => {near[1].score!r}) ORDER BY rank"
    assert [r.id for r in ask(lake, above)] == [r.id for r in near[:2]]


def test_a_filter_is_of_the_source_as_it_is_also_where_that_was_made_again(shop):
    name = f"again_{id(shop)}"

    def make(price):
        rows = [(*row[:4], price) for row in source_rows(range(6))]
        frame = shop.spark.createDataFrame(rows, SOURCE_SCHEMA)
        frame.write.format("delta").saveAsTable(name)

    make(1.0)
    shop.table = name
    try:
        release(shop.embed()[0])
        lake = opened(shop)
        cheap = "SELECT price FROM search_text('a red mug', 3, filter => 'price < 5')"
        assert len(ask(lake, cheap)) == 3
        shop.spark.sql(f"DROP TABLE {name}")
        make(9.0)
        assert ask(lake, cheap) == []
    finally:
        shop.spark.sql(f"DROP TABLE IF EXISTS {name}")


@pytest.mark.long
def test_what_cannot_be_answered_is_a_clear_error(released):
    lake = opened(released)
    model_id = ask(lake, "SELECT model_id FROM gme.releases")[0].model_id
    vector = "(SELECT max(embedding) FROM gme.current_vectors WHERE id = 'p1')"
    for call, words in (
        ("search_text('a mug', k => 0)", "search_text: k must be 1 to 1000; got 0"),
        ("search_text('a mug', k => NULL)", "search_text: k must be 1 to 1000; got NULL"),
        ("search_text('  ')", "search_text: it cannot be embedded: .*blank.*"),
        ("search_text('a', filter => 'no_such < 1')", "search_text: .*no_such.*Its columns are.*"),
        (
            "search_text('a', filter => 'id IN (SELECT 1)')",
            "search_text: .*subqueries; found '.SELECT.*",
        ),
        ("search_text('a', filter => 'true; DROP TABLE x')", "search_text: .*without statements.*"),
        (
            "search_text('a', min_score => 3)",
            "search_text: min_score .*less than or equal to 1; got 3.0",
        ),
        (
            "search_text('a', group_by => 'no_such')",
            "search_text: search.group_by=no_such must be.*",
        ),
        ("search_text('a', freshness => 'now')", "search_text: freshness .*complete.*"),
        ("search_text('a', release => 9)", "search_text: there is no release 9; the newest are 1"),
        ("search_image(CAST('no picture' AS BINARY))", "search_image: it cannot be embedded: .*"),
        ("similar_rows('p1', 1000)", "similar_rows: k must be 1 to 999; got 1000"),
        (
            "similar_rows('p99')",
            "similar_rows: row p99 has no vector of the released model, or nothing is released",
        ),
        ("similar_rows('bad')", "similar_rows: row bad has no vector of the released model.*"),
        ("vector_search(array(1F, 0F), 3)", "vector_search: query vectors must have 64 floats.*"),
        ("vector_search(NULL, 3)", "vector_search: the query is NULL"),
        (
            f"vector_search({vector}, 3, 'm')",
            f"vector_search: the query is of model m but .* {model_id}",
        ),
    ):
        said = refusal(lake, f"SELECT * FROM {call}")
        assert re.fullmatch(words, said), (call, said)
    assert "blank" in refusal(lake, "SELECT embed_text('  ')")
    listed = {row.name: row for row in ask(lake, "SELECT * FROM gme.functions")}
    assert len(listed) == len(SQL_FUNCTIONS)
    for name, row in listed.items():
        described = ask(lake, f"DESCRIBE FUNCTION EXTENDED {row.name}")
        told = " ".join("\n".join(line[0] for line in described).split())
        assert name.split(".")[-1] in told and f"Example: {row.example}" in told, told
        if "binaryFile" not in row.example:
            ask(lake, f"EXPLAIN {row.example}")


def test_the_next_statement_sees_what_has_changed(released, monkeypatch):
    lake = opened(released)
    (found,) = ask(lake, "SELECT id FROM search_text('a red mug', 1)")
    ask(lake, f"DELETE FROM gme.vectors WHERE id = '{found.id}'")
    rows = ask(lake, "SELECT id FROM search_text('a red mug', 12)")
    assert len(rows) == 11 and found.id not in {r.id for r in rows}
    # Many at once, after a change that takes Spark jobs to follow, on two places: none waits for another's place.
    ask(lake, f"DELETE FROM gme.vectors WHERE id = '{rows[0].id}'")
    search = "SELECT id FROM search_text('a red mug', 12)"
    with ThreadPoolExecutor(8) as clients:
        found = list(clients.map(lambda _: {r.id for r in ask(lake, search)}, range(8)))
    assert found == [{r.id for r in rows[1:]}] * 8
    rows = ask(lake, search)
    # While another model's vectors are made, nothing is opened again.
    with monkeypatch.context() as patched:
        patched.setattr(Searches, "_open_target", lambda *_: 1 / 0)
        columns = ", ".join(c[0] for c in VECTORS.columns)
        of_other = columns.replace("model_id", "'other' AS model_id")
        ask(lake, f"INSERT INTO gme.vectors ({columns}) SELECT {of_other} FROM gme.vectors")
        assert ask(lake, "SELECT id FROM search_text('a red mug', 12)") == rows
    again = (
        "INSERT INTO gme.releases SELECT release_id + 1, {}, vectors_version, index_id, now(), by_run, note "
        "FROM gme.releases ORDER BY release_id DESC LIMIT 1"
    )
    ask(lake, again.format("'other'"))
    said = refusal(lake, "SELECT * FROM vector_search(array(1F), 1)")
    assert re.search("rows are of a table that no run tells, .* open the lake again", said)
    assert "no version of model" in refusal(lake, "SELECT * FROM search_text('a mug')")
    assert len(ask(lake, "SELECT * FROM search_text('a mug', release => 1)")) == 10
    ask(lake, "DELETE FROM gme.releases")
    for call in ("search_text('a red mug')", "similar_rows('p1')", "vector_search(array(1F))"):
        assert "nothing is released" in refusal(lake, f"SELECT * FROM {call}")


@pytest.mark.long
def test_a_filter_that_gets_no_place_to_run_is_an_error_and_not_a_wait(released, monkeypatch):
    """Both places of the session are held by tasks of the statement, which wait for it."""
    lake = opened(released)
    monkeypatch.setattr(task_slots, "STARVED_SECONDS", 4)
    coalesced = "spark.sql.adaptive.coalescePartitions.enabled"
    search = "SELECT count(*) AS n FROM VALUES ('a'), ('b'), ('c'), ('d'), ('e') q(text), "
    search += "LATERAL search_text(q.text, 2, filter => 'price < 5')"
    lake.spark.conf.set(coalesced, "false")
    try:
        assert "none of its tasks got a place" in refusal(lake, search)
    finally:
        lake.spark.conf.unset(coalesced)
    assert ask(lake, search)[0].n == 10
