"""The function handed to mapInArrow: source rows in, vectors (or the reason why there is none) out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import lru_cache
from itertools import chain

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.embed.row_watch import RowWatch
from udfs.embed.rows_done import RowsDone
from udfs.errors import RowRejected
from udfs.files.image_files import read_images
from udfs.gme.prepare import Prepared, Row, RowPreparer
from udfs.serving.client import ServerClient
from udfs.serving.launch import open_server
from udfs.serving.local import LocalModel
from udfs.serving.results import BatchResults
from udfs.serving.wire import REQUEST_BYTES, REQUEST_ROWS, EncodeReply
from udfs.specs import EmbedSpec, ModelProfile
from udfs.strings import python_values, require_utf8

EMBED_INPUT = Columns(
    "key string, text string, image binary, image_uri string, instruction string, is_query boolean"
)
EMBED_OUTPUT = Columns(
    "key string, status string, error string, embedding array<float>, server string, load_report string, tokens int, "
    "input_bytes bigint, budget_tokens double, prepare_seconds double, model_seconds double, load_seconds double"
)
_WORDS = {"text": "text", "image_uri": "image path", "instruction": "instruction"}


@gives(EMBED_OUTPUT)
def embed_batches(
    batches: Iterator[pa.RecordBatch], *, spec: EmbedSpec
) -> Iterator[pa.RecordBatch]:
    """Embed Arrow batches with the columns EMBED_INPUT; one EMBED_OUTPUT batch each, rows in input order.

    A rejected row has a status other than "ok", the reason in `error` and a null embedding. `server` names the
    model load that made the vector; `load_report` says what it was loaded in, in the first row of each request, and is
    null in the others. `tokens` are those that the model saw, 0 where it did not see the row,
    `input_bytes` those of the text and of the picture's file. `prepare_seconds`, `model_seconds` and `load_seconds` are
    the row's share of wall seconds (of its worker, of the model, and of loading it for this task or one beside it),
    `budget_tokens` of what the model's batches had room for, so the sums are what was spent. `image` wins over
    `image_uri`. Whatever a row's text, path or picture is, it costs that row only: strings that are not UTF-8 are
    `not_utf8`, and a row that takes longer than `spec.max_row_seconds` is `too_slow` at the task's next attempt (see
    RowWatch). Raises CheckpointError or ServingError where there is no model; Spark then retries the task.
    """
    with ExitStack() as stack:
        watch = None
        if spec.max_row_seconds is not None and spec.notes:
            watch = stack.enter_context(RowWatch(spec.notes, seconds=spec.max_row_seconds))
        done = RowsDone(spec.progress)
        work = _Work(spec, done, watch)
        requests = work.requests(batches)
        first = next(requests, None)
        if first is not None:  # a partition without a single good row needs no model
            with _open_model(spec) as model:
                for answer in model.embed_stream(chain([first], requests)):
                    work.accept(answer, load_report=model.load_report)
                    yield from work.take_finished()
        yield from work.take_finished()
        done.end()


class _Work:
    """Cuts batches into requests of bounded size, and puts the answers back."""

    def __init__(self, spec: EmbedSpec, done: RowsDone, watch: RowWatch | None) -> None:
        self._spec = spec
        self._done = done
        self._watch = watch
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

    def accept(self, answer: EncodeReply, *, load_report: str) -> None:
        """Put the answer to the oldest unanswered request where it belongs."""
        results, rows, tokens = self._sent.popleft()
        results.accept(rows, tokens, answer, load_report=load_report)
        self._done.add(len(rows), rejected=sum(error is not None for error in answer.errors))

    def take_finished(self) -> Iterator[pa.RecordBatch]:
        """Complete batches, as long as none before them is incomplete."""
        while self._open and self._open[0].complete:
            yield self._open.popleft().to_arrow(EMBED_OUTPUT.arrow)

    def _send(self, results: BatchResults, rows: dict[int, Prepared]) -> list[Prepared]:
        results.unanswered += 1
        self._sent.append((results, list(rows), [row.tokens for row in rows.values()]))
        return list(rows.values())

    def _prepare_all(
        self, batch: pa.RecordBatch, results: BatchResults
    ) -> Iterator[tuple[int, Prepared]]:
        """The good rows with their numbers; the others are rejected in `results`."""
        preparer = load_preparer(self._spec.model.path, self._spec.model.profile)
        rows = Rows(batch, self._watch)
        files = read_images(rows.uris_to_read(), spec=self._spec.reading)
        for number in range(batch.num_rows):
            started = time.perf_counter()
            prepared = None
            try:
                with self._watching(rows.keys[number]):
                    row = rows.row(number, files)
                    results.input_bytes[number] = row.nbytes
                    prepared = preparer.prepare(row)
            except RowRejected as error:
                results.reject(number, error)
                self._done.add(1, rejected=1)
            results.prepare_seconds[number] = time.perf_counter() - started
            if prepared is not None:
                yield number, prepared

    def _watching(self, key: str) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.row(key)


class Rows:
    """One batch of EMBED_INPUT as rows; pictures stay in Arrow until their row is wanted."""

    def __init__(self, batch: pa.RecordBatch, watch: RowWatch | None = None) -> None:
        self.keys: list[str] = python_values(batch.column("key").cast(pa.string()))
        self._words = {name: python_values(batch.column(name)) for name in _WORDS}
        self._images = batch.column("image")
        self._is_query = batch.column("is_query").to_pylist()
        self._watch = watch

    def uris_to_read(self) -> Iterator[str]:
        """Paths of the rows that need a file, in their order."""
        return (uri for number, uri in enumerate(self._words["image_uri"]) if self._needs(number))

    def row(self, number: int, files: Iterator[bytes | RowRejected]) -> Row:
        """Row `number`, its file the next of `files`; raises RowRejected for strings and files that cannot be used."""
        image = next(files) if self._needs(number) else self._images[number].as_py()
        words = {name: self._words[name][number] for name in _WORDS}
        for name, what in _WORDS.items():
            require_utf8(words[name], what=what)
        if isinstance(image, RowRejected):
            raise image
        is_query = bool(self._is_query[number])
        return Row(words["text"], image, words["instruction"], is_query)

    def _needs(self, number: int) -> bool:
        if self._words["image_uri"][number] is None or self._images[number].is_valid:
            return False
        # The file of a row that is left out may be what it was stuck at.
        return self._watch is None or not self._watch.is_noted(self.keys[number])


def _open_model(spec: EmbedSpec) -> ServerClient | LocalModel:
    tokenizer = load_preparer(spec.model.path, spec.model.profile).tokenizer_sha256
    if spec.serving.placement == "worker":
        return LocalModel(spec.model, spec.serving, tokenizer=tokenizer)
    return open_server(spec.model, spec.serving, tokenizer=tokenizer)


@lru_cache(maxsize=4)
def load_preparer(path: str, profile: ModelProfile) -> RowPreparer:
    """The preparer of a checkpoint, read once a process."""
    return RowPreparer.load(path, profile=profile)
