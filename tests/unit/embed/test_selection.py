"""What settings select of a source is read, or refused with what is there."""

import pytest

from jobs.settings.load import load_settings
from jobs.stages.embed.selection import Order, find_flaw, parse_order
from jobs.stages.embed.source_checks import SourceColumns
from udfs.errors import LakeError, SettingsError

COLUMNS = SourceColumns(
    "/lake/products",
    {"id": "string", "Sales Rank": "int", "price desc": "double", "parts": "array<string>"},
)


def test_an_order_is_a_column_and_a_way():
    assert parse_order("sales rank", COLUMNS) == Order("Sales Rank")
    assert parse_order(" Sales Rank  ASC ", COLUMNS) == Order("Sales Rank")
    assert parse_order("sales rank desc", COLUMNS) == Order("Sales Rank", descending=True)
    assert parse_order("price desc", COLUMNS) == Order("price desc")
    assert parse_order("price desc DESC", COLUMNS) == Order("price desc", descending=True)
    with pytest.raises(LakeError, match=r"column sales_rank is not in .*did you mean Sales Rank"):
        parse_order("sales_rank DESC", COLUMNS)
    with pytest.raises(LakeError, match=r"embed.first=parts: column parts .* is array<string>"):
        parse_order("parts", COLUMNS)


@pytest.mark.parametrize(
    ("predicate", "words"),
    [
        ("id IN (SELECT id FROM t)", "subquery"),
        ("exists( select 1 from t)", "subquery"),
        ("(WITH t AS (VALUES 1) SELECT 1) = 1", "subquery"),
        ("added > current_date() - INTERVAL 7 DAYS", "current_date"),
        ("added > CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP"),
        ("added < now ( )", "now"),
        ("added < timestamp 'now'", "timestamp 'now"),
        ("day(added) > 3 AND owner = current_user()", "current_user"),
        ("unix_timestamp() > 3", "unix_timestamp"),
    ],
)
def test_what_is_not_of_the_row_alone_is_refused(predicate, words):
    assert words in (find_flaw(predicate) or "")


@pytest.mark.parametrize(
    "predicate",
    [
        "title = 'I said (select all) now()'",
        "`(select a)` > 3 -- (SELECT 1)",
        "current_price > 3 AND selected",
        "exists(parts, p -> p > 'a')",
        "unix_timestamp(added) > 3",
        "title = 'it\\'s' AND note <> \"now()\"",
    ],
)
def test_what_only_looks_so_is_taken(predicate):
    assert find_flaw(predicate) is None


def test_shares_of_rejected_rows_are_given_for_all_and_by_status():
    def shares(*sets):
        return load_settings(sets=sets, env={}).embed.max_rejected

    assert shares() == {"rejected": 0.05}
    assert shares("embed.max_rejected=1") == {"rejected": 1.0}
    assert shares("embed.max_rejected=.1, image_missing=.3,empty=0") == {
        "rejected": 0.1,
        "image_missing": 0.3,
        "empty": 0.0,
    }
    assert shares("embed.max_rejected=image_missing=.3") == {"rejected": 0.05, "image_missing": 0.3}
    for wrong in ("2", "lots", "image_missing=", "empty=-1"):
        with pytest.raises(SettingsError, match=r"embed\.max_rejected"):
            shares(f"embed.max_rejected={wrong}")
