"""The commit of an index: its shards' files in `index_shards`, then the one row of `indexes` that makes it exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs.driver.lake import delta_table, now
from udfs import storage
from udfs.ann.manifest import Manifest, ShardRecord

if TYPE_CHECKING:
    from jobs.driver.lake import Lake
    from jobs.driver.runs import Run


def committed_index(lake: Lake, index_id: str) -> Any:
    """The row of `indexes`, or None where no such index was finished."""
    return lake.read("indexes").where(f"index_id = '{index_id}'").first()


def commit_index(lake: Lake, run: Run, manifest: Manifest) -> bool:
    """Publish the manifest and commit the index; False where another run committed the same one meanwhile."""
    spec = manifest.spec
    written = manifest.write(spec.root)
    # What a build wrote that was killed between the two commits describes files that may be gone.
    stale = lake.read("index_shards").where(f"index_id = '{spec.index_id}'")
    if stale.head(1):
        table = lake.name("index_shards")
        lake.spark.sql(f"DELETE FROM {table} WHERE index_id = '{spec.index_id}'")
    lake.append(
        "index_shards",
        [row for shard in manifest.shards for row in _files(spec.root, spec.index_id, shard)],
    )
    row = {
        "index_id": spec.index_id,
        "model_id": spec.model_id,
        "vectors_version": spec.vectors_version,
        "root": spec.root,
        "factory": spec.plan.factory,
        "metric": spec.plan.metric,
        "dim": spec.dim,
        "rows": manifest.rows,
        "bytes": total_bytes(manifest),
        "shards": len(manifest.shards),
        "params": _params(manifest),
        "manifest_sha256": written.sha256,
        "run_id": run.run_id,
        "built_at": now(),
    }
    return lake.insert_new("indexes", row, key="index_id")


def store_points(lake: Lake, manifest: Manifest) -> None:
    """Write the manifest of a committed index again with its operating points, and them into its row of `indexes`.

    Nothing that a search does by default changes; the files of the index are not touched.
    """
    from pyspark.sql import functions as F

    written = manifest.write(manifest.spec.root)
    values = {"params": F.lit(_params(manifest)), "manifest_sha256": F.lit(written.sha256)}
    table = delta_table(lake.spark, lake.name("indexes"))
    table.update(F.col("index_id") == manifest.spec.index_id, values)


def total_bytes(manifest: Manifest) -> int:
    """Bytes of every file of the index but the manifest."""
    shards = sum(file.bytes for shard in manifest.shards for file in shard.files)
    return manifest.quantizer.bytes + shards


def _params(manifest: Manifest) -> str:
    """Plan and operating points as JSON."""
    points = [asdict(point) for point in manifest.points]
    return json.dumps(asdict(manifest.spec.plan) | {"points": points}, sort_keys=True)


def _files(root: str, index_id: str, shard: ShardRecord) -> Iterator[dict[str, Any]]:
    for file in shard.files:
        yield {
            "index_id": index_id,
            "shard": shard.shard,
            "kind": "base",
            "path": storage.join(root, file.name),
            "sha256": file.sha256,
            "bytes": file.bytes,
            "rows": shard.rows,
        }
