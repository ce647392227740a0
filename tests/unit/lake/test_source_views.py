"""Which views of sources a lake has, and what they are called."""

import json
from types import SimpleNamespace

from jobs.lake.source_views import (
    SourceRuns,
    former_names,
    long_name,
    plan_views,
    short_name,
    view_statement,
)

SETTINGS = json.dumps(
    {
        "source": {"id": "the `id`"},
        "embed": {"write_back": "view", "vector_column": "my vector", "model_column": "m"},
    }
)


def run(table, model="m1", first=0.0, last=None):
    return SourceRuns(table, model, SETTINGS, first, first if last is None else last)


def names(*runs):
    return {view.table: view.name for view in plan_views(runs)}


def test_names_have_the_letters_that_sparks_catalog_takes():
    assert short_name("/lake/Häuser & `x` it's/") == "H_user____x__it_s_with_vectors"
    assert short_name("main.gme.`my-products`") == "my_products_with_vectors"


def test_of_two_sources_with_one_last_part_the_first_has_the_short_name():
    a, b = "/a/products", "/b/products"
    found = names(run(b, "m2", first=2), run(a, "m1", first=1, last=9))
    assert found == {a: "products_with_vectors", b: long_name(b)}
    assert found[b] != long_name(a) and found[b].startswith("products_")


def test_a_view_shows_the_models_that_embedded_its_source_last():
    a, b = "/a/products", "/b/products"
    both = plan_views([run(a, "m1", first=1), run(a, "m2", first=2), run(b, "m2", first=3)])
    assert {view.table: view.models for view in both} == {a: ("m1",), b: ("m2",)}
    again = plan_views([run(a, "m2", first=2, last=4), run(b, "m2", first=3)])
    assert {view.table: view.models for view in again} == {a: ("m2",)}


def test_a_source_that_took_anothers_place_takes_its_views_name():
    runs = [run("/old/products", first=1), run("/new/products", first=2)]
    kept = set(names(*runs).values())
    assert names(*runs) == {"/new/products": "products_with_vectors"}
    assert former_names(runs, kept=kept, model_id="m1") == [long_name("/old/products")]
    moved = [run("/old/products", first=1), run("/new/goods", first=2)]
    gone = former_names(moved, kept=set(names(*moved).values()), model_id="m1")
    assert set(gone) == {short_name("/old/products"), long_name("/old/products")}
    assert former_names(moved, kept=set(), model_id="another") == []


def test_the_statement_quotes_what_users_name():
    lake = SimpleNamespace(name=lambda table: f"`my-shop`.{table}")
    (view,) = plan_views([run("/lake/it's `here`", "m'1")])
    assert view_statement(lake, view) == (
        "CREATE OR REPLACE VIEW `my-shop`.it_s__here__with_vectors "
        "COMMENT 'One row for each row of /lake/it\\'s `here`, with its vector of the released model or null.' AS "
        "SELECT s.*, v.vector_id, v.embedding AS `my vector`, v.model_id AS `m` FROM `delta`.`/lake/it's ``here``` s "
        "LEFT JOIN `my-shop`.current_vectors v "
        "ON CAST(`s`.`the ``id``` AS STRING) = v.id AND v.model_id IN ('m\\'1')"
    )
