"""Spark jobs that are started while tasks of another job wait for them: given up where no task gets a place to run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark import SparkContext

from udfs.errors import LakeError

STARVED_SECONDS = 30
_GROUP = "spark.jobGroup.id"


@contextmanager
def needed_by_tasks(*, what: str) -> Iterator[None]:
    """A block of Spark jobs of this thread. Where all places are held by tasks that wait for it, nothing would ever end:
    a job none of whose tasks has run for STARVED_SECONDS is cancelled, and LakeError says so.

    Of a driver with its SparkContext: there are no waiting tasks to answer elsewhere.
    """
    context = SparkContext.getOrCreate()
    group = f"gme-lake-{uuid.uuid4().hex}"
    ended, starved = threading.Event(), threading.Event()

    def watch() -> None:
        idle = 0
        while not ended.wait(1.0):
            idle = idle + 1 if _waits(context, group) else 0
            if idle >= STARVED_SECONDS:
                starved.set()
                context.cancelJobGroup(group)
                return

    context.setJobGroup(group, what)
    watcher = threading.Thread(target=watch, name="gme-lake-task-slots", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if starved.is_set():
            raise LakeError(
                f"{what} takes a Spark job, but none of its tasks got a place within {STARVED_SECONDS} s, as tasks that "
                "wait for it hold them: run fewer such statements at a time, or give the session more cores"
            ) from error
        raise
    finally:
        ended.set()
        context.setLocalProperty(_GROUP, None)  # type: ignore[arg-type]


def _waits(context: SparkContext, group: str) -> bool:
    """Whether the group has a job that runs, and none of its tasks does."""
    tracker = context.statusTracker()
    jobs = [tracker.getJobInfo(number) for number in tracker.getJobIdsForGroup(group)]
    running = [job for job in jobs if job is not None and job.status == "RUNNING"]
    stages = [tracker.getStageInfo(stage) for job in running for stage in job.stageIds]
    return bool(running) and not any(stage is not None and stage.numActiveTasks for stage in stages)
