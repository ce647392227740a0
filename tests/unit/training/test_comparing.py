"""Class means and their intervals against values worked out by hand."""

import numpy as np
import pytest

from udfs.bootstrap import interval
from udfs.training.comparing import class_of, summarise


@pytest.mark.parametrize(
    ("direction", "expected"),
    [
        ("t2t", "single"),
        ("i2i", "single"),
        ("t2i", "cross"),
        ("i2t", "cross"),
        ("it2i", "fused"),
        ("t2it", "fused"),
        ("it2it", "fused"),
    ],
)
def test_classes_are_those_of_the_paper(direction, expected):
    assert class_of(direction) == expected


def test_the_average_is_that_of_classes_and_a_class_is_that_of_its_tasks():
    values = {
        "drawn/t2i": np.full((1, 4), 0.2),
        "validation/t2i": np.full((1, 9), 0.4),
        "validation/i2t": np.full((1, 2), 0.9),
        "drawn/it2i": np.full((1, 3), 0.1),
    }
    found = summarise(values)
    assert found["cross"].mean == pytest.approx(0.5)
    assert found["fused"].mean == pytest.approx(0.1)
    assert "single" not in found
    assert found["average"].mean == pytest.approx(0.3)
    assert (found["average"].low, found["average"].high) == pytest.approx((0.3, 0.3))
    assert found["average"].queries == 18


def test_the_interval_of_one_seed_is_the_bootstrap_over_queries():
    values = np.random.default_rng(0).random((1, 400))
    found, expected = summarise({"t2i": values})["t2i"], interval(values[0])
    assert found.mean == expected.mean
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1 * width)


def test_seeds_that_disagree_widen_the_interval():
    queries = np.random.default_rng(1).random(2000) * 0.2
    alike = summarise({"t2i": np.stack([queries, queries, queries])})["t2i"]
    apart = summarise({"t2i": np.stack([queries - 0.1, queries, queries + 0.1])})["t2i"]
    assert apart.mean == pytest.approx(alike.mean)
    assert apart.high - apart.low > 5 * (alike.high - alike.low)
