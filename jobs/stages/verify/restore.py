"""A lost manifest made again from what was committed beside it: rows of `indexes` and `index_shards`, and the quantizer's
record.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pydantic
from pyspark.sql import functions as F

from jobs.lake.indexes import index_folder, read_manifest, require_index
from jobs.lake.lake import Lake
from jobs.stages.index.commit import replace_manifest
from udfs import storage
from udfs.errors import IndexDataError
from udfs.full_text.text_index import FULL_TEXT_SUFFIX
from udfs.index.files import FileRecord
from udfs.index.manifest import Base, Manifest, ShardRecord
from udfs.index.points import OperatingPoint
from udfs.index.resume import MAX_RECORD_BYTES, QUANTIZER_RECORD_NAME, QuantizerRecord
from udfs.index.shard import FAISS_SUFFIX, REFINE_SUFFIX, ROWS_SUFFIX
from udfs.specs import IndexPlan, IndexSpec

log = logging.getLogger("gme_lake")


def restore_manifest(lake: Lake, row: Any) -> Manifest:
    """Write the manifest of a row of `indexes` again; the same file as was committed, where that can be made.

    Where it cannot (it was written by another version of this program, or replaced more than once), the new one is
    committed in its place. Raises IndexDataError where the tables, or the quantizer's record, do not tell enough.
    """
    root = index_folder(lake, row)
    manifest = _assemble(lake, row, root=root)
    for candidate in _candidates(manifest):
        if candidate.sha256 == row.manifest_sha256:
            candidate.write(root)
            return replace(candidate, spec=replace(candidate.spec, root=root))
    log.warning("the manifest of index %s is not the committed one byte for byte", row.index_id)
    replace_manifest(lake, manifest)
    return read_manifest(lake, require_index(lake, row.index_id))


def _candidates(manifest: Manifest) -> Iterator[Manifest]:
    """The manifest as a build writes it, and as it is written again with operating points."""
    yield manifest
    built = replace(manifest, points=())
    yield built
    yield replace(manifest, replaces=built.sha256)


def _assemble(lake: Lake, row: Any, *, root: str) -> Manifest:
    params = json.loads(row.params)
    plan = pydantic.TypeAdapter(IndexPlan).validate_python(
        {field.name: params[field.name] for field in fields(IndexPlan) if field.name in params}
    )
    spec = IndexSpec(
        index_id=row.index_id,
        root=root,
        model_id=row.model_id,
        dim=row.dim,
        vectors_version=row.vectors_version,
        plan=plan,
    )
    points = pydantic.TypeAdapter(tuple[OperatingPoint, ...]).validate_python(params["points"])
    base_id = params.get("base")
    listed = lake.read("index_shards").where(F.col("index_id") == row.index_id).collect()
    if base_id is not None:
        base = read_manifest(lake, require_index(lake, base_id))
        quantizer, error, base_shards = base.quantizer, base.error, len(base.shards)
    else:
        found = _quantizer_record(root, index_id=row.index_id)
        quantizer, error, base_shards = found.file, found.error, 0
    of_base = _records(listed, kind="base", first=0, quantizer_sha256=quantizer.sha256)
    delta = _records(listed, kind="delta", first=base_shards, quantizer_sha256=quantizer.sha256)
    gone = [_file(file) for file in listed if file.kind == "tombstones"]
    try:
        manifest = Manifest(
            spec,
            quantizer,
            delta if base_id is not None else of_base,
            points=points,
            error=error,
            base=Base(base_id, of_base, gone[0] if gone else None) if base_id is not None else None,
        )
    except IndexDataError as error_:
        raise _refusal(row.index_id, str(error_)) from error_
    if manifest.rows != row.rows:
        raise _refusal(row.index_id, f"they name {manifest.rows} rows, `indexes` has {row.rows}")
    return manifest


def _records(
    listed: list[Any], *, kind: str, first: int, quantizer_sha256: str
) -> tuple[ShardRecord, ...]:
    """Records of the shards of a kind, whose numbers in `index_shards` start at `first`."""
    shards: dict[int, list[Any]] = {}
    for file in listed:
        if file.kind == kind:
            shards.setdefault(file.shard - first, []).append(file)
    records = []
    for number, files in sorted(shards.items()):
        by_suffix = {f".{_file(file).name.partition('.')[2]}": _file(file) for file in files}
        if FAISS_SUFFIX not in by_suffix or ROWS_SUFFIX not in by_suffix:
            raise _refusal(
                files[0].index_id, f"of shard {number} they name {sorted(by_suffix)} alone"
            )
        records.append(
            ShardRecord(
                shard=number,
                rows=int(files[0].rows),
                quantizer_sha256=quantizer_sha256,
                index=by_suffix[FAISS_SUFFIX],
                row_ids=by_suffix[ROWS_SUFFIX],
                refine=by_suffix.get(REFINE_SUFFIX),
                full_text=by_suffix.get(FULL_TEXT_SUFFIX),
            )
        )
    return tuple(records)


def _file(row: Any) -> FileRecord:
    return FileRecord(str(row.path).rpartition("/")[2], str(row.sha256), int(row.bytes))


def _quantizer_record(root: str, *, index_id: str) -> QuantizerRecord:
    where = storage.join(root, QUANTIZER_RECORD_NAME)
    try:
        text = storage.read_bytes(where, max_bytes=MAX_RECORD_BYTES)
        return pydantic.TypeAdapter(QuantizerRecord).validate_json(text)
    except (FileNotFoundError, pydantic.ValidationError) as error:
        raise _refusal(index_id, f"{where} is gone or damaged too") from error


def _refusal(index_id: str, why: str) -> IndexDataError:
    return IndexDataError(
        f"the manifest of index {index_id} is lost, and cannot be made again from `index_shards`: {why}. Restore it, or "
        "build the index again with gme-lake build-index"
    )
