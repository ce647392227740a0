"""The gate's look at the vectors themselves: against those of the release, or for collapse where the model is new."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.lake.gates import GateCheck
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.releases import Release
from jobs.settings.refresh import GateSettings
from jobs.stages.verify.verify import is_vacuumed
from udfs.errors import LakeError
from udfs.specs import ModelSpec
from udfs.verify.geometry import NEAR, Geometry, geometry_batches

log = logging.getLogger("gme_lake")

LEAST_ROWS = 100  # of fewer, no figure says anything


def check_drift(
    lake: Lake, gate: GateSettings, *, model: ResolvedModel, release: Release | None
) -> list[GateCheck]:
    """Measure a sample of the model's vectors on an executor: lengths and collapse, and where the release is of the same
    model how far they have moved from its own. Fewer than 100 vectors are not judged, which is logged.
    """
    spec = model.spec
    newest = good_vectors(lake, spec, version=lake.version("vectors"))
    rows = _count(newest)
    if rows < LEAST_ROWS:
        log.warning("%d vectors are too few to judge how they lie", rows)
        return []
    before, old_rows = _released(lake, spec, release)
    if before is not None and old_rows < LEAST_ROWS:
        before = None
    sample = min(gate.drift_rows, rows, *([old_rows] if before is not None else []))
    now = measure(newest, spec, sample=sample)
    checks = list(check_collapse(now, gate))
    if before is not None:
        checks += check_moved(now, measure(before, spec, sample=sample), gate)
    return checks


def good_vectors(lake: Lake, spec: ModelSpec, *, version: int) -> DataFrame:
    """(vector_id, content_hash, embedding) of the model's good rows at a version of `vectors`."""
    rows = lake.read("vectors", version=version)
    rows = rows.where((F.col("model_id") == spec.model_id) & (F.col("status") == "ok"))
    return rows.select("vector_id", "content_hash", "embedding")


def measure(vectors: DataFrame, spec: ModelSpec, *, sample: int) -> Geometry:
    """The geometry of up to `sample` different contents, chosen by their hash: of the same contents the same ones."""
    chosen = vectors.groupBy("content_hash").agg(F.min("vector_id").alias("vector_id"))
    chosen = chosen.orderBy(F.xxhash64("content_hash")).limit(sample).select("vector_id")
    rows = vectors.join(F.broadcast(chosen), "vector_id").select("embedding").repartition(1)
    missing = LakeError(f"vectors of model {spec.model_id} were not measured; run it again")
    row = on_executors(rows, geometry_batches, dim=spec.dim).one_row(missing)
    return Geometry(
        row.rows, row.norm_error, tuple(row.mean), row.effective_rank, row.near_duplicates
    )


def check_collapse(found: Geometry, gate: GateSettings) -> Iterator[GateCheck]:
    """What is wrong whatever other vectors are like: lengths, one direction for all, the same vector for many."""
    if gate.norm_error is not None:
        said = (
            f"the vectors' lengths differ from 1 by up to {found.norm_error:.2g} in a sample of {found.rows:,}; "
            f"gate.norm_error={gate.norm_error:g}"
        )
        remedy = "a model that normalises its vectors; gme-lake verify-index finds the rows"
        yield _at_most("norms", found.norm_error, gate.norm_error, said, remedy)
    if gate.mean_length is not None:
        length = found.mean_length
        said = (
            f"the mean of a sample of {found.rows:,} vectors has length {length:.3f} (two have a cosine of "
            f"{length**2:.3f} on average); gate.mean_length={gate.mean_length:g}"
        )
        remedy = f"a model that tells rows apart; or gate.mean_length={_above(length)} if so little is known to be enough"
        yield _at_most("collapse", length, gate.mean_length, said, remedy)
    if gate.near_duplicates is not None:
        share = found.near_duplicates
        said = (
            f"{share:.1%} of {found.rows:,} different contents have another at a cosine of {NEAR:g} or more; "
            f"gate.near_duplicates={gate.near_duplicates:g}"
        )
        remedy = f"a model that tells rows apart; or gate.near_duplicates={_above(share)} if the rows are so alike"
        yield _at_most("near_duplicates", share, gate.near_duplicates, said, remedy)


def check_moved(now: Geometry, before: Geometry, gate: GateSettings) -> Iterator[GateCheck]:
    """How far vectors of one model have moved since its release: other rows move them too, if there are many."""
    again = (
        "vectors as the release's: see with gme-lake status what the last runs embedded, and on which devices. If the "
        "source's rows have changed so much, "
    )
    if gate.mean_shift is not None:
        value = now.shift(before)
        said = (
            f"the mean of {now.rows:,} vectors lies {value:.3f} from that of the release's; "
            f"gate.mean_shift={gate.mean_shift:g}"
        )
        remedy = f"{again}gate.mean_shift={_above(value)}"
        yield _at_most("mean_shift", value, gate.mean_shift, said, remedy)
    if gate.rank_drop is not None:
        value = 1 - now.effective_rank / before.effective_rank
        said = (
            f"the vectors use {now.effective_rank:.1f} dimensions (effective rank), the release's "
            f"{before.effective_rank:.1f} ({-value:+.1%}); gate.rank_drop={gate.rank_drop:g}"
        )
        remedy = f"{again}gate.rank_drop={_above(value)}"
        yield _at_most("effective_rank", value, gate.rank_drop, said, remedy)
    if gate.duplicates_rise is not None:
        value = now.near_duplicates - before.near_duplicates
        said = (
            f"near duplicates are {now.near_duplicates:.1%} of the vectors, of the release's "
            f"{before.near_duplicates:.1%}; gate.duplicates_rise={gate.duplicates_rise:g}"
        )
        remedy = f"{again}gate.duplicates_rise={_above(value)}"
        yield _at_most("duplicates_rise", value, gate.duplicates_rise, said, remedy)


def _released(lake: Lake, spec: ModelSpec, release: Release | None) -> tuple[DataFrame | None, int]:
    """The release's vectors, if it is of the model and their version can still be read, and how many they are."""
    if release is None or release.model_id != spec.model_id:
        return None, 0
    try:
        before = good_vectors(lake, spec, version=release.vectors_version)
        return before, _count(before)
    except Exception as error:
        if not is_vacuumed(error):
            raise
        log.warning(
            "version %d of vectors, which release %d shows, can no longer be read: how far the vectors have moved "
            "since is not judged",
            release.vectors_version,
            release.release_id,
        )
        return None, 0


def _count(vectors: DataFrame) -> int:
    return vectors.select("content_hash").distinct().count()


def _at_most(name: str, value: float, limit: float, said: str, remedy: str) -> GateCheck:
    return GateCheck(name, value, limit, value <= limit, said, remedy)


def _above(value: float) -> str:
    """A limit that a value keeps to, in three digits."""
    return f"{value + 5e-4:.3f}"
