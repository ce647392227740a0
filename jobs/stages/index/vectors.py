"""Which rows of `vectors` an index is made of."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.lake.lake import Lake
from udfs.errors import LakeError
from udfs.specs import IndexSpec


def indexed_vectors(lake: Lake, spec: IndexSpec) -> DataFrame:
    """(vector_id, id, embedding) of the rows that belong into the index."""
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
