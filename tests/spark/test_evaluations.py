"""Evaluations recorded in the lake and read again, query by query."""

import dataclasses

import numpy as np
import pytest

from jobs.lake.runs import Run
from jobs.stages.evaluate.data.tasks import EvaluationTask
from jobs.stages.evaluate.figures.compare import compare, differences
from jobs.stages.evaluate.figures.measures import QueryScores
from jobs.stages.evaluate.figures.record import Evaluation, load_queries, load_scores, record
from jobs.stages.evaluate.figures.summary import TaskScore, summarise
from udfs.errors import LakeError

pytestmark = pytest.mark.spark


def scored(seed, *, queries=40):
    """Two tasks, one fused, with two metrics over queries with awkward ids."""
    rng = np.random.default_rng(seed)
    made = []
    for name, query in (("words", "text"), ("words' and \\ pictures", "image,text")):
        task = EvaluationTask(name, "beir", query, "image", "hit@5", split="dev", dataset="shop")
        ids = sorted(f"ö'{n}" for n in range(queries))
        values = {
            "hit@5": rng.integers(0, 2, queries).astype(float),
            "ndcg@10": rng.random(queries),
        }
        scores = QueryScores(ids, values, unranked=2, unjudged=3)
        made.append(TaskScore.of(task, scores, documents=900, rejected=(4, 1)))
    return made


def same(found, given):
    fields = [field.name for field in dataclasses.fields(given) if field.name != "scores"]
    assert [getattr(found, f) for f in fields] == [getattr(given, f) for f in fields]
    assert found.scores.query_ids == given.scores.query_ids
    assert (found.scores.unranked, found.scores.unjudged) == (2, 3)
    assert {m: v.tolist() for m, v in found.scores.values.items()} == {
        m: v.tolist() for m, v in given.scores.values.items()
    }


def test_an_evaluation_is_recorded_read_and_compared(open_lake):
    lake = open_lake()
    old, new = scored(0), scored(1)
    hits = {"words": {"ö'0": ["b", "a"]}}
    run = Run(lake, "evaluate_retrieval", "{}")
    record(run, Evaluation("e1", "run1", "model1"), old, first_hits=hits)
    record(run, Evaluation("e2", "run2", "model2", search="index7"), new, first_hits={})
    assert [lake.version(table) for table in ("evaluations", "evaluated_queries")] == [2, 2]

    for found, given in zip(load_scores(lake, "e2"), new, strict=True):
        same(found, given)
    assert compare(lake, "e2", against="e1") == differences(new, old)

    rows = lake.read("evaluations").where("evaluation_id = 'e1'").collect()
    main = [row for row in rows if row.main]
    summary = {(row.level, row.name): row for row in summarise(old)}
    assert len(rows) == len(main) + 2 and len(main) == len(summary)  # ndcg@10 of both tasks
    for row in main:
        line = summary[row.level, row.name]
        assert (row.value, row.low, row.high) == dataclasses.astuple(line.score)[:3]
        assert (row.pair, row["class"], row.queries) == (line.pair, line.kind, line.score.queries)
        assert (row.metric, row.search, row.model_id) == ("hit@5", "exact", "model1")
        assert row.rejected_documents == (4 if row.level == "task" else None)
    query = lake.read("evaluated_queries").where("first_hits = array('b', 'a')").collect()
    assert [(row.evaluation_id, row.task, row.query_id) for row in query] == [
        ("e1", "words", "ö'0")
    ]

    assert load_queries(lake, "e3") == {}
    with pytest.raises(LakeError, match=r"e3 is not in .*e2 \(model model2\), e1 \(model model1\)"):
        compare(lake, "e3", against="e1")
    lake.spark.sql(f'DELETE FROM {lake.name("evaluated_queries")} WHERE query_id = "ö\'0"')
    with pytest.raises(LakeError, match="says 40 queries, evaluated_queries has 39"):
        load_scores(lake, "e1")
