"""What Spark tasks do to repair an index: build damaged shards again, and take the quantizer out of a whole one.

Nothing that a manifest names is replaced by other bytes: what comes out as it was takes the damaged file's place, and
what does not gets a name of its own, for a manifest that is committed after it. So a search that has the old files open
keeps them, and one that opens the index meets one manifest's files or the other's.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import faiss
import pyarrow as pa
import pydantic

from udfs import storage
from udfs.columns import Columns, gives
from udfs.index.build import ShardsSpec, build_batches, work_dir
from udfs.index.files import FileRecord, fetch_verified
from udfs.index.manifest import Manifest, ShardRecord, publish_bytes
from udfs.index.resume import publish_record
from udfs.search.opened import read_faiss
from udfs.verify.shards import VerifySpec

REBUILT_OUTPUT = Columns("shard int, record string")
RESTORED_OUTPUT = Columns("sha256 string")
_NAME_DIGITS = 12  # of the sha-256 that a file's new name has


@dataclass(frozen=True)
class RebuildSpec:
    """A committed index, with the manifest's sha-256 as `indexes` has it, some of whose own shards are built again."""

    build: ShardsSpec
    manifest_sha256: str


@gives(REBUILT_OUTPUT)
def rebuild_batches(
    batches: Iterator[pa.RecordBatch], *, spec: RebuildSpec
) -> Iterator[pa.RecordBatch]:
    """Build shards again from SHARD_INPUT rows as `build_batches` does; REBUILT_OUTPUT rows with their records as JSON.

    A file with the committed sha-256 has its committed name, any other one that no manifest names yet. Raises
    IndexDataError as `build_batches`.
    """
    root = spec.build.index.root
    committed = Manifest.read(root, sha256=spec.manifest_sha256).shards
    with tempfile.TemporaryDirectory(dir=work_dir()) as folder:
        aside = replace(spec.build, index=replace(spec.build.index, root=folder))
        for made in build_batches(batches, spec=aside):
            record: ShardRecord = pydantic.TypeAdapter(ShardRecord).validate_json(
                made.column("record")[0].as_py()
            )
            record = _publish(record, committed[record.shard], folder=Path(folder), root=root)
            yield REBUILT_OUTPUT.batch([record.shard], [json.dumps(asdict(record))])


@gives(RESTORED_OUTPUT)
def restore_quantizer(
    batches: Iterator[pa.RecordBatch], *, spec: VerifySpec
) -> Iterator[pa.RecordBatch]:
    """Take the quantizer out of a whole shard, by the numbers in the first column; RESTORED_OUTPUT rows.

    A shard without its rows is the quantizer again: that is published where it has the committed sha-256. Memory is the
    codes of one shard.
    """
    manifest = Manifest.read(spec.root, sha256=spec.manifest_sha256)
    shards = manifest.all_shards(spec.root)
    for batch in batches:
        for number in batch.column(0).to_pylist():
            folder, record = shards[number]
            path = fetch_verified(folder, record.index, cache_dir=None)
            index = read_faiss(path, record.index, flags=0)
            index.reset()
            data = bytes(faiss.serialize_index(index).tobytes())
            with tempfile.TemporaryDirectory() as aside:
                made = publish_bytes(data, aside, manifest.quantizer.name)
            if made == manifest.quantizer:
                publish_bytes(data, manifest.base_root(spec.root), made.name)
            yield RESTORED_OUTPUT.batch([made.sha256])


def _publish(
    record: ShardRecord, committed: ShardRecord, *, folder: Path, root: str
) -> ShardRecord:
    """Publish a shard's files from a local folder; returns its record with the names they got."""
    named: dict[str, FileRecord] = {}
    before = {file.sha256: file.name for file in committed.files}
    for file in record.files:
        stem, _, suffix = file.name.partition(".")
        new = f"{stem}-{file.sha256[:_NAME_DIGITS]}.{suffix}"
        name = before.get(file.sha256, new)
        storage.publish(folder / file.name, storage.join(root, name))
        (folder / file.name).unlink()
        named[file.name] = replace(file, name=name)
    refine = named[record.refine.name] if record.refine else None
    record = replace(
        record,
        index=named[record.index.name],
        row_ids=named[record.row_ids.name],
        refine=refine,
    )
    publish_record(record, root)
    return record
