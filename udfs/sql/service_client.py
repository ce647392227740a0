"""What SQL functions on executors ask of the service in the driver, which keeps the release's index open."""

from __future__ import annotations

from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

import pyarrow as pa

from udfs.errors import GmeLakeError, ServingError

_ANSWER_SECONDS = (
    1800.0  # the longest: rows since the index was built are compared, and new ones indexed
)


@dataclass(frozen=True)
class ServiceAddress:
    """Where the driver's service listens, and the key by which both ends know each other. Frames are not encrypted."""

    host: str
    port: int
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Scope:
    """Which rows of which release may be found, by the names of `search` settings; None: as the session was opened."""

    filter: str | None = None
    min_score: float | None = None
    group_by: str | None = None
    max_per: int | None = None
    freshness: str | None = None
    release: int | None = None


@dataclass(frozen=True)
class Prepare:
    """Before a statement runs, as none of its tasks holds a place yet: open what is released now. Answered by None."""


@dataclass(frozen=True)
class AskModel:
    """How rows are embedded by the model of a release (None: the newest). Answered by an EmbedSpec.

    All that has one `stamp`, the time of the statement, is answered by one release.
    """

    stamp: str
    release: int | None = None


@dataclass(frozen=True)
class Words:
    """The texts of queries that are searched by their words too, and the constant of reciprocal rank fusion."""

    texts: tuple[str, ...]
    rrf_k: int


@dataclass(frozen=True)
class AskHits:
    """The hits of queries (a batch of SEARCH_INPUT), one QueryAnswer each.

    `model_id`: of the model that made them; `source`: the table whose columns are shown beside hits; `words`: of a hybrid
    search.
    """

    stamp: str
    scope: Scope
    queries: pa.RecordBatch
    model_id: str | None = None
    source: str | None = None
    words: Words | None = None


Request = Prepare | AskModel | AskHits

_kept: dict[ServiceAddress, Connection] = {}


def ask(address: ServiceAddress, request: Request) -> Any:
    """The service's answer. Raises the GmeLakeError that it refuses with, ServingError where it cannot be reached."""
    kept = _kept.pop(address, None)
    if kept is not None:
        try:
            return _exchange(kept, address, request)
        except (OSError, EOFError):  # it may have ended since the last request: asked anew below
            kept.close()
    try:
        return _exchange(_connect(address), address, request)
    except (OSError, EOFError, AuthenticationError) as error:
        raise ServingError(
            f"the service of the lake's SQL functions at {address.host}:{address.port}, in the process that opened the "
            f"lake, cannot be reached ({type(error).__name__}: {error}); open the lake again"
        ) from error


def _connect(address: ServiceAddress) -> Connection:
    connection = Client((address.host, address.port))
    answer_challenge(connection, address.key)
    deliver_challenge(connection, address.key)
    return connection


def _exchange(connection: Connection, address: ServiceAddress, request: Request) -> Any:
    connection.send(request)
    if not connection.poll(_ANSWER_SECONDS):
        connection.close()
        raise TimeoutError(f"no answer within {_ANSWER_SECONDS:.0f} s")
    answer = connection.recv()
    _kept[address] = connection
    if isinstance(answer, GmeLakeError):
        raise answer
    return answer
