"""Which index is to be built: the vectors counted, the plan by rule and settings, and its name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from jobs.driver.lake import Lake
from jobs.driver.settings import IndexSettings
from jobs.stages.indexing.commit import committed_index
from jobs.stages.indexing.predicting import predicted_cost
from udfs.ann.cost import CostEstimate
from udfs.ann.plan import default_plan, factory_traits, require_train_rows
from udfs.errors import LakeError
from udfs.specs import IndexPlan, IndexSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.driver.registry import ResolvedModel


@dataclass(frozen=True)
class PlannedIndex:
    """An index of `rows` vectors to be built. `cost` is what that was predicted to take; None: nobody asked."""

    spec: IndexSpec
    rows: int
    cost: CostEstimate | None = None

    def __str__(self) -> str:
        plan = self.spec.plan
        shape = f"{self.rows:,} rows as {plan.factory} in {plan.shards} shard(s)"
        return f"plan of index {self.spec.index_id}: {self.cost or shape}"


def plan_index(lake: Lake, *, model: ResolvedModel) -> PlannedIndex:
    """Plan the index of the model's vectors at the newest version of `vectors`, with its cost unless it exists. Writes nothing.

    Raises LakeError where the model has no vectors, SettingsError where the settings of `index` do not fit them.
    """
    version = lake.version("vectors")
    rows = count_vectors(lake, model.spec.model_id, version=version)
    planned = planned_at(lake, lake.settings.index, model=model, version=version, rows=rows)
    if committed_index(lake, planned.spec.index_id) is not None:
        return planned
    return replace(planned, cost=predicted_cost(lake, planned.spec, rows=rows))


def planned_at(
    lake: Lake, settings: IndexSettings, *, model: ResolvedModel, version: int, rows: int
) -> PlannedIndex:
    """The index of these settings over the `rows` vectors that a version has of the model. Writes nothing."""
    dim = model.spec.dim
    plan = plan_for(settings, rows=rows, dim=dim)
    index_id = index_id_of(model.spec.model_id, vectors_version=version, plan=plan)
    spec = IndexSpec(
        index_id=index_id,
        root=lake.folder("indexes", index_id),
        model_id=model.spec.model_id,
        dim=dim,
        vectors_version=version,
        plan=plan,
    )
    return PlannedIndex(spec, rows)


def plan_for(settings: IndexSettings, *, rows: int, dim: int) -> IndexPlan:
    """The plan by rule, with every setting that is set in its place.

    Raises SettingsError, with both numbers, where too few rows are left to train on.
    """
    plan = default_plan(
        rows,
        dim,
        factory=settings.factory,
        nlist=settings.nlist,
        shards=settings.shards,
        seed=settings.seed,
    )
    wanted = {name: getattr(settings, name) for name in ("refine", "nprobe", "k_factor")}
    plan = replace(plan, **{name: value for name, value in wanted.items() if value is not None})
    if settings.train_rows is None or plan.train_rows == 0:
        return plan
    plan = replace(plan, train_rows=min(rows, settings.train_rows))
    require_train_rows(plan.train_rows, factory_traits(plan.factory, dim), plan.factory)
    return plan


def index_id_of(model_id: str, *, vectors_version: int, plan: IndexPlan) -> str:
    """16 hex digits that name exactly this index: the same inputs give the same folder, so builds resume."""
    named = {"model_id": model_id, "vectors_version": vectors_version, "plan": asdict(plan)}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def indexed_vectors(lake: Lake, spec: IndexSpec) -> DataFrame:
    """(vector_id, id, embedding) of the rows that belong into the index."""
    from pyspark.sql import functions as F

    rows = lake.read("vectors", version=spec.vectors_version)
    rows = rows.where((F.col("model_id") == spec.model_id) & (F.col("status") == "ok"))
    return rows.select("vector_id", "id", "embedding")


def count_vectors(lake: Lake, model_id: str, *, version: int) -> int:
    """Vectors of the model at a version. Raises LakeError, with what there is, where there are none."""
    found = lake.read("vectors", version=version).where("status = 'ok'").groupBy("model_id").count()
    counts = {row.model_id: int(row["count"]) for row in found.collect()}
    if model_id not in counts:
        others = ", ".join(f"{name} ({count:,} rows)" for name, count in sorted(counts.items()))
        raise LakeError(
            f"{lake.name('vectors')} has no vectors of model {model_id} at version {version}; "
            f"it has {others or 'none of any model'}. Run gme-lake embed-table with this model first, or choose "
            "another by model.alias or model.version"
        )
    return counts[model_id]
