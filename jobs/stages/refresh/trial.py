"""The trial of a new model: some rows of the source before all of them, looked at before the rest is paid for."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.gates import GateCheck
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.sql import identifier, literal
from jobs.settings.embed import EmbedSettings
from jobs.settings.refresh import GateSettings
from jobs.settings.settings import Settings
from jobs.stages.embed.job import open_source
from jobs.stages.evaluate.data.layouts import read_task
from jobs.stages.evaluate.data.tasks import load_tasks
from jobs.stages.refresh.drift import LEAST_ROWS, check_collapse, good_vectors, measure
from udfs.bootstrap import interval
from udfs.verify.geometry import overlap_batches

log = logging.getLogger("gme_lake")

NEIGHBOURS = 10
_PARTS = 1_000_000  # that rows are divided into by the hash of their id


def choose_trial(
    lake: Lake, settings: Settings, *, rows: int, contents: int
) -> EmbedSettings | None:
    """Section `embed` for the trial of a model that has `contents` of a source of `rows` to embed; None: no trial.

    Rows are chosen by the hash of their id, so that a refresh that was stopped goes on with the same ones, and those that
    labelled tasks judge with them. There is no trial where it would be half of the work or more.
    """
    refresh, embed = settings.refresh, settings.embed
    wanted = max(refresh.trial_rows, math.ceil(refresh.trial * rows))
    if not refresh.trial or embed.retry or contents < 2 * wanted:
        return None
    wanted += math.ceil(3 * math.sqrt(wanted))  # how many the hash takes differs by chance
    column = f"CAST({identifier(settings.source.id)} AS STRING)"
    condition = f"pmod(xxhash64({column}), {_PARTS}) < {math.ceil(wanted / rows * _PARTS)}"
    if judged := _judged_ids(lake, settings):
        condition += f" OR {column} IN ({', '.join(map(literal, judged))})"
    if embed.where is not None:
        condition = f"({embed.where}) AND ({condition})"
    return embed.model_copy(update={"where": condition})


def _judged_ids(lake: Lake, settings: Settings) -> list[str]:
    """Ids of the source that labelled tasks judge; none where their documents are others than the source's rows."""
    if not settings.evaluate.tasks:
        return []
    source, _ = open_source(lake, settings.source, settings.embed)
    ids = source.read(lake.spark, version=source.version).select(source.id_column().alias("id"))
    found: set[str] = set()
    for task in load_tasks(settings.evaluate):
        judged = read_task(lake.spark, task).judgements.select("id").distinct()
        found |= {row.id for row in ids.join(judged, "id", "left_semi").distinct().collect()}
    return sorted(found)


def check_trial(
    lake: Lake, gate: GateSettings, *, new: ResolvedModel, old: ResolvedModel
) -> list[GateCheck]:
    """Look at what the new model has made of the trial's rows: collapse, and neighbours beside the old model's.

    Fewer than 100 vectors are not judged, which is logged.
    """
    version = lake.version("vectors")
    made = good_vectors(lake, new.spec, version=version)
    found = measure(made, new.spec, sample=gate.drift_rows)
    if found.rows < LEAST_ROWS:
        log.warning("%d vectors of the trial are too few to judge how they lie", found.rows)
        return []
    checks = [*check_collapse(found, gate), *_check_overlap(lake, gate, new, old, version=version)]
    return [replace(check, name=f"trial.{check.name}") for check in checks]


def _check_overlap(
    lake: Lake, gate: GateSettings, new: ResolvedModel, old: ResolvedModel, *, version: int
) -> list[GateCheck]:
    sides = [
        good_vectors(lake, model.spec, version=version)
        .groupBy("content_hash")
        .agg(F.min_by("embedding", "vector_id").alias(name))
        for model, name in ((old, "one"), (new, "other"))
    ]
    both = sides[0].join(sides[1], "content_hash").orderBy(F.xxhash64("content_hash"))
    rows = both.limit(gate.drift_rows).select("one", "other").repartition(1)
    dims = (old.spec.dim, new.spec.dim)
    made = on_executors(rows, overlap_batches, dims=dims, k=NEIGHBOURS).table()
    shares = made["share"].to_numpy().astype(np.float64)
    if len(shares) < LEAST_ROWS:
        log.warning(
            "%d rows of the trial have vectors of both models: too few to compare", len(shares)
        )
        return []
    mean, least = interval(shares), gate.overlap
    said = (
        f"{mean.mean:.1%} of the {NEIGHBOURS} nearest neighbours in a trial of {len(shares):,} rows are those that the "
        f"release's model finds (by chance {NEIGHBOURS / (len(shares) - 1):.1%}); gate.overlap="
        f"{'null' if least is None else f'{least:g}'}"
    )
    remedy = (
        f"a model more like the release's; or gate.overlap={math.floor(mean.low * 1000) / 1000:g}"
    )
    limit = least or 0.0
    return [GateCheck("overlap", mean.mean, limit, mean.mean >= limit, said, remedy)]
