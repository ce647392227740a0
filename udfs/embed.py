"""The function handed to mapInArrow: source rows in, vectors (or the reason why there is none) out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa

from udfs.errors import RowRejected
from udfs.gme.prepare import Prepared, Row, RowPreparer
from udfs.image_files import read_image
from udfs.progress import RowsDone
from udfs.serving.client import ServerClient
from udfs.serving.launch import open_server
from udfs.serving.local import LocalModel
from udfs.serving.results import BatchResults
from udfs.serving.wire import Answer
from udfs.specs import EmbedSpec, ModelProfile

EMBED_INPUT = (
    "key string, text string, image binary, image_uri string, instruction string, is_query boolean"
)
EMBED_OUTPUT = (
    "key string, status string, error string, embedding array<float>, server string, "
    "prepare_seconds double, model_seconds double"
)
EMBED_OUTPUT_ARROW = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("embedding", pa.list_(pa.float32())),
        ("server", pa.string()),
        ("prepare_seconds", pa.float64()),
        ("model_seconds", pa.float64()),
    ]
)
REQUEST_BYTES = 8 << 20  # prepared rows of one request; its last row may exceed it
REQUEST_ROWS = 256  # so that the answer to a request of short texts stays small too
_INPUT_NAMES = [column.split()[0] for column in EMBED_INPUT.split(", ")]


def embed_batches(
    batches: Iterator[pa.RecordBatch], *, spec: EmbedSpec
) -> Iterator[pa.RecordBatch]:
    """Embed Arrow batches with the columns EMBED_INPUT; one EMBED_OUTPUT batch each, rows in input order.

    A rejected row has a status other than "ok", the reason in `error` and a null embedding. `server` names the
    model load that made the vector. `prepare_seconds` and `model_seconds` are the row's share of wall seconds
    (of its worker, and of the model), so their sums are the seconds spent. `image` wins over `image_uri`.
    Raises CheckpointError or ServingError where there is no model; Spark then retries the task.
    """
    done = RowsDone(spec.progress)
    work = _Work(spec, done)
    requests = work.requests(batches)
    first = next(requests, None)
    if first is not None:  # a partition without a single good row needs no model
        with _open_model(spec) as model:
            for answer in model.embed_stream(chain([first], requests)):
                work.accept(answer)
                yield from work.finished()
    yield from work.finished()
    done.end()


class _Work:
    """Cuts batches into requests of bounded size, and puts the answers back."""

    def __init__(self, spec: EmbedSpec, done: RowsDone) -> None:
        self._spec = spec
        self._done = done
        self._open: deque[BatchResults] = deque()
        self._sent: deque[tuple[BatchResults, list[int], list[int]]] = deque()

    def requests(self, batches: Iterable[pa.RecordBatch]) -> Iterator[list[Prepared]]:
        """Prepared rows, request by request; none spans two batches."""
        for batch in batches:
            results = BatchResults(batch.column("key").cast(pa.string()), dim=self._spec.model.dim)
            self._open.append(results)
            rows: dict[int, Prepared] = {}
            nbytes = 0
            for number, prepared in self._prepare_all(batch, results):
                rows[number] = prepared
                nbytes += prepared.nbytes
                if nbytes >= REQUEST_BYTES or len(rows) >= REQUEST_ROWS:
                    yield self._send(results, rows)
                    rows, nbytes = {}, 0
            results.closed = True
            if rows:
                yield self._send(results, rows)

    def accept(self, answer: Answer) -> None:
        """Put the answer to the oldest unanswered request where it belongs."""
        results, rows, tokens = self._sent.popleft()
        results.accept(rows, tokens, answer)
        self._done.add(len(rows), rejected=sum(error is not None for error in answer.errors))

    def finished(self) -> Iterator[pa.RecordBatch]:
        """Complete batches, as long as none before them is incomplete."""
        while self._open and self._open[0].complete:
            yield self._open.popleft().to_arrow(EMBED_OUTPUT_ARROW)

    def _send(self, results: BatchResults, rows: dict[int, Prepared]) -> list[Prepared]:
        results.unanswered += 1
        self._sent.append((results, list(rows), [row.tokens for row in rows.values()]))
        return list(rows.values())

    def _prepare_all(
        self, batch: pa.RecordBatch, results: BatchResults
    ) -> Iterator[tuple[int, Prepared]]:
        """The good rows with their numbers; the others are rejected in `results`."""
        preparer = _preparer(self._spec.model.path, self._spec.model.profile)
        columns = zip(*(batch.column(name) for name in _INPUT_NAMES), strict=True)
        for number, (_, *cells) in enumerate(columns):
            started = time.perf_counter()
            prepared = None
            try:
                row = _read(*(cell.as_py() for cell in cells), limit=self._spec.max_image_bytes)
                prepared = preparer.prepare(row)
            except RowRejected as error:
                results.reject(number, error)
                self._done.add(1, rejected=1)
            results.prepare_seconds[number] = time.perf_counter() - started
            if prepared is not None:
                yield number, prepared


def _read(*cells: Any, limit: int) -> Row:
    text, image, image_uri, instruction, is_query = cells
    if image is None and image_uri is not None:
        image = read_image(image_uri, max_bytes=limit)
    return Row(text=text, image=image, instruction=instruction, is_query=bool(is_query))


def _open_model(spec: EmbedSpec) -> ServerClient | LocalModel:
    if spec.serving.placement == "worker":
        return LocalModel(spec.model, spec.serving)
    return open_server(spec.model, spec.serving)


@lru_cache(maxsize=4)
def _preparer(path: str, profile: ModelProfile) -> RowPreparer:
    return RowPreparer.load(path, profile=profile)
