"""The SQL functions that analysts call: names, arguments and words, as `functions` lists and DESCRIBE FUNCTION tells."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.lake.sql import literal
from udfs.specs import MAX_K


@dataclass(frozen=True)
class Argument:
    """One argument; without a `default` it must be given."""

    name: str
    type: str
    comment: str
    default: str | None = None

    @property
    def sql(self) -> str:
        """As CREATE FUNCTION takes it."""
        return f"{self.signature} COMMENT {literal(self.comment)}"

    @property
    def signature(self) -> str:
        """As `functions` lists it."""
        given = f" DEFAULT {self.default}" if self.default is not None else ""
        return f"{self.name} {self.type}{given}"


@dataclass(frozen=True)
class SqlFunction:
    """One function. A name with the schema is one that the catalog keeps; the others are a session's."""

    name: str
    arguments: tuple[Argument, ...]
    gives: str
    example: str


_TEXT = Argument("text", "STRING", "what to search for; NULL gives no rows")
_IMAGE = Argument("image", "BINARY", "a picture's file, as bytes; NULL gives no rows")
_INSTRUCTION = Argument(
    "instruction",
    "STRING",
    "what the query is for, in a sentence, as the model was trained with; NULL: its own",
    "NULL",
)
_K = Argument("k", "INT", f"rows, 1 to {MAX_K}", "10")
_SCOPE = (
    Argument(
        "filter",
        "STRING",
        "condition on the columns of the source, such as price < 50: k rows that it holds for are found",
        "NULL",
    ),
    Argument("min_score", "DOUBLE", "lowest score of a row, -1 to 1", "NULL"),
    Argument(
        "group_by",
        "STRING",
        "column of the source of which rows share a value at most max_per times",
        "NULL",
    ),
    Argument("max_per", "INT", "rows of one value of group_by; NULL: 1", "NULL"),
    Argument(
        "freshness",
        "STRING",
        "complete: rows newer than the index are found too; indexed_only: they are not",
        "NULL",
    ),
)
_RELEASE = Argument(
    "release",
    "INT",
    "number of a release, whose model and index are used; NULL: the newest",
    "NULL",
)
_ROWS = "with the columns of the source after rank, score, id and vector_id"

SEARCH_TEXT = SqlFunction(
    "search_text",
    (_TEXT, _K, *_SCOPE, _INSTRUCTION, _RELEASE),
    f"the k nearest rows to a text, {_ROWS}",
    "SELECT * FROM search_text('red striped mug', k => 5) ORDER BY rank",
)
SEARCH_IMAGE = SqlFunction(
    "search_image",
    (_IMAGE, _K, *_SCOPE, _INSTRUCTION, _RELEASE),
    f"the k nearest rows to a picture, {_ROWS}",
    "SELECT * FROM search_image((SELECT content FROM binaryFile.`/pictures/mug.jpg`), k => 5) ORDER BY rank",
)
SEARCH_BOTH = SqlFunction(
    "search_both",
    (_TEXT, _IMAGE, _K, *_SCOPE, _INSTRUCTION, _RELEASE),
    f"the k nearest rows to a text and a picture together, or to one of them where the other is NULL, {_ROWS}",
    "SELECT * FROM search_both('the same in blue', (SELECT content FROM binaryFile.`/pictures/mug.jpg`)) ORDER BY rank",
)
HYBRID_SEARCH = SqlFunction(
    "hybrid_search",
    (
        _TEXT,
        _K,
        *(argument for argument in _SCOPE if argument.name != "min_score"),
        _INSTRUCTION,
        _RELEASE,
        Argument(
            "rrf_k",
            "INT",
            "constant of reciprocal rank fusion, 1 or more: the larger, the more the ranks after the first count",
            "60",
        ),
    ),
    "the k best rows by their vectors and by the words of their texts (BM25) together; score is the sum of "
    f"1 / (rrf_k + rank) of both, {_ROWS}. Needs an index with index.full_text",
    "SELECT * FROM hybrid_search('mug SKU-0042', k => 5) ORDER BY rank",
)
SIMILAR_ROWS = SqlFunction(
    "similar_rows",
    (Argument("id", "STRING", "id of a row that has a vector; NULL gives no rows"), _K, *_SCOPE),
    f"the k nearest rows to a row, without that row, {_ROWS}",
    "SELECT * FROM similar_rows('p1', k => 5) ORDER BY rank",
)
VECTOR_SEARCH = SqlFunction(
    "vector_search",
    (
        Argument("query", "ARRAY<FLOAT>", "vector of unit length, by the model of the release"),
        _K,
        Argument(
            "model",
            "STRING",
            "model_id that made the vector; that of another model is an error",
            "NULL",
        ),
        *_SCOPE,
        _RELEASE,
    ),
    f"the k nearest rows to a vector, {_ROWS}",
    "SELECT * FROM vector_search((SELECT max(embedding) FROM {schema}.current_vectors WHERE id = 'p1'), 5) ORDER BY rank",
)
EMBED_TEXT = SqlFunction(
    "embed_text",
    (Argument("text", "STRING", "text of a query; NULL gives NULL"), _INSTRUCTION),
    "the vector of a text as a query, of unit length, by the model of the newest release",
    "SELECT embed_text('red striped mug')",
)
EMBED_IMAGE = SqlFunction(
    "embed_image",
    (Argument("image", "BINARY", "a picture's file, as bytes; NULL gives NULL"), _INSTRUCTION),
    "the vector of a picture as a query, of unit length, by the model of the newest release",
    "SELECT embed_image(content) FROM binaryFile.`/pictures/mug.jpg`",
)
KNN = SqlFunction(
    "{schema}.knn",
    (
        Argument("query", "ARRAY<FLOAT>", "vector of unit length, by the model of the release"),
        Argument("k", "INT", "rows"),
    ),
    "the k nearest rows to a vector by comparing all: rank, id, vector_id, score",
    "SELECT * FROM {schema}.knn((SELECT max(embedding) FROM {schema}.current_vectors WHERE id = 'p1'), 5) ORDER BY rank",
)
SIMILARITY = SqlFunction(
    "{schema}.similarity",
    (
        Argument("embedding", "ARRAY<FLOAT>", "vector of unit length"),
        Argument("query", "ARRAY<FLOAT>", "vector of unit length by the same model"),
    ),
    "the cosine of two vectors, -1 to 1, as the searches score",
    "SELECT {schema}.similarity(embed_text('red mug'), embed_text('blue mug'))",
)
SQL_FUNCTIONS = (
    SEARCH_TEXT,
    SEARCH_IMAGE,
    SEARCH_BOTH,
    HYBRID_SEARCH,
    SIMILAR_ROWS,
    VECTOR_SEARCH,
    EMBED_TEXT,
    EMBED_IMAGE,
    KNN,
    SIMILARITY,
)


def arguments_sql(function: SqlFunction) -> str:
    """Its arguments as CREATE FUNCTION takes them."""
    return ", ".join(argument.sql for argument in function.arguments)


def comment_sql(function: SqlFunction, *, schema: str) -> str:
    """What DESCRIBE FUNCTION EXTENDED says of it, quoted."""
    gives = f"{function.gives[0].upper()}{function.gives[1:]}"
    return literal(f"{gives}. Example: {_in(schema, function.example)}")


def function_rows(schema: str) -> str:
    """VALUES of view `functions`: name, arguments, what it gives, an example."""
    rows = []
    for function in SQL_FUNCTIONS:
        signature = ", ".join(argument.signature for argument in function.arguments)
        words = (function.name, signature, function.gives, function.example)
        rows.append(", ".join(literal(_in(schema, word)) for word in words))
    return ", ".join(f"({row})" for row in rows)


def _in(schema: str, text: str) -> str:
    return text.replace("{schema}", schema)
