"""Which index is to be built: the vectors counted, the plan by rule and settings, whole or added to another, and its
name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from jobs.lake.index_marks import read_marks
from jobs.lake.indexes import is_of_vectors, read_indexes, whole_manifest
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.settings.index import IndexSettings
from jobs.stages.index.extend import MAX_SHARE, Extension, extension_of, newest_base
from jobs.stages.index.predict import predict_cost
from jobs.stages.index.vectors import count_vectors
from udfs.errors import IndexDataError
from udfs.index.cost import CostEstimate
from udfs.index.manifest import Manifest
from udfs.index.plan import ROWS_PER_SHARD, default_plan, factory_traits, require_train_rows
from udfs.specs import IndexPlan, IndexSpec

log = logging.getLogger("gme_lake")


@dataclass(frozen=True)
class PlannedIndex:
    """An index of `rows` vectors to be built, whole or by adding to another (`extension`).

    `cost` is what building it whole was predicted to take; None: nobody asked. `existing` is its row of `indexes` where
    it was built before and is whole; `broken`: there is such a row, but its files are gone or others.
    """

    spec: IndexSpec
    rows: int
    cost: CostEstimate | None = None
    extension: Extension | None = None
    existing: Any = None
    broken: bool = False

    def __str__(self) -> str:
        plan = self.spec.plan
        shape = f"{self.rows:,} rows as {plan.factory} in {plan.shards} shard(s)"
        if self.extension is not None:
            shape += f": {self.extension}; nothing is trained"
        return f"plan of index {self.spec.index_id}: {self.cost or shape}"

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            **vars(self.spec),
            "rows": self.rows,
            "cost": self.cost,
            "added_to": self.extension and self.extension.values(),
            "exists": self.existing is not None,
        }


def plan_index(lake: Lake, settings: IndexSettings, *, model: ResolvedModel) -> PlannedIndex:
    """Plan the index of the model's vectors at the newest version of `vectors`, with its cost unless it exists.

    Where `settings.extend` allows it and little has changed, it adds to the newest whole index. Commits nothing. Raises
    LakeError where the model has no vectors, SettingsError where the settings do not fit them.
    """
    version = lake.version("vectors")
    rows = count_vectors(lake, model.spec.model_id, version=version)
    planned = plan_at(lake, settings, model=model, version=version, rows=rows)
    committed = read_indexes(lake, model_id=model.spec.model_id)
    if existing := committed.get(planned.spec.index_id):
        if _is_whole(lake, existing):
            return replace(planned, existing=existing)
        planned = replace(planned, broken=True)
    going = {index_id for index_id, mark in read_marks(lake).items() if mark.mark == "removing"}
    own = lake.table_id("vectors")
    bases = [
        row
        for index_id, row in committed.items()
        if index_id not in going and is_of_vectors(row, table_id=own)
    ]
    base = newest_base(lake, bases, planned.spec, settings=settings)
    if base is not None:
        spec = _add_to(base, planned.spec, settings, lake=lake)
        existing = committed.get(spec.index_id)
        if existing and _is_whole(lake, existing):
            return replace(planned, spec=spec, existing=existing, broken=False)
        if extension := extension_of(lake, base, version=version):
            return replace(planned, spec=spec, extension=extension, broken=existing is not None)
    return replace(planned, cost=predict_cost(lake, planned.spec, rows=rows))


def _is_whole(lake: Lake, row: Any) -> bool:
    try:
        whole_manifest(lake, row)
    except IndexDataError as error:
        log.warning("index %s is built again: %s", row.index_id, error)
        return False
    return True


def _add_to(base: Manifest, spec: IndexSpec, settings: IndexSettings, *, lake: Lake) -> IndexSpec:
    """`spec` as an index that adds to `base`: with its quantizer, searched as it is where the settings do not say how.

    What is added is few rows: in as many shards as the base has they would make searches slower.
    """
    plan = base.spec.plan
    plan = replace(
        plan,
        shards=max(1, math.ceil(MAX_SHARE * base.rows / ROWS_PER_SHARD)),
        nprobe=settings.nprobe or plan.nprobe,
        k_factor=settings.k_factor or plan.k_factor,
    )
    index_id = index_id_of(
        lake,
        spec.model_id,
        vectors_version=spec.vectors_version,
        plan=plan,
        base=base.spec.index_id,
    )
    return replace(spec, index_id=index_id, root=lake.folder("indexes", index_id), plan=plan)


def plan_at(
    lake: Lake, settings: IndexSettings, *, model: ResolvedModel, version: int, rows: int
) -> PlannedIndex:
    """The index of these settings over the `rows` vectors that a version has of the model. Writes nothing."""
    dim = model.spec.dim
    plan = plan_for(settings, rows=rows, dim=dim)
    index_id = index_id_of(lake, model.spec.model_id, vectors_version=version, plan=plan)
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
    given = {name: value for name, value in wanted.items() if value is not None}
    plan = replace(plan, **given, full_text=settings.full_text)
    if settings.train_rows is None or plan.train_rows == 0:
        return plan
    plan = replace(plan, train_rows=min(rows, settings.train_rows))
    require_train_rows(plan.train_rows, factory_traits(plan.factory, dim), plan.factory)
    return plan


def index_id_of(
    lake: Lake, model_id: str, *, vectors_version: int, plan: IndexPlan, base: str | None = None
) -> str:
    """16 hex digits that name exactly this index: the same inputs give the same folder, so builds resume.

    A version is one of this table `vectors`: another one, made in its place, may have other rows under the same number.
    """
    named: dict[str, Any] = {
        "model_id": model_id,
        "vectors": lake.table_id("vectors"),
        "vectors_version": vectors_version,
        "plan": asdict(plan),
    }
    if base is not None:
        named["base"] = base
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
