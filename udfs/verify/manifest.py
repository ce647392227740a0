"""The manifest of an index against what was committed: its own bytes, and the rows of `indexes` and `index_shards`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from udfs import storage
from udfs.errors import IndexDataError
from udfs.index.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from udfs.verify.findings import Finding

INDEXES, INDEX_SHARDS = "indexes", "index_shards"
File = tuple[int, str, str, int, int]  # shard, path, sha256, bytes, rows


def find_manifest(
    root: str, *, index_id: str, sha256: str
) -> tuple[Manifest | None, list[Finding]]:
    """The manifest in folder `root` that was committed with `sha256`; or None, and what is wrong with it."""
    try:
        data = storage.read_bytes(storage.join(root, MANIFEST_NAME), max_bytes=MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return None, [_wrong("missing", f"the manifest of index {index_id}", "no file")]
    try:
        return Manifest.read(root, sha256=sha256), []
    except IndexDataError as error:
        found = hashlib.sha256(data).hexdigest()
        other = _index_id(data)
        if other not in (None, index_id):
            return None, [_wrong("other index", f"index {index_id}", f"index {other}")]
        if found == sha256:  # committed like this
            return None, [_wrong("unreadable", "a manifest", str(error))]
        return None, [_wrong("sha256", sha256, found)]


def compare_rows(
    manifest: Manifest, row: Mapping[str, Any], *, own: Collection[File], listed: Collection[File]
) -> Iterator[Finding]:
    """Where the index's row of `indexes`, and its files `listed` in `index_shards`, say another thing than the manifest.

    `own` are the manifest's files as `index_shards` has them.
    """
    spec = manifest.spec
    said = {
        "index_id": spec.index_id,
        "model_id": spec.model_id,
        "vectors_version": spec.vectors_version,
        "dim": spec.dim,
        "factory": spec.plan.factory,
        "metric": spec.plan.metric,
        "rows": manifest.rows,
        "shards": len(manifest.all_shards(spec.root)),
    }
    for name, value in said.items():
        if row[name] != value:
            yield Finding(None, INDEXES, "row", f"{name} {value}", f"{name} {row[name]}")
    for file in sorted(set(own) ^ set(listed), key=str):
        shard = file[0] if file[0] >= 0 else None
        told = f"{file[1]}, {file[3]} bytes, sha-256 {file[2][:16]}…, {file[4]} rows"
        expected, found = (told, "no such row") if file in own else ("no such row", told)
        yield Finding(shard, INDEX_SHARDS, "row", expected, found)
    if len(listed) != len(set(listed)):
        yield Finding(None, INDEX_SHARDS, "twice", "a row for each file", f"{len(listed)} rows")


def _index_id(data: bytes) -> str | None:
    """The index that a document says it is of."""
    try:
        found = json.loads(data)["spec"]["index_id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _wrong(kind: str, expected: str, found: str) -> Finding:
    return Finding(None, MANIFEST_NAME, kind, expected, found)
