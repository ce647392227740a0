"""What may be handed to executors, and what is raised where their tasks fail or give nothing."""

import functools
from unittest.mock import MagicMock

import pytest

from jobs.driver.on_executors import TaskRows, on_executors
from udfs.columns import Columns, gives
from udfs.errors import IndexDataError, LakeError
from udfs.search.batches import search_batches
from udfs.search.hits import Hits
from udfs.strings import printable

NUMBERS = Columns("n int")
FAILED = (
    "Traceback:\n  File x\nudfs.errors.IndexDataError: file x is damaged\n\tat org.apache.spark"
)


@gives(NUMBERS)
def of_another_package(batches):
    return batches


def nested():
    @gives(NUMBERS)
    def function(batches):
        return batches

    function.__module__ = "udfs.strings"
    return function


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda batches: batches, r"test_on_executors\.<lambda>"),
        (nested(), r"udfs\.strings\.nested\.<locals>\.function"),
        (functools.partial(search_batches, spec=None), r"functools\.functools\.partial\("),
        (Hits.take, r"udfs\.search\.hits\.Hits\.take"),
        (of_another_package, r"test_on_executors\.of_another_package"),
        (printable, r"udfs\.strings\.printable"),  # not declared
    ],
    ids=["lambda", "closure", "partial", "method", "another package", "undeclared"],
)
def test_only_declared_functions_that_workers_find_by_name_are_handed_over(function, named):
    frame = MagicMock()
    with pytest.raises(TypeError, match=rf"{named}.*; it is handed top-level functions of udfs"):
        on_executors(frame, function)
    assert not frame.mock_calls


@pytest.mark.parametrize(
    "ask",
    [
        TaskRows.rows,
        TaskRows.table,
        lambda made: made.one_row(LakeError("no row")),
        lambda made: made.write("folder"),
    ],
    ids=["rows", "table", "one_row", "write"],
)
def test_the_error_of_a_task_is_raised_as_itself(ask):
    frame = MagicMock()
    for call in (frame.collect, frame.toArrow, frame.first, frame.write.mode().parquet):
        call.side_effect = RuntimeError(FAILED)
    with pytest.raises(IndexDataError, match=r"^file x is damaged$"):
        ask(TaskRows(frame))


def test_one_row_is_the_first_or_an_error():
    frame = MagicMock()
    frame.first.return_value = None
    with pytest.raises(LakeError, match="no row"):
        TaskRows(frame).one_row(LakeError("no row"))
    frame.first.return_value = (1,)
    assert TaskRows(frame).one_row(LakeError("no row")) == (1,)
