"""build_index from start to end: plan, train, build shards, check, commit."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import DataFrame

from jobs.lake.index_marks import require_not_removing
from jobs.lake.indexes import delete_rows
from jobs.lake.lake import Lake
from jobs.lake.registry import ResolvedModel
from jobs.lake.runs import Run
from jobs.stages.index.build import build_shards, check_shards, train_in_task
from jobs.stages.index.commit import commit_index, total_bytes
from jobs.stages.index.extend import Extension, extend_index
from jobs.stages.index.full_text import add_full_text, require_texts
from jobs.stages.index.plan import PlannedIndex
from jobs.stages.index.predict import Prediction, compare_cost
from jobs.stages.index.vectors import indexed_vectors
from udfs.index.build import ShardsSpec
from udfs.index.manifest import Manifest
from udfs.search.check import CheckSpec
from udfs.specs import IndexSpec


@dataclass(frozen=True)
class IndexReport:
    """What a run of build_index came to. `kept` are shards finished by an earlier, killed build."""

    spec: IndexSpec
    built: bool
    rows: int
    bytes: int
    kept: tuple[int, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    extension: Extension | None = None

    def __str__(self) -> str:
        spec = self.spec
        if not self.built:
            return (
                f"nothing to build: index {spec.index_id} of version {spec.vectors_version} exists"
            )
        kept = f", {len(self.kept)} of them kept from an earlier build" if self.kept else ""
        kept += f" ({self.extension})" if self.extension else ""
        head = (
            f"index {spec.index_id}: {self.rows:,} rows as {spec.plan.factory} in {spec.plan.shards} shard(s)"
            f"{kept}, {self.bytes:,} bytes in {spec.root}"
        )
        return "\n  ".join([head, *map(str, self.predictions)])

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {
            **vars(self.spec),
            "built": self.built,
            "rows": self.rows,
            "bytes": self.bytes,
            "kept": self.kept,
            "predictions": self.predictions,
            "added_to": self.extension and self.extension.values(),
        }


def build_index(
    lake: Lake, run: Run, *, model: ResolvedModel, planned: PlannedIndex
) -> IndexReport:
    """Build the index that `plan_index` has planned, or add to one, and commit it; one that exists is left alone.

    Killed at any point and run again over the same version of `vectors`, it keeps the quantizer and the shards that
    were finished. Raises LakeError or IndexDataError; then nothing is committed.
    """
    spec = planned.spec
    run.model = model
    run.tags["index_id"] = spec.index_id
    run.inputs.append((lake.name("vectors"), spec.vectors_version, "vectors"))
    if (existing := planned.existing) is not None:
        return IndexReport(spec, False, int(existing.rows), int(existing.bytes))
    if spec.plan.full_text:
        require_texts(lake, model_id=spec.model_id)
    run.begin()
    extension = planned.extension
    bases = [extension.base.spec.index_id] if extension else []
    require_not_removing(lake, [spec.index_id, *bases])
    if planned.broken:
        delete_rows(lake, "indexes", [spec.index_id])
    if extension is not None:
        manifest, kept = extend_index(lake, run, spec, extension)
    else:
        manifest, kept = build_whole(indexed_vectors(lake, spec), run, spec, rows=planned.rows)
    run.counts["indexed"] = manifest.rows
    size = total_bytes(manifest)
    run.metrics.update({"index.bytes": size, "index.shards": len(manifest.shards)})
    run.metrics["index.shards_kept"] = len(kept)
    with run.stage("commit"):
        built = commit_index(lake, run, manifest)
    new_rows = manifest.rows - sum(manifest.shards[n].rows for n in kept)
    made = [shard for number, shard in enumerate(manifest.shards) if number not in kept]
    run.add_metric("bytes_read", 4 * spec.dim * sum(shard.rows for shard in made))
    run.add_metric("bytes_written", sum(file.bytes for shard in made for file in shard.files))
    told = compare_cost(run, planned.cost, encoded_rows=new_rows) if planned.cost else ()
    return IndexReport(spec, built, manifest.rows, size, kept, told, extension)


def build_whole(
    vectors: DataFrame, run: Run, spec: IndexSpec, *, rows: int
) -> tuple[Manifest, tuple[int, ...]]:
    """Train, build and check the files of an index; returns what describes them, and the shards kept from before.

    `vectors` (vector_id, id, embedding) are the `rows` that it must hold. Nothing is committed or made visible to
    searches.
    """
    with run.stage("train"):
        quantizer = train_in_task(vectors, run, spec, rows=rows)
    run.counts["trained_on"] += quantizer.rows
    build = ShardsSpec(spec, quantizer.file, spec.root)
    with run.stage("build shards"):
        shards, kept = build_shards(vectors, run, build, rows=rows)
    shards = add_full_text(run, spec, vectors, shards)
    with run.stage("check"):
        run.counts["checked"] += check_shards(vectors, CheckSpec(build, shards))
    return Manifest(spec, quantizer.file, shards, error=quantizer.error), tuple(kept)
