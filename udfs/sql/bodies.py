"""Bodies of the Python functions behind SQL: `embed_*` and the searches. A batch is embedded and searched once.

An error is a value, which the SQL around them raises: Spark shows one of a Python worker in 200 lines of Java.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from udfs.columns import Columns, gives
from udfs.embed.batches import EMBED_INPUT, embed_batches
from udfs.errors import GmeLakeError
from udfs.search.answers import QueryAnswer
from udfs.search.batches import SEARCH_INPUT
from udfs.specs import MAX_K, EmbedSpec
from udfs.sql.service_client import AskHits, AskModel, Scope, ServiceAddress, Words, ask
from udfs.strings import arrow_strings, printable

EMBEDDED = Columns("embedding array<float>, error string")
FOUND = Columns(
    "hits array<struct<rank: int, score: double, id: string, vector_id: bigint>>, error string"
)
_SCOPE = [f.name for f in fields(Scope)]
_Made = tuple[
    list[float] | None, str | None
]  # a query's vector, or why there is none; of nothing neither


@gives(EMBEDDED)
def embed_rows(asked: pa.StructArray, *, address: ServiceAddress) -> pa.StructArray:
    """A struct EMBEDDED for each struct (text, image, instruction, release, stamp): its vector as a query, or why none.

    Neither where text and image are null.
    """
    rows = asked.to_pylist()
    made = _embed(rows, address)
    return _structs(EMBEDDED, [vector for vector, _ in made], [error for _, error in made])


@gives(FOUND)
def search_rows(
    asked: pa.StructArray, *, address: ServiceAddress, source: str | None
) -> pa.StructArray:
    """A struct FOUND for each query: its hits, best first, or why there are none.

    A query is a struct of what to embed (text, image, instruction), or `by_vector` of `vector`, made by `model`; with k,
    what a Scope has, and stamp; a `hybrid` one with `rrf_k`, to be searched by the words of its text too. `own` is the row
    that the vector is of, which is not among its hits. Where there is nothing to embed, there are no hits and no error.
    `source` is the table whose columns are shown beside hits.
    """
    rows = asked.to_pylist()
    made = _embed([{} if row["by_vector"] else row for row in rows], address)
    queries: dict[tuple[str, Scope, str | None, int | None], list[int]] = {}
    found: list[tuple[list[dict[str, Any]] | None, str | None]] = [(None, None)] * len(rows)
    for number, row in enumerate(rows):
        if row["by_vector"]:
            made[number] = (row["vector"], None)
        vector, error = made[number]
        error = error or _wrong(row)
        if error is not None:
            found[number] = (None, error)
        elif vector is not None:
            scope = Scope(**{name: row[name] for name in _SCOPE})
            rrf_k = row["rrf_k"] if row["hybrid"] else None
            queries.setdefault((row["stamp"], scope, row["model"], rrf_k), []).append(number)
    for (stamp, scope, model_id, rrf_k), numbers in queries.items():
        wanted = [rows[number]["k"] + (rows[number]["own"] is not None) for number in numbers]
        vectors = [made[number][0] for number in numbers]
        texts = tuple(rows[number]["text"] for number in numbers)
        words = None if rrf_k is None else Words(texts, rrf_k)
        request = AskHits(stamp, scope, _batch(wanted, vectors), model_id, source, words)
        for number, answer in zip(numbers, _answers(request, address), strict=True):
            found[number] = _hits(answer, rows[number])
    return _structs(FOUND, [hits for hits, _ in found], [error for _, error in found])


def _wrong(row: dict[str, Any]) -> str | None:
    """Why a query cannot be searched for, as far as its arguments tell."""
    k, own = row["k"], row["own"]
    most = MAX_K if own is None else MAX_K - 1  # its own row is found as well
    if k is None or not 1 <= k <= most:
        return f"k must be 1 to {most}; got {'NULL' if k is None else k}"
    if row["hybrid"] and (row["rrf_k"] is None or row["rrf_k"] < 1):
        return f"rrf_k must be 1 or more; got {'NULL' if row['rrf_k'] is None else row['rrf_k']}"
    if not row["by_vector"]:
        return None
    if row["vector"] is None and own is not None:
        return f"row {printable(own)} has no vector of the released model, or nothing is released"
    if row["vector"] is None:
        return "the query is NULL"
    return "the query has NULL in it" if None in row["vector"] else None


def _embed(rows: Sequence[dict[str, Any]], address: ServiceAddress) -> list[_Made]:
    """What the model made of each row with text or image."""
    made: list[_Made] = [(None, None)] * len(rows)
    by_model: dict[AskModel, list[int]] = {}
    for number, row in enumerate(rows):
        if row.get("text") is not None or row.get("image") is not None:
            asked = AskModel(row["stamp"], row["release"])
            by_model.setdefault(asked, []).append(number)
    for asked, numbers in by_model.items():
        try:
            spec = ask(address, asked)
            answers = _embed_with(spec, [rows[number] for number in numbers])
        except GmeLakeError as error:
            answers = [(None, str(error))] * len(numbers)
        for number, answer in zip(numbers, answers, strict=True):
            made[number] = answer
    return made


def _embed_with(spec: EmbedSpec, rows: Sequence[dict[str, Any]]) -> list[_Made]:
    batch = EMBED_INPUT.batch(
        [str(number) for number in range(len(rows))],
        arrow_strings([row["text"] for row in rows]),
        pa.array([row["image"] for row in rows], pa.binary()),
        pa.nulls(len(rows), pa.string()),
        arrow_strings([row["instruction"] for row in rows]),
        [True] * len(rows),
    )
    made = pa.Table.from_batches(embed_batches(iter([batch]), spec=spec))
    columns = (made.column(name).to_pylist() for name in ("embedding", "status", "error"))
    return [
        (vector, None if status == "ok" else f"it cannot be embedded: {error} ({status})")
        for vector, status, error in zip(*columns, strict=True)
    ]


def _batch(ks: Sequence[int], vectors: Sequence[list[float] | None]) -> pa.RecordBatch:
    n = len(ks)
    names, nothing = [str(number) for number in range(n)], pa.nulls(n, pa.string())
    return SEARCH_INPUT.batch(names, ks, pa.repeat("ok", n), nothing, vectors)


def _answers(request: AskHits, address: ServiceAddress) -> list[QueryAnswer]:
    try:
        answers: list[QueryAnswer] = ask(address, request)
    except GmeLakeError as error:
        refused = QueryAnswer("", 1, "refused", str(error))
        answers = [refused] * request.queries.num_rows
    return answers


def _hits(
    answer: QueryAnswer, row: dict[str, Any]
) -> tuple[list[dict[str, Any]] | None, str | None]:
    if answer.status not in {"ok", "cut", "incomplete", "no_rows"}:
        return None, answer.error
    found = zip(answer.hits.D, answer.hits.I, answer.hits.ids, strict=True)
    others = [hit for hit in found if row["own"] is None or hit[2] != row["own"]][: row["k"]]
    hits = [
        {"rank": rank, "score": float(score), "id": printable(row_id), "vector_id": int(vector_id)}
        for rank, (score, vector_id, row_id) in enumerate(others, 1)
    ]
    return hits, None


def _structs(columns: Columns, *values: Sequence[Any]) -> pa.StructArray:
    arrays = [
        pa.array(column, field.type) for column, field in zip(values, columns.arrow, strict=True)
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(columns.arrow))
