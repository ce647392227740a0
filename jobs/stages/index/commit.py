"""The commit of an index: its shards' files in `index_shards`, then the one row of `indexes` that makes it exist.

Between a build's work and its commit vacuum-indexes may have removed the base, or this index's own folder where a killed
build had left it. So both are held first, then every file is looked for, then the rows are appended: see
`jobs.lake.index_marks` for why that leaves no gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from pyspark.sql import functions as F

from jobs.lake.conflicts import again_on_conflict
from jobs.lake.index_marks import hold
from jobs.lake.indexes import delete_rows, find_index, require_index
from jobs.lake.lake import Lake, delta_table, now
from jobs.lake.runs import Run
from udfs import storage
from udfs.errors import IndexDataError
from udfs.index.files import FileRecord
from udfs.index.manifest import VECTOR_ID_BYTES, Manifest


def commit_index(lake: Lake, run: Run, manifest: Manifest) -> bool:
    """Publish the manifest and commit the index; False where another run committed the same one meanwhile.

    Raises IndexDataError where files that it names were removed since they were written, LakeError where it or its base
    is being removed.
    """
    spec = manifest.spec
    hold(lake, run, index_and_base(manifest))
    if missing := manifest.missing_files():
        raise IndexDataError(
            f"index {spec.index_id} was not committed: {missing[0]}, and {len(missing) - 1} more; vacuum-indexes or "
            "somebody else removed them meanwhile. Build it again"
        )
    if find_index(lake, spec.index_id) is not None:
        return False  # its manifest is the one that the row names
    written = manifest.write(spec.root)
    # What a build wrote that was killed between the two commits describes files that may be gone.
    stale = lake.read("index_shards").where(F.col("index_id") == spec.index_id)
    if stale.head(1):
        delete_rows(lake, "index_shards", [spec.index_id])
    run.append("index_shards", file_rows(lake, manifest))
    row = {
        "index_id": spec.index_id,
        "model_id": spec.model_id,
        "vectors_version": spec.vectors_version,
        "vectors_table_id": lake.table_id("vectors"),
        "root": lake.relative(spec.root),
        "factory": spec.plan.factory,
        "metric": spec.plan.metric,
        "dim": spec.dim,
        "rows": manifest.rows,
        "bytes": total_bytes(manifest),
        "shards": len(manifest.all_shards(spec.root)),
        "params": _params(manifest),
        "manifest_sha256": written.sha256,
        "run_id": run.run_id,
        "built_at": now(),
    }
    if run.insert_new("indexes", row, key="index_id"):
        return True
    # The same index, committed by another run since we looked; but the manifest that lies there now is ours.
    committed = str(require_index(lake, spec.index_id).manifest_sha256)
    if committed != written.sha256:
        replace(manifest, replaces=committed).write(spec.root)
    return False


def index_and_base(manifest: Manifest) -> list[str]:
    """The index and its base: those whose files a search of it opens."""
    return [manifest.spec.index_id, *([manifest.base.index_id] if manifest.base else [])]


@again_on_conflict
def replace_manifest(lake: Lake, manifest: Manifest) -> None:
    """Write the manifest of a committed index again, with other operating points or files, and its row of `indexes`.

    The files that the manifest before named are not touched. The new one says which one it replaces: until the row is
    changed, by this run or after a kill by the next, it passes as that one too.
    """
    index_id = manifest.spec.index_id
    row = require_index(lake, index_id)
    manifest = replace(manifest, replaces=row.manifest_sha256)
    written = manifest.write(manifest.spec.root)
    values = {
        "params": F.lit(_params(manifest)),
        "rows": F.lit(manifest.rows),
        "bytes": F.lit(total_bytes(manifest)),
        "manifest_sha256": F.lit(written.sha256),
    }
    table = delta_table(lake.spark, lake.name("indexes"))
    table.update(F.col("index_id") == index_id, values)


def file_rows(lake: Lake, manifest: Manifest) -> list[dict[str, Any]]:
    """The index's rows of `index_shards`."""
    return [file | {"path": lake.relative(file["path"])} for file in _files(manifest)]


def total_bytes(manifest: Manifest) -> int:
    """Bytes of every file of the index but the manifest, its base's included."""
    return manifest.quantizer.bytes + sum(int(file["bytes"]) for file in _files(manifest))


def _params(manifest: Manifest) -> str:
    """Plan, operating points, and the index that this one adds to, as JSON."""
    points = [asdict(point) for point in manifest.points]
    base = manifest.base.index_id if manifest.base else None
    return json.dumps(asdict(manifest.spec.plan) | {"points": points, "base": base}, sort_keys=True)


def _files(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Rows of `index_shards`: files of the base's shards, of those added, and the rows gone from all (shard -1)."""
    spec = manifest.spec
    of_base = len(manifest.base.shards) if manifest.base else len(manifest.shards)
    for number, (folder, record) in enumerate(manifest.all_shards(spec.root)):
        kind = "base" if number < of_base else "delta"
        for file in record.files:
            yield _file(spec.index_id, number, kind, folder, file, rows=record.rows)
    if manifest.base is not None and (gone := manifest.base.gone) is not None:
        rows = gone.bytes // VECTOR_ID_BYTES
        yield _file(spec.index_id, -1, "tombstones", spec.root, gone, rows=rows)


def _file(
    index_id: str, shard: int, kind: str, folder: str, file: FileRecord, *, rows: int
) -> dict[str, Any]:
    return {
        "index_id": index_id,
        "shard": shard,
        "kind": kind,
        "path": storage.join(folder, file.name),
        "sha256": file.sha256,
        "bytes": file.bytes,
        "rows": rows,
    }
