"""Averages over tasks as UMRB counts them, and their intervals."""

import math

import numpy as np
import pytest

from jobs.stages.evaluate.figures.summary import summarise
from tests.unit.evaluate.scored import task_score

# GME-2B's averages by pair and how many datasets each has; the paper's average over all 47 is 64.45.
GME_2B = {
    "t2t": (16, 55.93),
    "i2i": (1, 29.86),
    "t2i": (4, 57.36),
    "t2vd": (10, 87.84),
    "i2t": (4, 61.93),
    "t2it": (2, 76.47),
    "it2t": (5, 64.58),
    "it2i": (2, 37.02),
    "it2it": (3, 66.47),
}


def by_name(rows):
    return {(row.level, row.name): row for row in rows}


def test_averages_weigh_datasets_as_the_papers_table_does():
    tasks = []
    for pair, (count, mean) in GME_2B.items():
        spread = np.linspace(-5, 5, count) if count > 1 else [0.0]
        tasks += [
            task_score(f"{pair}-{n}", pair, [(mean + d) / 100] * 3) for n, d in enumerate(spread)
        ]
    rows = by_name(summarise(tasks))
    for pair, (count, mean) in GME_2B.items():
        row = rows["pair", pair]
        assert (row.datasets, row.score.queries) == (count, 3 * count)
        assert 100 * row.score.mean == pytest.approx(mean)
    assert {kind: rows["class", kind].datasets for kind in ("single", "cross", "fused")} == {
        "single": 17,
        "cross": 18,
        "fused": 12,
    }
    assert 100 * rows["class", "single"].score.mean == pytest.approx((16 * 55.93 + 29.86) / 17)
    assert 100 * rows["overall", "all"].score.mean == pytest.approx(64.45, abs=0.02)
    assert rows["overall", "all"].datasets == 47


def test_lines_come_overall_first_then_class_pair_dataset_and_task():
    tasks = [
        task_score("photo", "t2i", [1.0, 0.0], metric="hit@5"),
        task_score("cqa/android", "t2t", [1.0, 1.0], dataset="cqa"),
        task_score("fiqa", "t2t", [0.0]),
        task_score("cqa/english", "t2t", [0.5], dataset="cqa"),
    ]
    rows = summarise(tasks)
    assert [(row.level, row.name) for row in rows] == [
        ("overall", "all"),
        ("class", "single"),
        ("pair", "t2t"),
        ("dataset", "cqa"),
        ("task", "cqa/android"),
        ("task", "cqa/english"),
        ("task", "fiqa"),
        ("class", "cross"),
        ("pair", "t2i"),
        ("task", "photo"),
    ]
    found = by_name(rows)
    assert found["dataset", "cqa"].score.mean == 0.75
    assert found["pair", "t2t"].score.mean == pytest.approx((0.75 + 0.0) / 2)
    assert found["overall", "all"].score.mean == pytest.approx((0.75 + 0.0 + 0.5) / 3)
    assert found["overall", "all"].datasets == 3
    assert (found["overall", "all"].metric, found["pair", "t2t"].metric) == ("mixed", "ndcg@10")
    assert (found["task", "photo"].pair, found["task", "photo"].kind) == ("t2i", "cross")
    assert (found["class", "cross"].pair, found["overall", "all"].kind) == (None, None)


def test_a_dataset_of_two_pairs_counts_in_each():
    tasks = [
        task_score("webqa-text", "t2t", [1.0], dataset="webqa"),
        task_score("webqa-fused", "t2it", [0.0], dataset="webqa"),
        task_score("nq", "t2t", [1.0]),
    ]
    overall = summarise(tasks)[0]
    assert (overall.datasets, overall.score.mean) == (3, pytest.approx(2 / 3))
    assert all(row.level != "dataset" for row in summarise(tasks))


def test_an_average_has_the_interval_of_independent_tasks():
    coin = np.arange(400) % 2
    one = summarise([task_score("a", "t2t", coin)])[-1].score
    four = summarise([task_score(name, "t2t", coin) for name in "abcd"])[0].score
    assert four.mean == one.mean == 0.5
    width = 2 * 1.96 * math.sqrt(0.25 / 400)
    assert one.high - one.low == pytest.approx(width, rel=0.15)
    assert four.high - four.low == pytest.approx(width / 2, rel=0.15)


def test_a_tasks_interval_is_the_same_in_every_table():
    rng = np.random.default_rng(0)
    task = task_score("a", "t2t", rng.random(50))
    alone = by_name(summarise([task]))["task", "a"]
    among = by_name(summarise([task_score("b", "t2i", rng.random(9)), task]))["task", "a"]
    assert alone == among and alone.score == task.score("ndcg@10")
    assert by_name(summarise([task]))["overall", "all"].score == alone.score


def test_a_table_needs_tasks_of_different_names():
    with pytest.raises(ValueError, match=r"twice: \['a'\]"):
        summarise([task_score("a", "t2t", [1.0]), task_score("a", "i2i", [1.0])])
    with pytest.raises(ValueError, match="needs tasks"):
        summarise([])
