"""Rows through the model on the executors, and the account of what that took."""

from __future__ import annotations

import time

from pyspark.sql import DataFrame

from jobs.driver.on_executors import on_executors
from jobs.lake.model_work import ModelWork
from jobs.lake.runs import Run
from udfs.embed.batches import embed_batches
from udfs.specs import EmbedSpec


def embed_rows(run: Run, inputs: DataFrame, *, spec: EmbedSpec, folder: str) -> DataFrame:
    """EMBED_OUTPUT rows of `inputs` (EMBED_INPUT), in files of `folder`; `run.work` and its seconds know of it.

    Rows of tasks that failed are not counted: others took their place. Raises what `embed_batches` does.
    """
    started = time.perf_counter()
    made = on_executors(inputs, embed_batches, spec=spec).write(folder)
    work = ModelWork.read(made, wall_seconds=time.perf_counter() - started)
    run.work.add(work)
    run.add_seconds("tasks.prepare", work.prepare_seconds)
    run.add_seconds("tasks.model", work.model_seconds)
    return made
