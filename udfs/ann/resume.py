"""Finished shards of a build that was killed: a record beside the files says which need not be built again."""

from __future__ import annotations

import json
from dataclasses import asdict

import pydantic

from udfs import storage
from udfs.ann.manifest import ShardRecord, publish_bytes

MAX_RECORD_BYTES = 1 << 20


def record_name(shard: int) -> str:
    """File name of a shard's record."""
    return f"shard-{shard:05d}.json"


def publish_record(record: ShardRecord, root: str) -> None:
    """Written after the shard's files, so that where it is, they are whole."""
    text = json.dumps(asdict(record), indent=1)
    publish_bytes(text.encode(), root, record_name(record.shard))


def finished_shard(root: str, shard: int, *, quantizer_sha256: str) -> ShardRecord | None:
    """The record of a shard finished with this quantizer, or None where it has to be built.

    Files must be there with their lengths; their sha-256 is checked by every search. Raises OSError where
    `root` cannot be reached.
    """
    try:
        text = storage.read_bytes(
            storage.join(root, record_name(shard)), max_bytes=MAX_RECORD_BYTES
        )
        record = pydantic.TypeAdapter(ShardRecord).validate_json(text)
        lengths = [storage.stat(storage.join(root, file.name))[0] for file in record.files]
    except (FileNotFoundError, pydantic.ValidationError):
        return None  # not finished, or not by this program: building it again is always right
    if record.shard != shard or record.quantizer_sha256 != quantizer_sha256:
        return None
    return record if lengths == [file.bytes for file in record.files] else None
