"""What is said of an error that Spark has wrapped."""

import pytest

from jobs.driver.task_errors import clear_task_errors, failure, is_broken_off, root_cause
from udfs.errors import IndexDataError, LakeError

# As py4j and PySpark 4.2 say them; frames shortened.
NO_SPACE = """An error occurred while calling o989.saveAsTable.
: org.apache.spark.SparkException: [TASK_WRITE_FAILED] Task failed while writing rows to file:/lake/t. SQLSTATE: 58030
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.taskFailed(QueryExecutionErrors.scala:792)
\tSuppressed: java.lang.IllegalStateException: closed
\t\tat java.base/java.lang.Thread.run(Thread.java:840)
\tCaused by: java.lang.RuntimeException: not this one
Caused by: org.apache.hadoop.fs.FSError: java.io.IOException: No space left on device
\tat org.apache.hadoop.fs.RawLocalFileSystem.write(RawLocalFileSystem.java:260)
\t... 17 more
Caused by: java.io.IOException: No space left on device
\tat java.base/java.io.FileOutputStream.writeBytes(Native Method)
\t... 48 more
"""
LOST = """An error occurred while calling o12.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 3.0 failed 4 times, most recent \
failure: Lost task 0.3 in stage 3.0 (TID 7) (10.0.0.7 executor 2): java.io.FileNotFoundException: part-0.parquet
\tat org.apache.hadoop.fs.RawLocalFileSystem.open(RawLocalFileSystem.java:1)

Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2898)
"""
SUBQUERY = """An error occurred while calling o293.collectToPython.
: org.apache.spark.SparkException: Exception thrown in awaitResult:\x20
\tat org.apache.spark.util.ThreadUtils$.awaitResult(ThreadUtils.scala:401)
Caused by: java.util.concurrent.ExecutionException: org.apache.spark.SparkRuntimeException: [USER_RAISED_EXCEPTION] no
\t... 21 more
Caused by: org.apache.spark.SparkRuntimeException: [USER_RAISED_EXCEPTION] the query is NULL SQLSTATE: P0001
\t... 10 more
"""
WORKER = """An exception was thrown from the Python worker:
Traceback (most recent call last):
  File "/usr/lib/python3.11/urllib.py", line 1, in open
    raise error
OSError: no route

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/app/udfs/embed/batches.py", line 38, in embed_batches
    raise ValueError("a sentence")
ValueError: a sentence SQLSTATE: 38000
\tat org.apache.spark.api.python.BasePythonRunner.handle(PythonRunner.scala:600)
Caused by: java.lang.RuntimeException: of the JVM
"""
ANALYSIS = """[UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `nope` cannot be resolved. SQLSTATE: 42703; line 1 \
pos 7;
'Project ['nope]
+- Range (0, 1)
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (NO_SPACE, "IOException: No space left on device"),
        (LOST, "FileNotFoundException: part-0.parquet"),
        (SUBQUERY, "SparkRuntimeException: [USER_RAISED_EXCEPTION] the query is NULL"),
        (WORKER, "ValueError: a sentence"),
        (
            ANALYSIS,
            "RuntimeError: [UNRESOLVED_COLUMN.WITH_SUGGESTION] A column with name `nope` cannot be resolved.",
        ),
        (
            "An error occurred while calling o1.x.\n: java.lang.OutOfMemoryError: heap",
            "OutOfMemoryError: heap",
        ),
        ("\n  bad\n more", "RuntimeError: bad"),
        ("", "RuntimeError"),
    ],
    ids=["no space", "lost task", "subquery", "worker", "analysis", "call", "plain", "empty"],
)
def test_the_deepest_cause_is_told_in_one_line(text: str, told: str) -> None:
    assert root_cause(RuntimeError(text)) == told


def test_a_stack_that_pyspark_keeps_apart_is_looked_at() -> None:
    error = RuntimeError("Task failed")
    error._stackTrace = (
        "org.apache.spark.SparkException: Task failed\n\tat x\nCaused by: java.io.IOException: full"
    )
    assert root_cause(error) == "IOException: full"


def test_the_table_of_runs_begins_with_the_cause() -> None:
    kept = failure(RuntimeError(NO_SPACE))
    assert kept.startswith("IOException: No space left on device\nRuntimeError: An error occurred")
    assert failure(IndexDataError("file x")) == "IndexDataError: file x"
    assert failure(KeyboardInterrupt()) == "stopped by a signal"


def test_an_error_of_ours_comes_out_of_a_task_as_itself() -> None:
    text = WORKER.replace("ValueError: a sentence", "udfs.errors.IndexDataError: file x is damaged")
    with pytest.raises(IndexDataError, match=r"^file x is damaged"), clear_task_errors():
        raise RuntimeError(text)


def test_a_call_that_a_signal_has_broken_off_is_told_from_errors_to_go_on_after():
    from py4j.protocol import Py4JNetworkError

    try:
        try:
            raise Py4JNetworkError("Answer from Java side is empty")
        except Py4JNetworkError as error:
            raise LakeError("the stream failed") from error
    except LakeError as error:
        assert is_broken_off(error)
    assert is_broken_off(KeyboardInterrupt())
    assert not is_broken_off(LakeError("the stream failed"))
