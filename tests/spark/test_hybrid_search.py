"""Hybrid search through SQL: part numbers are found, over changes, extensions, repairs and restrictions; costs a minute."""

from pathlib import Path

import pytest

from jobs.lake.indexes import find_index, read_manifest
from jobs.stages.index import extend
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.spark.conftest import picture
from tests.spark.index_vectors import release
from tests.spark.test_sql_functions import ask, refusal
from tests.spark.test_verify_index import repaired, verified
from tests.unit.search.indexes import flip

pytestmark = [pytest.mark.spark, pytest.mark.long]

SETS = ("serving.placement=worker", "index.shards=2", "index.full_text=true")
SETS += ("index.factory=IVF{nlist},Flat", "index.nlist=1")
NEW = (
    "SELECT q.text, s.id, s.score FROM VALUES ('7777'), ('8888'), ('0003'), ('0007') q(text), "
    "LATERAL hybrid_search(q.text, 1) s"
)
ONE_ORDER = 1 / 61 + 1e-6  # the most that one of both searches gives a row


def found(lake, text, **args):
    given = "".join(f", {name} => {value}" for name, value in args.items())
    return ask(lake, f"SELECT * FROM hybrid_search(:text{given}) ORDER BY rank", text=text)


def ids(rows):
    return [row.id for row in rows]


def test_words_are_found_over_changes_extensions_and_repairs(shop, monkeypatch):
    monkeypatch.setattr(extend, "MAX_ERROR", 10.0)  # 40 random vectors are unlike any other
    rows = [
        (f"p{n}", f"thing PN-{n:04d}/A", "red" if n % 3 else "blue", picture(n), float(n))
        for n in range(40)
    ]
    shop.write([*rows, ("bad", "PN-9999", "red", b"<html>", 0.0)])
    lake, _ = shop.embed(*SETS)
    first = release(lake).index_id
    assert verified(lake, first).ok
    register_functions(lake, settings_of(lake))
    for n in (7, 22):
        best, *others = found(lake, f"a part 00{n:02d} please")
        assert best.id == f"p{n}" and best.title == f"thing PN-00{n:02d}/A"
        assert best.score > ONE_ORDER > others[0].score and len(others) == 9
    assert found(lake, None) == []
    assert ids(found(lake, "0007", k=1)) == ["p7"]
    assert ids(found(lake, "0007 0009", filter="'price > 8'", k=1)) == ["p9"]
    kinds = [r.description for r in found(lake, "0007 0009", group_by="'description'", k=9)]
    assert sorted(kinds) == ["blue", "red"]
    for given, words in (
        ("rrf_k => 0", "rrf_k must be 1 or more; got 0"),
        ("rrf_k => NULL", "rrf_k must be 1 or more; got NULL"),
        ("k => 0", "k must be 1 to 1000; got 0"),
    ):
        assert words in refusal(lake, f"SELECT * FROM hybrid_search('a', {given})")
    many = ask(
        lake,
        "SELECT q.text, s.id FROM VALUES ('0003'), ('0004') q(text), LATERAL hybrid_search(q.text, 1) s ORDER BY 1",
    )
    assert ids(many) == ["p3", "p4"]

    # New rows, other words of a row and a row that is gone, before any index knows of them and after.
    table = f"delta.`{shop.table}`"
    ask(lake, f"UPDATE {table} SET title = 'thing PN-7777/A' WHERE id = 'p7'")
    ask(lake, f"DELETE FROM {table} WHERE id = 'p22'")
    shop.write([("new", "thing PN-8888/A", "red", picture(99), 99.0)])
    shop.embed(*SETS)
    for again in (False, True):
        if again:
            assert release(lake).index_id != first
        best = {row.text: row for row in ask(lake, NEW)}
        assert [best[text].id for text in ("7777", "8888", "0003")] == ["p7", "new", "p3"]
        assert {t for t in best if best[t].score > ONE_ORDER} == {"7777", "8888", "0003"}
        assert "p22" not in ids(found(lake, "0022", k=40))
    assert ids(found(lake, "8888", freshness="'indexed_only'", k=1)) == ["new"]

    # A manifest that is lost is made again out of the tables, as it was.
    committed = find_index(lake, first).manifest_sha256
    Path(lake.folder("indexes", first, "manifest.json")).unlink()
    assert repaired(lake, first).ok and find_index(lake, first).manifest_sha256 == committed

    # A damaged file is found, is never read, and is made again.
    newest = ask(lake, "SELECT index_id FROM gme.releases ORDER BY release_id DESC")[0].index_id
    manifest = read_manifest(lake, find_index(lake, newest))
    assert manifest.base is not None and manifest.base.index_id == first
    folder, record = manifest.all_shards(manifest.spec.root)[0]
    flip(Path(folder) / record.full_text.name, 100)
    (finding,) = verified(lake, newest).findings
    assert (finding.shard, finding.file, finding.kind) == (0, record.full_text.name, "sha256")
    assert repaired(lake, newest).ok
    register_functions(lake, settings_of(lake))
    assert ids(found(lake, "7777", k=1)) == ["p7"]
    assert ids(found(lake, "0003", k=1)) == ["p3"]
