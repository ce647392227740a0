"""search_table, search and the SQL functions over an embedded, indexed, released shop."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.spark.conftest import picture, source_rows
from tests.spark.index_vectors import append_vectors, build, model_of, release, unit
from udfs.errors import IndexDataError, LakeError

pytestmark = pytest.mark.spark

QUERIES = "query_id string, text string, image binary, instruction string, k int"


def search(lake):
    """search_table as the job runs it: (results by query id in rank order, report, page)."""
    from jobs.lake.registry import Registry
    from jobs.lake.runs import open_run
    from jobs.stages.search.job import search_table
    from jobs.stages.search.report import report_table
    from jobs.stages.search.target import find_target

    settings = settings_of(lake)
    registry = Registry(settings)
    target = find_target(lake)
    with open_run(lake, registry, job="search_table") as run:
        model = registry.find(target.model_id)
        report = search_table(lake, run, target=target, model=model, settings=settings)
        page = report_table(lake, run, target=target, output=report.output, settings=settings)
    results: dict[str, list] = {}
    rows = lake.spark.read.format("delta").load(report.output)
    for row in rows.orderBy("query_id", "rank").collect():
        results.setdefault(row.query_id, []).append(row)
    return results, report, page


def good_vectors(shop, lake) -> list:
    """Rows of `vectors` that have one."""
    return [row for row in shop.vectors(lake).values() if row.status == "ok"]


def own_content(row):
    """A source row as a query: same text and picture, no instruction, hence the same vector."""
    return (f"like {row[0]}", f"{row[1]} {row[2]}", row[3], None, None)


@pytest.fixture
def searchable(released, tmp_path):
    """Twelve rows and a broken one, embedded and released; queries written as Parquet by `ask`."""
    shop = released
    shop.queries, shop.results = str(tmp_path / "queries.parquet"), str(tmp_path / "results")
    shop.sets += [f"search.queries={shop.queries}", f"search.output={shop.results}", "search.k=4"]

    def ask(rows, schema=QUERIES):
        shop.spark.createDataFrame(rows, schema).write.mode("overwrite").parquet(shop.queries)

    shop.ask = ask
    return shop


def test_queries_of_every_kind_find_what_exact_search_finds(searchable, tmp_path, checkpoint):
    from jobs.settings.conf import profile_named
    from udfs.gme import Encoder, Row

    rows = source_rows(range(12))
    cut = picture(3)[:120]
    asked = [
        *(own_content(row) for row in rows[:3]),
        ("text", "a red mug", None, None, 2),
        ("told", "a red mug", None, "Find an image that matches the given text.", 50),
        ("picture", None, picture(5), None, None),
        ("fused", "a blue kite", picture(99), "Find the product.", None),
        ("cut", "a red mug", cut, None, None),
        ("nothing", None, None, None, None),
        ("greedy", "a red mug", None, None, 1001),
    ]
    searchable.ask(asked)
    page = tmp_path / "pages" / "results.html"
    lake = searchable.lake(f"search.report={page}")
    found, report, written = search(lake)

    vectors = good_vectors(searchable, lake)
    xb = np.array([v.embedding for v in vectors], np.float32)
    encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
    good = [q for q in asked if q[0] not in {"cut", "nothing", "greedy"}]
    xq = encoder.encode([Row(q[1], q[2], q[3], is_query=True) for q in good]).vectors
    for query, x in zip(good, xq, strict=True):
        mine, scores = found[query[0]], xb @ x
        k = min(query[4] or 4, len(vectors))
        assert [hit.rank for hit in mine] == list(range(1, k + 1))
        np.testing.assert_allclose(
            [hit.score for hit in mine], np.sort(scores)[::-1][:k], atol=2e-5
        )
        by_id = {v.id: score for v, score in zip(vectors, scores, strict=True)}
        np.testing.assert_allclose(
            [hit.score for hit in mine], [by_id[h.id] for h in mine], atol=2e-5
        )
        assert {hit.vector_id for hit in mine} <= {v.vector_id for v in vectors}
        assert {(h.index_id, h.model_id, h.status) for h in mine} == {
            (report.index_id, vectors[0].model_id, "ok")
        }
    for row in rows[:3]:
        first = found[f"like {row[0]}"][0]
        assert first.id == row[0] and abs(first.score - 1) < 1e-5
    for name, status in (
        ("cut", "image_truncated"),
        ("nothing", "empty"),
        ("greedy", "k_out_of_range"),
    ):
        (row,) = found[name]
        assert (row.status, row.rank, row.id) == (status, None, None) and row.error
    assert report.counts == {
        "queries": 10, "queries_without_hits": 3, "fewer_than_k": 1, "hits": 4 * 5 + 2 + 12,
    }  # fmt: skip
    html = written.read_text()
    assert html.count("data:image/jpeg") >= 12 and "a thing numbered 5" in html
    assert "not searched, image_truncated: " in html and "http://" not in html
    stored = lake.read("runs").where("job = 'search_table'").collect()
    assert [(r.status, r.counts["hits"]) for r in stored] == [("succeeded", 34)]
    assert not (tmp_path / "lake" / "staging").exists() or not list(
        (tmp_path / "lake" / "staging").iterdir()
    )


def test_rows_gone_changed_and_new_since_the_index_was_built(searchable):
    rows = source_rows(range(12))
    spark, table = searchable.spark, f"delta.`{searchable.table}`"
    spark.sql(f"DELETE FROM {table} WHERE id = 'p1'")
    spark.sql(f"UPDATE {table} SET title = 'changed', description = '' WHERE id = 'p2'")
    searchable.write(source_rows([30]))
    lake, _ = searchable.embed()
    changed = ("p2", "changed", "", rows[2][3])
    new = source_rows([30])[0]
    searchable.ask(
        [own_content(r) for r in (rows[0], rows[1], rows[2], new)]
        + [("now p2", "changed", changed[3], None, 50)]
    )
    found, _, _ = search(lake)
    now = {v.vector_id: v.id for v in good_vectors(searchable, lake)}
    assert len(now) == 12
    for hits in found.values():
        assert all(now.get(hit.vector_id) == hit.id for hit in hits)
    assert found["like p0"][0].id == "p0" and found["like p30"][0].id == "p30"
    assert found["now p2"][0].id == "p2" and abs(found["now p2"][0].score - 1) < 1e-5
    assert found["like p2"][0].score < 1 - 1e-5 and len(found["like p1"]) == 4
    assert [len({h.id for h in found[q]}) for q in ("now p2", "like p1")] == [12, 4]

    run = (
        lake.read("runs")
        .where("job = 'search_table'")
        .orderBy("started_at", ascending=False)
        .first()
    )
    assert (run.counts["gone_since_index"], run.counts["new_since_index"]) == (2, 2)
    found, _, _ = search(searchable.lake("search.freshness=indexed_only"))
    assert {h.id for h in found["now p2"]} == {f"p{n}" for n in range(12)} - {"p1", "p2"}

    register_functions(lake, settings_of(lake))
    knn = sql_hits(lake, f"{lake.name('knn')}({vector_of(lake, 'p30')}, 12)")
    assert knn[0][1] == "p30" and len(knn) == 12
    same_hits(sql_hits(lake, f"vector_search({vector_of(lake, 'p30')}, 12)"), knn)
    same_hits(sql_hits(lake, f"vector_search({vector_of(lake, 'p2')}, 3)"),
              sql_hits(lake, f"{lake.name('knn')}({vector_of(lake, 'p2')}, 3)"))  # fmt: skip


def vector_of(lake, row_id):
    return f"(SELECT embedding FROM {lake.name('current_vectors')} WHERE id = '{row_id}')"


def sql_hits(lake, call):
    rows = lake.spark.sql(f"SELECT rank, id, vector_id, score FROM {call} ORDER BY rank").collect()
    assert [row.rank for row in rows] == list(range(1, len(rows) + 1))
    return rows


def same_hits(found, expected):
    assert [(r.id, r.vector_id) for r in found] == [(r.id, r.vector_id) for r in expected]
    np.testing.assert_allclose([r.score for r in found], [r.score for r in expected], atol=1e-6)


def check_sql_ranks_as_numpy_and_refuses_what_it_cannot_answer(searchable):
    lake = searchable.lake()
    register_functions(lake, settings_of(lake))
    knn, current = lake.name("knn"), lake.name("current_vectors")
    vectors = good_vectors(searchable, lake)
    x = np.array(next(v.embedding for v in vectors if v.id == "p7"), np.float32)
    scores = {v.id: float(np.dot(x, np.array(v.embedding, np.float32))) for v in vectors}
    best = sorted(scores, key=scores.get, reverse=True)
    literal = "array(" + ",".join(f"{value!r}" for value in x.tolist()) + ")"
    for call in (f"{knn}({vector_of(lake, 'p7')}, 5)", f"vector_search({literal}, 5)"):
        rows = sql_hits(lake, call)
        assert rows[0].id == "p7" and len(rows) == 5
        np.testing.assert_allclose(
            [r.score for r in rows], [scores[i] for i in best[:5]], atol=1e-5
        )
        same_hits(rows, sql_hits(lake, f"{knn}({literal}, 5)"))
    assert len(sql_hits(lake, f"vector_search({literal}, 100)")) == 12
    some = f"(SELECT * FROM {current} WHERE id IN ('p1', 'p2')) q"
    by_row = [per_row(lake, some, function, 3) for function in (knn, "vector_search")]
    assert [(row.asked, row.id, row.rank) for row in by_row[0] if row.rank == 1] == [
        ("p1", "p1", 1),
        ("p2", "p2", 1),
    ]
    same_hits(by_row[1], by_row[0])
    model_id = vectors[0].model_id
    assert sql_hits(lake, f"vector_search({literal}, 1, model => '{model_id}')")[0].id == "p7"
    for call, words in (
        (f"{knn}(CAST(NULL AS ARRAY<FLOAT>), 3)", "the query is NULL"),
        ("vector_search(CAST(NULL AS ARRAY<FLOAT>), 3)", "the query is NULL"),
        (f"vector_search({literal}, 0)", "k must be 1 to 1000"),
        (f"vector_search({literal}, 1001)", "k must be 1 to 1000"),
        (f"vector_search({literal}, 3, model => 'other')", "the query is of model other"),
        ("vector_search(array(1.0, 0.0), 3)", "floats each"),
    ):
        with pytest.raises(Exception, match=words) as error:
            sql_hits(lake, call)
        assert re.match(r"\[\w+\] (vector_search|knn): .*$", str(error.value)), "no SQL error"
    with pytest.raises(Exception, match="vector_search: the query is of model other"):
        per_row(lake, some, "vector_search", "3, 'other'")


def per_row(lake, queries, function, arguments):
    """Hits of a function in a LATERAL join with queries `q` (id, embedding), in order."""
    statement = (
        f"SELECT q.id AS asked, h.* FROM {queries}, LATERAL {function}(q.embedding, {arguments}) h"
    )
    return lake.spark.sql(f"{statement} ORDER BY asked, rank").collect()


def test_sql_finds_what_is_left_where_all_that_the_index_finds_is_gone(open_lake):
    from jobs.lake.releases import promote
    from jobs.lake.runs import Run

    lake, x = open_lake(), unit(700, 16)
    append_vectors(lake, x, model_id="model-a")
    report, _ = build(lake, model_of("model-a", 16))
    limits = settings_of(lake).release
    promote(lake, Run(lake, "release", "{}"), index_id=report.spec.index_id, limits=limits)
    register_functions(lake, settings_of(lake))
    nearest = np.argsort(-(x @ x[0]))
    names = ",".join(f"'model-a-{n}'" for n in nearest[:300])
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id IN ({names})")
    append_vectors(lake, -x[[0, 0, 0]], model_id="model-a")  # new, and as far as can be
    literal = "array(" + ",".join(f"{value!r}" for value in x[0].tolist()) + ")"
    found = sql_hits(lake, f"vector_search({literal}, 3)")
    assert [r.id for r in found] == [f"model-a-{n}" for n in nearest[300:303]]
    same_hits(found, sql_hits(lake, f"{lake.name('knn')}({literal}, 3)"))
    assert len(sql_hits(lake, f"vector_search({literal}, 500)")) == 403
    # Beside it a query that finds enough in the index.
    queries = f"(SELECT * FROM VALUES ('gone', {literal}), ('there', array_repeat(0.25F, 16)) q(id, embedding)) q"
    expected = per_row(lake, queries, lake.name("knn"), 3)
    assert len(expected) == 6
    same_hits(per_row(lake, queries, "vector_search", 3), expected)


@pytest.mark.long
def test_sql_over_an_index_that_was_added_to_and_is_older_than_the_table(open_lake):
    from jobs.lake.releases import promote
    from jobs.lake.runs import Run

    lake = open_lake("index.factory=IVF{nlist},Flat", "index.nlist=4", "index.nprobe=4")
    x = unit(640, 16)
    append_vectors(lake, x[:600], model_id="model-a")
    build(lake, model_of("model-a", 16))
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-%7'")
    append_vectors(lake, x[600:620], model_id="model-a")
    report, _ = build(lake, model_of("model-a", 16))
    assert (report.extension.fresh, report.extension.gone) == (20, 60)
    limits = settings_of(lake).release
    promote(lake, Run(lake, "release", "{}"), index_id=report.spec.index_id, limits=limits)
    register_functions(lake, settings_of(lake))

    def literal(row):
        return "array(" + ",".join(f"{value!r}" for value in x[row].tolist()) + ")"

    def agree(row, k):
        found = sql_hits(lake, f"vector_search({literal(row)}, {k})")
        same_hits(found, sql_hits(lake, f"{lake.name('knn')}({literal(row)}, {k})"))
        return found

    assert agree(7, 5)[0].score < 0.99  # the row itself is gone
    assert agree(610, 5)[0].score > 0.99  # a row that was added
    lake.spark.sql(f"DELETE FROM {lake.name('vectors')} WHERE id LIKE 'model-a-1_'")
    append_vectors(lake, x[620:], model_id="model-a")
    assert agree(630, 5)[0].score > 0.99  # a row newer than the index
    every = {row.vector_id for row in lake.read("vectors").collect()}
    found = sql_hits(lake, f"vector_search({literal(12)}, 700)")
    assert sorted(row.vector_id for row in found) == sorted(every)


def check_the_search_command_prints_hits_and_writes_a_page(searchable, tmp_path):
    from jobs.search import command

    file = tmp_path / "p5.png"
    file.write_bytes(picture(5))
    lake = searchable.lake()
    sets = [f"lake.root={lake.root}", f"lake.schema={lake.schema}", "serving.threads=1"]
    sets += [f"mlflow.tracking_uri={settings_of(lake).mlflow.tracking_uri}"]
    sets = [part for item in sets for part in ("--set", item)]
    html = tmp_path / "page.html"
    options = ["--text", "thing 5 a thing numbered 5", "--image", str(file), "-k", "3"]
    done = CliRunner().invoke(command, [*sets, *options, "--html", str(html)])
    assert done.exit_code == 0, done.output
    first = next(line for line in done.output.splitlines() if "1.0000" in line)
    assert "p5" in first and "thing 5" in first
    assert html.read_text().count("data:image/jpeg") >= 3
    file.write_bytes(b"")
    refused = CliRunner().invoke(command, [*sets, "--image", str(file), "--json"])
    assert refused.exit_code == 1 and "image_empty" in json.loads(refused.stdout)["error"]
    nothing = CliRunner().invoke(command, sets)
    assert nothing.exit_code == 2 and "--text" in nothing.output


def test_sql_and_command_line_over_a_release(searchable, tmp_path):
    check_sql_ranks_as_numpy_and_refuses_what_it_cannot_answer(searchable)
    check_the_search_command_prints_hits_and_writes_a_page(searchable, tmp_path)


@pytest.mark.long
def test_unusable_queries_outputs_and_releases_are_refused(embedded, tmp_path):
    shop = embedded
    queries, output = tmp_path / "queries.jsonl", tmp_path / "results"
    shop.sets += [f"search.queries={queries}", f"search.output={output}"]
    lake = shop.lake()
    with pytest.raises(LakeError, match=r"no release.*gme-lake release promote"):
        search(lake)
    register_functions(lake, settings_of(lake))
    with pytest.raises(Exception, match="vector_search: nothing is released; run gme-lake"):
        lake.spark.sql("SELECT * FROM vector_search(array(1.0), 3)").collect()
    release(lake)

    (tmp_path / "p1.png").write_bytes(picture(1))
    for rows, words in (
        (None, "cannot be read"),
        ([{"text": "a"}], "no column query_id"),
        ([{"query_id": "a", "title": "b"}], "nothing to search for"),
        ([{"query_id": "a", "text": 3}], "column text of .* is bigint: expected string"),
        ([{"query_id": "a", "text": "b", "k": 2.5}], "column k of .* is double"),
        ([{"query_id": "a", "text": "b"}, {"query_id": "a", "text": "c"}], "'a' .2 rows"),
        ([{"query_id": None, "text": "b"}, {"query_id": "a", "text": "c"}], "None .1 rows"),
    ):
        if rows is not None:
            queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(LakeError, match=words):
            search(lake)
    queries.write_text(json.dumps({"query_id": 1, "image": "p1.png", "k": 1}) + "\n")
    root = lake.resolve(lake.read("indexes").first().root)
    shard = Path(root, "shard-00000.faiss")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:50] + b"damage" + whole[56:])
    with pytest.raises(IndexDataError, match="damaged or foreign"):
        search(shop.lake(f"search.image_base={tmp_path}"))
    shard.write_bytes(whole)
    found, _, _ = search(shop.lake(f"search.image_base={tmp_path}"))
    assert [(hit.rank, hit.status) for hit in found["1"]] == [(1, "ok")]

    with pytest.raises(LakeError, match="no table of results"):
        search(shop.lake(f"search.output={shop.table}"))
    shutil.rmtree(root)
    with pytest.raises(
        IndexDataError,
        match=r"release 1: .*no index was finished there.*gme-lake release rollback",
    ):
        search(lake)


def hits_by_query(lake):
    """({query: [(id, score)]}, {query: status}, counts of the run)."""
    found, _, _ = search(lake)
    runs = lake.read("runs").where("job = 'search_table'").orderBy("started_at", ascending=False)
    hits = {name: [(h.id, h.score) for h in rows if h.rank] for name, rows in found.items()}
    return hits, {name: rows[0].status for name, rows in found.items()}, runs.first().counts


def ranked_by_hand(vectors, row, keep):
    """Rows of `vectors` that `keep` holds for, best first, for the content of `row`."""
    x = np.array(next(v.embedding for v in vectors if v.id == row), np.float32)
    scores = [(v.id, float(np.array(v.embedding, np.float32) @ x)) for v in vectors if keep(v.id)]
    return sorted(scores, key=lambda pair: -pair[1])


def same_scores(found, expected):
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=2e-5)


@pytest.mark.long
def test_filters_groups_lowest_scores_and_scatter_answer_as_numpy_does(searchable):
    """Over an index of three shards that some rows have left and others have joined since."""
    rows = source_rows(range(12))
    searchable.sets += ["index.shards=3", "index.seed=1"]
    release(searchable.lake())
    searchable.spark.sql(f"DELETE FROM delta.`{searchable.table}` WHERE id = 'p3'")
    searchable.write(source_rows([30, 31]))
    lake, _ = searchable.embed()
    vectors = good_vectors(searchable, lake)
    assert len(vectors) == 13
    searchable.ask([own_content(r) for r in rows[:5]])
    asked = [r[0] for r in rows[:5]]
    price = {v.id: float(v.id[1:]) for v in vectors}

    def even(row_id):
        return price[row_id] % 2 == 0

    one = searchable.lake("search.filter=price % 2 = 0", "search.k=5")
    found, statuses, counts = hits_by_query(one)
    assert counts["match_filter"] == sum(map(even, price))
    for row in asked:
        mine = found[f"like {row}"]
        assert all(even(row_id) for row_id, _ in mine) and len(mine) == 5
        if row != "p3":
            same_scores(mine, ranked_by_hand(vectors, row, even)[:5])
    parts = searchable.lake("search.filter=price % 2 = 0", "search.k=5", "search.scatter=true")
    again, _, _ = hits_by_query(parts)
    assert {q: [i for i, _ in h] for q, h in again.items()} == {
        q: [i for i, _ in h] for q, h in found.items()
    }

    nothing = searchable.lake("search.filter=price > 1000")
    found, statuses, counts = hits_by_query(nothing)
    assert set(statuses.values()) == {"no_rows"} and counts["match_filter"] == 0

    searchable.spark.sql(
        f"UPDATE delta.`{searchable.table}` SET price = CASE WHEN price < 4 THEN 1 WHEN price < 12 THEN 2 END"
    )
    by_price = {i: 1 if p < 4 else 2 if p < 12 else None for i, p in price.items()}
    for scatter in ("false", "true"):
        limited = searchable.lake(
            "search.group_by=price", "search.max_per=2", f"search.scatter={scatter}"
        )
        found, _, _ = hits_by_query(limited)
        for row in ("p0", "p1", "p2", "p4"):
            expected, seen = [], {}
            for row_id, score in ranked_by_hand(vectors, row, lambda _: True):
                group = by_price[row_id]
                seen[group] = seen.get(group, 0) + 1
                if group is None or seen[group] <= 2:
                    expected.append((row_id, score))
            same_scores(found[f"like {row}"], expected[:4])

    limit = 0.5 * sum(s for _, s in ranked_by_hand(vectors, "p0", lambda _: True)[5:7])
    best = ranked_by_hand(vectors, "p0", lambda _: True)
    for scatter, k, status in (("false", 50, "ok"), ("true", 2, "cut")):
        sets = [f"search.min_score={limit}", f"search.scatter={scatter}", f"search.k={k}"]
        found, statuses, counts = hits_by_query(searchable.lake(*sets))
        same_scores(found["like p0"], best[: min(k, 6)])
        assert statuses["like p0"] == status
        assert (counts.get("cut", 0) >= 1) == ("cut" in statuses.values())

    for sets, words in (
        ("search.filter=colour = 'red'", "no condition on .*colour.*price"),
        ("search.filter=price +", "no condition on"),
        ("search.filter=price", "no condition on"),
        ("search.group_by=colour", "search.group_by=colour must be .*price"),
        ("search.group_by=image", "it is binary"),
    ):
        with pytest.raises(LakeError, match=words):
            search(searchable.lake(sets))
