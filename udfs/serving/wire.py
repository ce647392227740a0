"""Frames between a Python worker and the model server: a fixed head, then Arrow IPC or a little JSON."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from udfs.errors import CanaryError, CheckpointError, GmeLakeError, ServingError
from udfs.gme.prepare import Prepared

PROTOCOL = 3
REQUEST_BYTES = 8 << 20  # prepared rows of one request; its last row may exceed it
REQUEST_ROWS = 256  # so that the answer to a request of short texts stays small too
CONTROL_BYTES = 4096  # payload of a HELLO or STATS
FAILURE_BYTES = 65_536  # payload of a FAILURE; a longer message is cut
MAX_IN_FLIGHT = (
    4  # unanswered requests of one connection; the server reads no further until it answered
)
PATCH_SHAPE = (3, 14, 14)  # channels and pixels of one patch, uint8
_HEAD = struct.Struct("<4sBQ")
_MAGIC = b"GMEL"
HEAD_SIZE = _HEAD.size
_MEASURES = ("model_seconds", "budget_tokens", "load_seconds")

_ROWS = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("patches", pa.large_binary()),
        pa.field("grid_h", pa.int32()),
        pa.field("grid_w", pa.int32()),
    ]
)


class Kind(IntEnum):
    """What a frame carries."""

    HELLO = 1  # JSON, both ways: protocol and model_id; the server answers, with more, when its model is loaded
    EMBED = 2  # Arrow: prepared rows
    ANSWER = 3  # Arrow: vectors and errors of one EMBED, in its row order
    STATS = 4  # JSON, both ways
    FAILURE = 5  # JSON: an error of the server; it answers any frame


@dataclass(frozen=True)
class EncodeReply:
    """What the model said to one request.

    `vectors` is float32 (n, d), unit length; a row with an error is NaN. `errors` holds None or "status: detail".
    `model_seconds` is this request's share, by tokens, of the model's wall seconds, `budget_tokens` its share of what the
    model batches had room for. `load_seconds` is what loading the model took, in the first answer after that; else 0.
    """

    vectors: npt.NDArray[np.float32]
    errors: list[str | None]
    server: str
    model_seconds: float
    budget_tokens: float = 0.0
    load_seconds: float = 0.0


def pack_head(kind: Kind, size: int) -> bytes:
    """The head of a frame with `size` bytes of payload."""
    return _HEAD.pack(_MAGIC, kind, size)


def parse_head(head: bytes | memoryview, *, limits: Mapping[Kind, int]) -> tuple[Kind, int]:
    """Kind and payload size of a frame; `limits` has the kinds that may come now, and the most bytes of each.

    ServingError for anything else: memory is only taken for a frame that is expected and small enough.
    """
    magic, kind, size = _HEAD.unpack(head)
    if magic != _MAGIC or kind not in Kind.__members__.values():
        raise ServingError(
            f"not a frame of the model server: {bytes(head)!r} (magic {_MAGIC!r} expected); is another program "
            "using the socket?"
        )
    kind = Kind(kind)
    if kind not in limits:
        wanted = " or ".join(known.name for known in limits)
        raise ServingError(f"{wanted} expected, found {kind.name}")
    if size > limits[kind]:
        raise ServingError(
            f"a frame {kind.name} of {size:,} bytes was announced; the limit is {limits[kind]:,}"
        )
    return kind, size


def encode_rows(rows: list[Prepared]) -> pa.Buffer:
    """Prepared rows as an Arrow IPC stream of one record batch."""
    lengths = [len(row.input_ids) for row in rows]
    ids = np.concatenate([row.input_ids for row in rows]) if rows else np.zeros(0, np.int32)
    sizes = [0 if row.patches is None else row.patches.nbytes for row in rows]
    patches = [row.patches.reshape(-1) for row in rows if row.patches is not None]
    text_only = np.array([row.patches is None for row in rows], dtype=bool)
    grids = [(None, None) if row.grid is None else row.grid for row in rows]
    columns = [
        pa.ListArray.from_arrays(_offsets(lengths, np.int32), pa.array(ids, pa.int32())),
        pa.LargeBinaryArray.from_buffers(
            pa.large_binary(),
            len(rows),
            [
                pa.array(~text_only).buffers()[1],
                pa.py_buffer(_offsets(sizes, np.int64)),
                pa.py_buffer(np.concatenate(patches) if patches else b""),
            ],
        ),
        pa.array([gh for gh, _ in grids], pa.int32()),
        pa.array([gw for _, gw in grids], pa.int32()),
    ]
    return _write(pa.RecordBatch.from_arrays(columns, schema=_ROWS))


def decode_rows(payload: Any) -> list[Prepared]:
    """Prepared rows as views of `payload`; ServingError where columns or sizes do not fit."""
    batch = _read(payload, _ROWS)
    ids = batch.column(0)
    if ids.null_count or ids.values.null_count:
        raise ServingError("a request has null token ids")
    flat = ids.values.to_numpy(zero_copy_only=True)
    bounds = ids.offsets.to_numpy()
    rows = []
    for i in range(batch.num_rows):
        cell = batch.column(1)[i].as_buffer()
        grid, patches = None, None
        if cell is not None:
            grid = (batch.column(2)[i].as_py(), batch.column(3)[i].as_py())
            patches = _patches(cell, grid)
        rows.append(Prepared(input_ids=flat[bounds[i] : bounds[i + 1]], patches=patches, grid=grid))
    return rows


def encode_answer(answer: EncodeReply) -> pa.Buffer:
    """An answer as an Arrow IPC stream of one record batch, its scalars in the schema's metadata."""
    vectors = np.ascontiguousarray(answer.vectors, dtype=np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    batch = pa.RecordBatch.from_arrays(
        [column, pa.array(answer.errors, pa.string())], names=["vector", "error"]
    )
    metadata = {
        "server": answer.server,
        **{name: repr(getattr(answer, name)) for name in _MEASURES},
    }
    return _write(batch.replace_schema_metadata(metadata))


def decode_answer(payload: Any) -> EncodeReply:
    """The answer in `payload`; its vectors are a read-only view."""
    batch = _read(payload, None)
    column, metadata = batch.column(0), batch.schema.metadata
    vectors = column.values.to_numpy(zero_copy_only=True).reshape(-1, column.type.list_size)
    return EncodeReply(
        vectors=vectors,
        errors=batch.column(1).to_pylist(),
        server=metadata[b"server"].decode(),
        **{name: float(metadata[name.encode()]) for name in _MEASURES},
    )


def encode_json(message: dict[str, Any]) -> bytes:
    """A control message."""
    return json.dumps(message).encode()


def decode_json(payload: Any) -> dict[str, Any]:
    """A control message; ServingError where it is not a JSON object."""
    try:
        message = json.loads(bytes(payload))
    except ValueError as exc:
        raise ServingError(f"a control message is not JSON: {bytes(payload)[:80]!r}") from exc
    if not isinstance(message, dict):
        raise ServingError(f"a control message is not a JSON object: {message!r}")
    return message


def failure(error: BaseException) -> dict[str, Any]:
    """What a FAILURE frame says about `error`."""
    known = isinstance(error, GmeLakeError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    limit = FAILURE_BYTES // 16  # JSON may write a character in 12 bytes
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-limit // 2 :]}"  # a log's last words matter, too
    return {"error": type(error).__name__, "message": text}


def raise_failure(message: dict[str, Any]) -> None:
    """Raise what a FAILURE frame says: CheckpointError and CanaryError as themselves, everything else as ServingError."""
    kinds: dict[object, type[GmeLakeError]] = {
        kind.__name__: kind for kind in (CheckpointError, CanaryError)
    }
    raise kinds.get(message.get("error"), ServingError)(str(message.get("message")))


def _patches(cell: pa.Buffer, grid: tuple[int | None, int | None]) -> npt.NDArray[np.uint8]:
    flat = np.frombuffer(cell, np.uint8)
    if (
        grid[0] is None
        or grid[1] is None
        or flat.size != grid[0] * grid[1] * int(np.prod(PATCH_SHAPE))
    ):
        raise ServingError(f"{flat.size:,} patch bytes do not fit a grid of {grid} patches")
    return flat.reshape(-1, *PATCH_SHAPE)


def _offsets(lengths: list[int], dtype: type[np.int32] | type[np.int64]) -> npt.NDArray[Any]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)


def _write(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _read(payload: Any, schema: pa.Schema | None) -> pa.RecordBatch:
    try:
        batch = pa.ipc.open_stream(pa.py_buffer(payload)).read_next_batch()
        batch.validate(full=True)  # offsets that lead out of the payload would be followed
    except (pa.ArrowException, OSError, StopIteration) as exc:
        raise ServingError(f"a frame does not hold one Arrow record batch: {exc}") from exc
    if schema is not None and not batch.schema.equals(schema):
        raise ServingError(f"columns {schema.names} expected, found {batch.schema}")
    return batch
