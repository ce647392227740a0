"""The gate: what must be measured of a model and of an index before it becomes the release."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.gates import GateCheck
from jobs.lake.lake import Lake
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.runs import open_run
from jobs.settings.refresh import GateSettings
from jobs.settings.settings import Settings
from jobs.stages.evaluate.figures.compare import differences
from jobs.stages.evaluate.figures.record import load_scores
from jobs.stages.evaluate.job import evaluate_retrieval
from jobs.stages.recall.summary import PointFigures
from udfs.bootstrap import Difference


def compare_quality(
    lake: Lake, registry: Registry, settings: Settings, *, new: ResolvedModel, old: ResolvedModel
) -> Difference:
    """Evaluate both models on the tasks of section `evaluate`; the paired difference, new minus old, of all tasks.

    Documents that either has embedded for these tasks before are not embedded again.
    """
    ids = []
    for model in (old, new):
        with open_run(lake, registry, job="evaluate_retrieval") as run:
            ids.append(
                evaluate_retrieval(
                    lake, run, model=model, settings=settings
                ).evaluation.evaluation_id
            )
    before, after = (load_scores(lake, evaluation_id) for evaluation_id in ids)
    (overall, *_) = differences(after, before)
    return overall.difference


def check_quality(found: Difference, *, drop: float) -> GateCheck:
    """Whether a new model is shown to be no worse than `drop` allows: the lower bound of the paired difference counts."""
    said = (
        f"quality on {found.queries:,} labelled queries {found.mean:+.4f} against the release's model, at worst "
        f"{found.low:+.4f} by its 95 % interval; gate.quality_drop={drop:g}"
    )
    more = math.ceil(found.queries * ((found.mean - found.low) / max(found.mean + drop, 1e-9)) ** 2)
    remedy = f"a better model; or gate.quality_drop={-found.low:.4f}"
    if found.mean > -drop:  # it is the interval that is too wide
        remedy = f"about {more:,} labelled queries, if the model does as well on them; or {remedy}"
    return GateCheck("quality", found.low, -drop, found.low >= -drop, said, remedy)


def check_coverage(
    lake: Lake, gate: GateSettings, *, ids: DataFrame, model_id: str
) -> list[GateCheck]:
    """Whether enough of the source's rows, by their `ids` (id), have a vector of the model: rows that are rejected, or that
    no run has looked at yet, have none.
    """
    if gate.coverage is None:
        return []
    good = lake.read("vectors").where((F.col("model_id") == model_id) & (F.col("status") == "ok"))
    both = ids.select("id").join(good.select("id", "vector_id"), "id", "left")
    row = both.agg(F.count(F.lit(1)).alias("rows"), F.count("vector_id").alias("ok")).first()
    total, ok = (int(row.rows), int(row.ok)) if row else (0, 0)
    value = ok / total if total else 0.0
    said = f"{ok:,} of {total:,} rows have a vector ({value:.1%}); gate.coverage={gate.coverage:g}"
    lacking = math.ceil(gate.coverage * total) - ok
    remedy = (
        f"vectors for {lacking:,} more rows (SELECT * FROM {lake.name('rejected_rows')} says why they have none; "
        f"embed.rescan=true tries them again); or gate.coverage={math.floor(value * 1000) / 1000:g}"
    )
    return [GateCheck("coverage", value, gate.coverage, value >= gate.coverage, said, remedy)]


def check_recall(figures: Sequence[PointFigures], *, least: float) -> list[GateCheck]:
    """Whether the index finds enough of what exact search finds, for every kind of query.

    `figures` are those of one point, the index's own. The lower 95 % bound counts.
    """
    checks = []
    for one in figures:
        if one.group.segment is not None:
            continue
        value = one.recall.low
        said = (
            f"recall@{one.recall.k} of {one.group} queries {one.recall.value:.4f}, at least {value:.4f} by its 95 % "
            f"interval over {one.recall.queries:,}; gate.recall={least:g}"
        )
        name = f"recall.{one.group.kind}"
        remedy = (
            "gme-lake tune-index, which finds the index or the operating point for a recall, or a higher index.nprobe or "
            f"index.k_factor; or gate.recall={math.floor(value * 1000) / 1000:g}"
        )
        checks.append(GateCheck(name, value, least, value >= least, said, remedy))
    return checks
