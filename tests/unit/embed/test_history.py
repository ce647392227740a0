"""What of a source's history leaves its rows as they were."""

import pytest
from pyspark.sql.types import (
    ArrayType,
    LongType,
    StringType,
    StructField,
    StructType,
)

from jobs.stages.embed.history import TableCommit, TableState, without_comments

WRITE = "WRITE"


def state(*operations: str, first: int = 0) -> TableState:
    commits = [TableCommit(n, str(n), name, {}) for n, name in enumerate(operations, start=first)]
    return TableState("t", {commit.version: commit for commit in commits})


@pytest.mark.parametrize("operation", ["CHANGE COLUMN", "CHANGE COLUMNS", "SET TBLPROPERTIES"])
def test_descriptions_keep_the_data_and_rows_do_not(operation):
    assert state(WRITE, operation, operation).data_kept(since=0)
    assert state(WRITE).data_kept(since=0), "nothing came"
    assert not state(WRITE, operation, WRITE).data_kept(since=0)
    assert not state(WRITE, "RENAME COLUMN", operation).data_kept(since=0)
    assert not state(operation, first=7).data_kept(since=5), "commit 6 is no longer known"


def test_names_of_columns_are_kept_until_one_is_renamed_or_dropped():
    assert state(WRITE, "ADD COLUMNS", "MERGE", "RESTORE").columns_kept(since=0)
    for operation in ("RENAME COLUMN", "DROP COLUMNS", "REPLACE COLUMNS"):
        moved = state(WRITE, operation, WRITE, "RESTORE", WRITE)
        assert not moved.columns_kept(since=0)
        assert not moved.columns_kept(since=2), "what is restored may have the other name"
        assert moved.columns_kept(since=3)
    assert not state(WRITE, first=7).columns_kept(since=5), "commit 6 is no longer known"


def test_a_models_rows_are_kept_until_all_are_removed():
    def merged(predicate, inserts="[]"):
        clauses = {"predicate": predicate, "notMatchedPredicates": inserts}
        merge = TableCommit(1, "1", "MERGE", clauses)
        return TableState("t", {0: state(WRITE).commits[0], 1: merge})

    def is_kept(vectors):
        return vectors.vectors_kept(since=0, model_id="ab12")

    assert not is_kept(merged('["((model_id#1 = model_id#2) AND (model_id#1 = ab12))"]'))
    assert is_kept(merged('["((model_id#1 = model_id#2) AND (model_id#1 = cd34))"]'))
    assert is_kept(merged('["((model_id#1 = ab12) AND (vector_id#3 = vector_id#4))"]'))
    assert is_kept(
        merged('["((model_id#1 = ab12) AND (id#3 = s#4))"]', '[{"actionType":"insert"}]')
    )
    assert not is_kept(state(WRITE, "DELETE"))


def table(
    *, kind=None, name="title", nullable=True, comment=None, inner=None, metadata=None
) -> StructType:
    def described(said):
        return {} if said is None else {"comment": said}

    part = StructField("part", StringType(), True, described(inner))
    return StructType(
        [
            StructField(
                name, kind or StringType(), nullable, described(comment) | (metadata or {})
            ),
            StructField("comment", ArrayType(StructType([part])), True),
        ]
    )


def test_comments_alone_leave_a_schema_as_it_was():
    same = without_comments(table())
    assert without_comments(table(comment="said", inner="said")) == same
    others = [
        table(kind=LongType()),
        table(name="Title"),
        table(nullable=False),
        table(metadata={"delta.columnMapping.id": 1}),
        StructType(table().fields[:1]),
        StructType(table().fields[::-1]),
    ]
    assert all(without_comments(other) != same for other in others)
