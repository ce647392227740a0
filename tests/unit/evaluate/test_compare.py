"""Paired differences of two evaluations, and what is no fair comparison."""

import dataclasses

import numpy as np
import pytest

from jobs.stages.evaluate.figures.compare import differences
from jobs.stages.evaluate.figures.summary import summarise
from tests.unit.evaluate.scored import task_score
from udfs.bootstrap import difference
from udfs.errors import LakeError

RNG = np.random.default_rng(0)
OLD = {"a": RNG.random(200), "b": RNG.random(100), "c": RNG.random(60)}
PAIRS = {"a": "t2t", "b": "t2t", "c": "it2i"}


def tasks(values, **more):
    return [task_score(name, PAIRS[name], of, **more) for name, of in values.items()]


def test_every_line_is_paired_and_weighs_as_the_summary():
    new = {"a": OLD["a"] + 0.02, "b": OLD["b"] - 0.04, "c": OLD["c"] + np.tile([0.1, -0.1, 0], 20)}
    rows = {(row.level, row.name): row for row in differences(tasks(new), tasks(OLD))}
    summary = summarise(tasks(new))
    assert list(rows) == [(row.level, row.name) for row in summary]
    for row, line in zip(rows.values(), summary, strict=True):
        assert (row.new, row.metric, row.datasets) == (
            pytest.approx(line.score.mean),
            line.metric,
            line.datasets,
        )
        assert row.difference.mean == pytest.approx(row.new - row.old)
        assert row.difference.low - 1e-12 <= row.difference.mean <= row.difference.high + 1e-12
        assert row.difference.queries == line.score.queries
    constant = rows["task", "a"].difference
    assert (constant.low, constant.high) == pytest.approx((0.02, 0.02))
    assert (constant.better, constant.worse) == (1.0, 0.0)
    mixed = rows["task", "c"].difference
    assert (mixed.better, mixed.worse) == pytest.approx((1 / 3, 1 / 3))
    assert mixed.low < 0 < mixed.high and vars(mixed) == pytest.approx(
        vars(difference(new["c"], OLD["c"], seed=tasks(new)[2].seed))
    )
    pair, overall = rows["pair", "t2t"].difference, rows["overall", "all"].difference
    assert (pair.mean, pair.better, pair.worse) == pytest.approx((-0.01, 0.5, 0.5))
    assert overall.mean == pytest.approx((0.02 - 0.04 + 0) / 3)
    assert overall.better == pytest.approx((1 + 0 + 1 / 3) / 3)


def test_an_evaluation_differs_from_itself_by_nothing():
    for row in differences(tasks(OLD), tasks(OLD)):
        assert dataclasses.astuple(row.difference)[:5] == (0, 0, 0, 0, 0) and row.new == row.old


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"a": OLD["a"], "b": OLD["b"]}, r"only the new one has \['c'\]"),
        ({**OLD, "a": OLD["a"][:-2]}, r"task a: 200 queries against 198, 2 of them .*q198, q199"),
    ],
)
def test_other_tasks_or_queries_are_an_error(other, told):
    with pytest.raises(LakeError, match=told):
        differences(tasks(OLD), tasks(other))


def test_another_metric_or_corpus_is_an_error():
    with pytest.raises(LakeError, match=r"task a is not the same.*'ndcg@10'.*'hit@1'"):
        differences(tasks(OLD), tasks(OLD, metric="hit@1"))
    larger = [dataclasses.replace(task, documents=1001) for task in tasks(OLD)]
    with pytest.raises(LakeError, match=r"1000\) and .*1001"):
        differences(tasks(OLD), larger)
