"""What a killed build had finished: records beside the files say what need not be made again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import pydantic

from udfs import storage
from udfs.index.files import FileRecord
from udfs.index.manifest import QUANTIZER_NAME, ShardRecord, publish_bytes

MAX_RECORD_BYTES = 1 << 20
MAX_QUANTIZER_BYTES = 4 << 30
QUANTIZER_RECORD_NAME = "quantizer.json"


@dataclass(frozen=True)
class QuantizerRecord:
    """The trained quantizer's file, the rows it was trained on, and the squared distance of them that it loses."""

    rows: int
    file: FileRecord
    error: float | None = None


def publish_quantizer(
    data: bytes, root: str, *, rows: int, error: float | None = None
) -> QuantizerRecord:
    """Writes the trained, empty index, then its record."""
    record = QuantizerRecord(rows, publish_bytes(data, root, QUANTIZER_NAME), error)
    publish_bytes(json.dumps(asdict(record), indent=1).encode(), root, QUANTIZER_RECORD_NAME)
    return record


def find_quantizer(root: str) -> QuantizerRecord | None:
    """The record of a quantizer trained before, or None where there is none or its bytes are not as recorded.

    Raises OSError where `root` cannot be reached.
    """
    try:
        text = storage.read_bytes(
            storage.join(root, QUANTIZER_RECORD_NAME), max_bytes=MAX_RECORD_BYTES
        )
        record = pydantic.TypeAdapter(QuantizerRecord).validate_json(text)
        data = storage.read_bytes(storage.join(root, QUANTIZER_NAME), max_bytes=MAX_QUANTIZER_BYTES)
    except (FileNotFoundError, pydantic.ValidationError):
        return None  # training again is always right
    return record if hashlib.sha256(data).hexdigest() == record.file.sha256 else None


def record_name(shard: int) -> str:
    """File name of a shard's record."""
    return f"shard-{shard:05d}.json"


def publish_record(record: ShardRecord, root: str) -> None:
    """Written after the shard's files, so that where it is, they are whole."""
    text = json.dumps(asdict(record), indent=1)
    publish_bytes(text.encode(), root, record_name(record.shard))


def find_shard(root: str, shard: int, *, quantizer_sha256: str) -> ShardRecord | None:
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
