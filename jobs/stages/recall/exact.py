"""Exact results of a query set over the pinned version of `vectors`, computed once for each key."""

from __future__ import annotations

import logging

from jobs.driver.on_executors import on_executors
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.stages.index.vectors import indexed_vectors
from jobs.stages.recall.queries import AskedQueries, recall_folder
from udfs import storage
from udfs.errors import LakeError
from udfs.recall.truth import (
    TruthKey,
    TruthSpec,
    merge_nearest,
    nearest_batches,
    truth_name,
)
from udfs.specs import IndexSpec

log = logging.getLogger("gme_lake")


def exact_results(
    lake: Lake, run: Run, *, spec: IndexSpec, asked: AskedQueries, k: int
) -> TruthKey:
    """The key of exact results that lie in `recall_folder`; they are computed where there are none yet.

    Raises LakeError where the version the index was built from can no longer be read.
    """
    folder = recall_folder(lake)
    key = TruthKey(
        lake.table_id("vectors"), spec.vectors_version, spec.model_id, asked.query_set, k
    )
    if storage.exists(storage.join(folder, truth_name(key))):
        log.info("exact results %s are there already, kept", key.name())
        run.counts["exact_results_kept"] = len(asked.query_ids)
        return key
    truth = TruthSpec(key, asked.path, folder, spec.dim)
    rows = indexed_vectors(lake, spec).select("vector_id", "embedding")
    missing = LakeError(
        f"version {spec.vectors_version} of {lake.name('vectors')} has no vectors of model {spec.model_id}"
    )
    with run.stage("exact search"):
        parts = on_executors(rows, nearest_batches, spec=truth).frame.repartition(1)
        merged = on_executors(parts, merge_nearest, spec=truth).one_row(missing)
    run.counts["exact_results"] = int(merged.queries)
    return key
