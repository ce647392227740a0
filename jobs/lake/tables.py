"""Definitions of the lake's own tables: one place for columns, partitioning, properties and constraints."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A Delta table of the lake. `columns` are (name, SQL type); a leading `!` in the type means NOT NULL."""

    name: str
    columns: tuple[tuple[str, str], ...]
    identity: str | None = None
    partitioned_by: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)


VECTORS = Table(
    "vectors",
    (
        ("model_id", "!STRING"),
        ("id", "!STRING"),
        ("content_hash", "!STRING"),
        ("status", "!STRING"),
        ("error", "STRING"),
        ("embedding", "ARRAY<FLOAT>"),
        ("run_id", "!STRING"),
        ("embedded_at", "!TIMESTAMP"),
    ),
    identity="vector_id",
    partitioned_by=("model_id",),
    properties={
        "delta.enableChangeDataFeed": "true",
        "delta.enableDeletionVectors": "true",
        # Statistics of long arrays cost time and are never used; the first columns are what reads skip by.
        "delta.dataSkippingNumIndexedCols": "6",
        "delta.constraints.ok_has_embedding": "status <> 'ok' OR embedding IS NOT NULL",
    },
)

INDEXES = Table(
    "indexes",
    (
        ("index_id", "!STRING"),
        ("model_id", "!STRING"),
        ("vectors_version", "!BIGINT"),
        ("root", "!STRING"),  # ./indexes/INDEX_ID: paths in the lake are named from its root
        ("factory", "!STRING"),
        ("metric", "!STRING"),
        ("dim", "!INT"),
        ("rows", "!BIGINT"),
        ("bytes", "!BIGINT"),
        ("shards", "!INT"),
        ("params", "!STRING"),
        ("manifest_sha256", "!STRING"),
        ("run_id", "!STRING"),
        ("built_at", "!TIMESTAMP"),
    ),
)

INDEX_SHARDS = Table(
    "index_shards",
    (
        ("index_id", "!STRING"),
        ("shard", "!INT"),
        ("kind", "!STRING"),
        ("path", "!STRING"),
        ("sha256", "!STRING"),
        ("bytes", "!BIGINT"),
        ("rows", "!BIGINT"),
    ),
)

# Who needs an index, or that it goes: one row an index (or a folder that never became one). `held` by the runs that
# are about to name it in another table, `unused` since marked_at, `removing` from when its files may be gone.
INDEX_MARKS = Table(
    "index_marks",
    (
        ("index_id", "!STRING"),
        ("mark", "!STRING"),
        ("marked_at", "!TIMESTAMP"),
        ("run_ids", "!ARRAY<STRING>"),
    ),
)

RELEASES = Table(
    "releases",
    (
        ("release_id", "!BIGINT"),
        ("model_id", "!STRING"),
        ("vectors_version", "!BIGINT"),
        ("index_id", "STRING"),
        ("released_at", "!TIMESTAMP"),
        ("by_run", "!STRING"),
        ("note", "STRING"),
    ),
)

# What refresh-lake measured of a model (no index_id: before its vectors were made) or an index, and what came of it;
# `forced` where somebody released it all the same.
GATE_DECISIONS = Table(
    "gate_decisions",
    (
        ("run_id", "!STRING"),
        ("model_id", "!STRING"),
        ("index_id", "STRING"),
        ("decided_at", "!TIMESTAMP"),
        ("passed", "!BOOLEAN"),
        ("forced", "!BOOLEAN"),
        ("checks", "!STRING"),  # JSON: name, value, limit, passed, said
        ("note", "STRING"),
    ),
)

# A row where a run begins to write, one at every beat of a run that holds a claim, and one where it ends: appends never
# conflict, so that two runs may end at once.
# View `runs` has one row a run; jobs read the events, as a lake opened for a job's own use has no views.
RUN_EVENTS = Table(
    "run_events",
    (
        ("run_id", "!STRING"),
        ("job", "!STRING"),
        ("started_at", "!TIMESTAMP"),
        ("ended_at", "TIMESTAMP"),
        ("status", "!STRING"),
        ("settings", "!STRING"),
        ("model_id", "STRING"),
        ("model_name", "STRING"),
        ("model_version", "STRING"),
        ("source_table", "STRING"),  # ./… where it lies in the lake
        ("source_version", "BIGINT"),
        (
            "source_key",
            "STRING",
        ),  # digest of what must be equal for a run to go on from where another ended
        (
            "source_commit",
            "STRING",
        ),  # time of the commit that made source_version: names its history
        ("vectors_version", "BIGINT"),  # of `vectors`, at the end
        ("mlflow_run_id", "STRING"),
        ("counts", "MAP<STRING, BIGINT>"),
        ("seconds", "MAP<STRING, DOUBLE>"),
        # Versions and device of the model's loads, and canary_cosine, the lowest (or "unchecked"); see environment.py.
        ("environment", "MAP<STRING, STRING>"),
        ("error", "STRING"),
        ("claim", "BIGINT"),  # number of the claim that the run holds, see claims.py
        ("holder", "STRING"),
        ("beat_at", "TIMESTAMP"),
        ("metrics", "MAP<STRING, DOUBLE>"),  # figures that are no rows: see ModelWork.metrics
    ),
)

# One row per metric of a task, and per line of the averages; `main` marks the lines of the headline table.
EVALUATIONS = Table(
    "evaluations",
    (
        ("evaluation_id", "!STRING"),
        ("run_id", "!STRING"),
        ("model_id", "!STRING"),
        ("level", "!STRING"),
        ("name", "!STRING"),
        ("dataset", "STRING"),
        ("pair", "STRING"),
        ("class", "STRING"),
        ("metric", "!STRING"),
        ("main", "!BOOLEAN"),
        ("value", "!DOUBLE"),
        ("low", "!DOUBLE"),
        ("high", "!DOUBLE"),
        ("datasets", "!INT"),
        ("queries", "!BIGINT"),
        ("documents", "BIGINT"),
        ("rejected_documents", "BIGINT"),
        ("rejected_queries", "BIGINT"),
        ("unranked_queries", "BIGINT"),
        ("unjudged_queries", "BIGINT"),
        ("search", "!STRING"),
        ("split", "STRING"),
        ("evaluated_at", "!TIMESTAMP"),
    ),
)

EVALUATED_QUERIES = Table(
    "evaluated_queries",
    (
        ("evaluation_id", "!STRING"),
        ("task", "!STRING"),
        ("query_id", "!STRING"),
        ("metrics", "!MAP<STRING, DOUBLE>"),
        ("first_hits", "!ARRAY<STRING>"),
    ),
)

RECALLS = Table(
    "recalls",
    (
        ("index_id", "!STRING"),
        ("model_id", "!STRING"),
        ("vectors_version", "!BIGINT"),
        ("query_set", "!STRING"),  # content hash of the query vectors
        ("origin", "!STRING"),  # table, held_out
        ("part", "!STRING"),  # all; unseen: the queries that a choice by tune_index has not seen
        ("kind", "!STRING"),  # any, or modalities of the queries; row: held-out rows
        ("segment", "STRING"),  # column, or null for all queries of the kind
        ("segment_value", "STRING"),
        ("queries", "!BIGINT"),
        ("k", "!INT"),
        ("nprobe", "!INT"),
        ("k_factor", "!INT"),
        ("reranked", "!BOOLEAN"),
        ("recall", "!DOUBLE"),
        ("recall_low", "!DOUBLE"),
        ("recall_high", "!DOUBLE"),
        ("first", "!DOUBLE"),  # share of queries whose nearest row is among the k found
        ("first_low", "!DOUBLE"),
        ("first_high", "!DOUBLE"),
        ("ms_median", "!DOUBLE"),
        ("ms_p95", "!DOUBLE"),
        ("run_id", "!STRING"),
        ("measured_at", "!TIMESTAMP"),
    ),
)

ABLATIONS = Table(
    "ablations",
    (
        ("run_id", "!STRING"),
        ("strategy", "!STRING"),
        ("against", "STRING"),
        ("settings", "!STRING"),  # JSON: what the strategy changes in section train
        ("seed", "!INT"),
        ("scores_key", "!STRING"),  # the same one: the same training, done once
        (
            "work",
            "!STRING",
        ),  # its folder (./… in the lake), with the scores of every query in scores.json
        ("reused", "!BOOLEAN"),
        ("steps", "!BIGINT"),
        ("seconds", "!DOUBLE"),
        ("task", "!STRING"),  # drawn/DIRECTION or validation/DIRECTION, and its parts
        ("metric", "!STRING"),
        ("mean", "!DOUBLE"),
        ("low", "!DOUBLE"),
        ("high", "!DOUBLE"),
        ("queries", "!BIGINT"),
        ("ended_at", "!TIMESTAMP"),
    ),
)

# Every answer that a model gave to synthesize-pairs, asked once: `request_id` is the hash of all that decides it. A
# picture is a file (./… in the lake); `raw` is what the model said, once for each time it was asked.
SYNTHESIS_ANSWERS = Table(
    "synthesis_answers",
    (
        ("request_id", "!STRING"),
        ("passage_id", "!STRING"),  # that it was first asked for
        ("step", "!STRING"),
        ("prompt_version", "!STRING"),
        ("model_name", "!STRING"),
        ("seed", "!INT"),
        ("status", "!STRING"),
        ("error", "STRING"),
        ("fields", "STRING"),  # JSON
        ("raw", "ARRAY<STRING>"),
        ("picture", "STRING"),
        ("prompt_tokens", "!BIGINT"),
        ("answer_tokens", "!BIGINT"),
        ("cost", "!DOUBLE"),
        ("tries", "!INT"),
        ("seconds", "!DOUBLE"),
        ("run_id", "!STRING"),
        ("answered_at", "!TIMESTAMP"),
    ),
)

# What a run of synthesize-pairs left out: of a passage all (no direction), or one pair.
SYNTHESIS_REJECTS = Table(
    "synthesis_rejects",
    (
        ("run_id", "!STRING"),
        ("passage_id", "!STRING"),
        ("step", "!STRING"),
        ("direction", "STRING"),
        ("domain", "STRING"),
        ("reason", "!STRING"),
        ("detail", "STRING"),
        ("request_id", "STRING"),
        ("rejected_at", "!TIMESTAMP"),
    ),
)

TABLES = (
    VECTORS,
    INDEXES,
    INDEX_SHARDS,
    INDEX_MARKS,
    RELEASES,
    GATE_DECISIONS,
    RUN_EVENTS,
    EVALUATIONS,
    EVALUATED_QUERIES,
    RECALLS,
    ABLATIONS,
    SYNTHESIS_ANSWERS,
    SYNTHESIS_REJECTS,
)
