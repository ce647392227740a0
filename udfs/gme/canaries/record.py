"""Canaries as they are kept: inputs, what a model made of each, and in which environment; one file a registration."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from udfs import storage
from udfs.errors import ServingError
from udfs.gme.prepare import EncodedBatch, Row
from udfs.specs import CanarySpec

_MAX_BYTES = 16 << 20  # of a file; sixteen inputs and vectors of 3,584 numbers take half a megabyte


@dataclass(frozen=True, eq=False)
class Canaries:
    """Inputs by name, and of each the status and vector that it got, in their order.

    `statuses` are "ok" or the reason why there is no vector; `vectors` float32 (n, d), NaN where there is none. The
    inputs are kept with them: a later gme-lake may have others.
    """

    rows: Mapping[str, Row]
    statuses: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    environment: Mapping[str, str]

    @classmethod
    def of(
        cls, rows: Mapping[str, Row], made: EncodedBatch, *, environment: Mapping[str, str]
    ) -> Canaries:
        """What an encoder made of the inputs."""
        statuses = tuple("ok" if e is None else e.partition(":")[0] for e in made.errors)
        return cls(rows, statuses, made.vectors, environment)

    def to_bytes(self) -> bytes:
        """JSON, with pictures and vectors in base64."""
        told = []
        for (name, row), status, vector in zip(
            self.rows.items(), self.statuses, self.vectors, strict=True
        ):
            image = None if row.image is None else base64.b64encode(row.image).decode()
            floats = base64.b64encode(vector.astype("<f4").tobytes()).decode()
            made = {"status": status, "vector": floats if status == "ok" else None}
            told.append({"name": name, **vars(row), "image": image, **made})
        return json.dumps({"environment": dict(self.environment), "canaries": told}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Canaries:
        """What `to_bytes` has written; whoever read it has compared its sha-256."""
        read = json.loads(data)
        rows: dict[str, Row] = {}
        statuses, vectors = [], []
        for told in read["canaries"]:
            image = None if told["image"] is None else base64.b64decode(told["image"])
            asked = {"instruction": told["instruction"], "is_query": told["is_query"]}
            rows[told["name"]] = Row(told["text"], image, **asked)
            statuses.append(told["status"])
            vectors.append(
                None
                if told["vector"] is None
                else np.frombuffer(base64.b64decode(told["vector"]), "<f4")
            )
        dim = max((len(vector) for vector in vectors if vector is not None), default=0)
        nothing = np.full(dim, np.nan, np.float32)
        stacked = np.stack([nothing if vector is None else vector for vector in vectors])
        return cls(rows, tuple(statuses), stacked.astype(np.float32), read["environment"])


def sha256_of(data: bytes) -> str:
    """Hex sha-256 of a file of canaries, by which it is named."""
    return hashlib.sha256(data).hexdigest()


def read_canaries(spec: CanarySpec) -> Canaries:
    """The canaries of a file. Raises ServingError where it cannot be read or has other bytes."""
    way_out = "the next job writes it again from the model registry where it is missing or damaged"
    try:
        data = storage.read_bytes(spec.uri, max_bytes=_MAX_BYTES)
    except OSError as error:
        raise ServingError(
            f"the model's canaries cannot be read: {spec.uri}: {error}; every executor must be able to read the lake, and "
            f"{way_out}"
        ) from error
    if (found := sha256_of(data)) != spec.sha256:
        raise ServingError(
            f"the model's canaries in {spec.uri} have sha-256 {found[:16]}…, not {spec.sha256[:16]}…: {way_out}"
        )
    return Canaries.from_bytes(data)
