"""A filter that an analyst gives is a condition on columns, and nothing else."""

import pytest

from jobs.lake.sql import require_predicate
from udfs.errors import LakeError


@pytest.mark.parametrize(
    "text",
    [
        "price < 50",
        "title LIKE '%;%' AND note = 'it''s (select)'",
        "(price > 3 OR `select` IS NULL) -- ;",
        'brand IN ("a", "(SELECT 1)") /* ; */',
        "(selected = 1) AND coalesce(values_of, 0) > 1",
        "name = 'a\\'; (select 1'",
    ],
)
def test_a_condition_passes_as_it_is(text):
    assert require_predicate(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "true; DROP TABLE vectors",
        "id IN (SELECT id FROM other)",
        "EXISTS ( select 1)",
        "price < ((SELECT max(price) FROM t))",
        "id IN (/* */ SELECT 1)",
        "id IN (VALUES ('a'))",
        "id IN (TABLE t)",
        "id IN (FROM t SELECT id)",
        "id IN (WITH a AS (SELECT 1) SELECT * FROM a)",
        "a = 'x' ; b",
    ],
)
def test_statements_and_subqueries_are_refused(text):
    with pytest.raises(LakeError, match="without statements and subqueries"):
        require_predicate(text)
