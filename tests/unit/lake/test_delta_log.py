"""Which partitions commits have touched, read from a Delta table's log; where it does not tell, nothing is said."""

import json

import pytest

from jobs.lake.delta_log import changed_values


def add(value, kind="add"):
    return {kind: {"path": "x.parquet", "partitionValues": {"model_id": value}}}


@pytest.fixture
def table(tmp_path):
    log = tmp_path / "_delta_log"
    log.mkdir()
    commits = [
        [{"protocol": {}}, {"metaData": {}}],
        [add("a"), {"commitInfo": {}}, {"txn": {}}, {"metaData": {}}],
        [add("b"), add("b", "remove"), add(None), {"cdc": {}}],
        [{"remove": {"path": "x.parquet"}}],
        [{"protocol": {}}],
        [add("c")],
    ]
    for version, actions in enumerate(commits):
        lines = "".join(json.dumps(action) + "\n" for action in actions)
        (log / f"{version:020d}.json").write_text(lines)
    return tmp_path


def told(table, after, until):
    names = (f"{version:020d}.json" for version in (after, until))
    return changed_values(
        str(table), column="model_id", **dict(zip(("after", "until"), names, strict=True))
    )


def test_files_added_and_removed_tell_their_partitions(table):
    assert told(table, 1, 1) == set()
    assert told(table, 0, 1) == {"a"}
    assert told(table, 0, 2) == {"a", "b", None}
    assert told(table, 4, 5) == {"c"}


@pytest.mark.parametrize(("after", "until"), [(2, 3), (3, 4), (4, 6), (2, 1), (0, 1000)])
def test_what_the_log_does_not_tell_is_none(table, after, until):
    """A removal without its partition, another protocol, a commit that is gone, a table made again, too many."""
    assert told(table, after, until) is None


def test_a_commit_that_was_cleaned_up_is_none(table):
    (table / "_delta_log" / f"{1:020d}.json").unlink()
    assert told(table, 0, 2) is None
