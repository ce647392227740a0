"""Definitions of the lake's own tables: one place for columns, what they mean, partitioning, properties and constraints."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A Delta table of the lake. `columns` are (name, SQL type, comment); a leading `!` in the type means NOT NULL.

    `identity` is (name, comment). Comments are for whoever reads the tables in SQL: what one row is, units, what null means.
    """

    name: str
    comment: str
    columns: tuple[tuple[str, str, str], ...]
    identity: tuple[str, str] | None = None
    partitioned_by: tuple[str, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def comments(self) -> dict[str, str]:
        """The comment of every column, the identity column's first."""
        own = {name: comment for name, _, comment in self.columns}
        return dict([self.identity] if self.identity else []) | own


VECTORS = Table(
    "vectors",
    "One row for each model and id of the source: its vector, or why it has none. View current_vectors has those of the "
    "released model.",
    (
        ("model_id", "!STRING", "the model, by a hash of weights and settings"),
        ("id", "!STRING", "id of the source row, as text"),
        (
            "content_hash",
            "!STRING",
            "hash of text and picture; of a picture in a file, of its name, size and time",
        ),
        ("status", "!STRING", "ok, or why there is no vector: empty, image_missing, …"),
        ("error", "STRING", "the reason in words; null where status is ok"),
        ("embedding", "ARRAY<FLOAT>", "the vector, of length 1; null where status is not ok"),
        ("run_id", "!STRING", "run that wrote the row, see view runs"),
        ("embedded_at", "!TIMESTAMP", "when the row was written"),
    ),
    identity=("vector_id", "number of the vector; a changed row gets a new and larger one"),
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
    "One row for each finished index of a model's vectors. View index_health compares them with the vectors now.",
    (
        ("index_id", "!STRING", "the index, by a hash of model, version of vectors and plan"),
        ("model_id", "!STRING", "model whose vectors are in it"),
        ("vectors_version", "!BIGINT", "version of table vectors that it was built from"),
        (
            "vectors_table_id",
            "STRING",
            "Delta's id of that table vectors: one that is made again gives the same numbers to other rows",
        ),
        ("root", "!STRING", "folder of its files; ./… lies in the folder of the lake"),
        ("factory", "!STRING", "what kind of index, as faiss says it"),
        ("metric", "!STRING", "ip: inner product, which of unit vectors is the cosine; or l2"),
        ("dim", "!INT", "numbers in a vector"),
        ("rows", "!BIGINT", "rows that a search can find"),
        ("bytes", "!BIGINT", "bytes of all its files, those of the index that it adds to included"),
        ("shards", "!INT", "shards, those of the index that it adds to included"),
        ("params", "!STRING", "JSON: plan, operating points, and base, the index it adds to"),
        ("manifest_sha256", "!STRING", "sha-256 of the file that names all others"),
        ("run_id", "!STRING", "run that built it, see view runs"),
        ("built_at", "!TIMESTAMP", "when it was finished"),
    ),
)

INDEX_SHARDS = Table(
    "index_shards",
    "One row for each file of an index.",
    (
        ("index_id", "!STRING", "the index, see table indexes"),
        ("shard", "!INT", "number of the shard; -1: the list of rows that are gone"),
        ("kind", "!STRING", "base; delta: added to the base; tombstones: rows that are gone"),
        ("path", "!STRING", "the file; ./… lies in the folder of the lake"),
        ("sha256", "!STRING", "sha-256 of the file"),
        ("bytes", "!BIGINT", "bytes of the file"),
        ("rows", "!BIGINT", "rows of the shard, or rows that are gone"),
    ),
)

INDEX_MARKS = Table(
    "index_marks",
    "Who needs an index, or that it goes: one row for each index, or folder that never became one.",
    (
        ("index_id", "!STRING", "the index, see table indexes"),
        (
            "mark",
            "!STRING",
            "held by runs that are about to name it in another table; unused since marked_at; removing, from when its files "
            "may be gone",
        ),
        ("marked_at", "!TIMESTAMP", "when it was marked so"),
        ("run_ids", "!ARRAY<STRING>", "runs that hold, marked or remove it"),
    ),
)

RELEASES = Table(
    "releases",
    "One row for each release, in order: what current_vectors and searches show. The one with the largest release_id is "
    "current; rows are only added. View model_history says how long each was.",
    (
        ("release_id", "!BIGINT", "1, 2, 3, …"),
        ("model_id", "!STRING", "model that it shows"),
        ("vectors_version", "!BIGINT", "version of table vectors that the index was built from"),
        ("index_id", "STRING", "index that searches use"),
        ("released_at", "!TIMESTAMP", "when it was released"),
        ("by_run", "!STRING", "run that released it, see view runs"),
        (
            "note",
            "STRING",
            "what whoever released it said; of a rollback, from and to which release",
        ),
    ),
)

GATE_DECISIONS = Table(
    "gate_decisions",
    "One row for each decision of refresh-lake whether a model or an index may be released, and for each release that "
    "somebody made all the same.",
    (
        ("run_id", "!STRING", "run that decided, see view runs"),
        ("model_id", "!STRING", "model that was decided on"),
        ("index_id", "STRING", "index that was decided on; null: the model, before its vectors"),
        ("decided_at", "!TIMESTAMP", "when it was decided"),
        ("passed", "!BOOLEAN", "whether every check passed"),
        ("forced", "!BOOLEAN", "whether somebody released it all the same"),
        ("checks", "!STRING", "JSON: name, value, limit, passed, said of each check"),
        ("note", "STRING", "why it was forced"),
    ),
)

# A row where a run begins to write, one at every beat of a run that holds a claim, and one where it ends: appends never
# conflict, so that two runs may end at once. Jobs read the events, as a lake opened for a job's own use has no views.
RUN_EVENTS = Table(
    "run_events",
    "What runs said while they worked, several rows a run. View runs has one row a run.",
    (
        ("run_id", "!STRING", "the run"),
        ("job", "!STRING", "command, with _ for -"),
        ("started_at", "!TIMESTAMP", "when the run began"),
        ("ended_at", "TIMESTAMP", "when it ended; null: it has not"),
        ("status", "!STRING", "running, succeeded, failed, or killed"),
        ("settings", "!STRING", "JSON: all settings that it was given"),
        ("model_id", "STRING", "model that it worked with"),
        ("model_name", "STRING", "name of that model in the registry"),
        ("model_version", "STRING", "version of that model in the registry"),
        ("source_table", "STRING", "source that it read; ./… lies in the folder of the lake"),
        ("source_version", "BIGINT", "version of the source that it read"),
        (
            "source_key",
            "STRING",
            "digest of what must be equal for a run to go on from where another ended",
        ),
        (
            "source_commit",
            "STRING",
            "time of the commit that made source_version: names its history",
        ),
        ("vectors_version", "BIGINT", "version of table vectors at its end"),
        ("mlflow_run_id", "STRING", "its run in MLflow"),
        ("counts", "MAP<STRING, BIGINT>", "rows by outcome; bytes where the name says so"),
        (
            "seconds",
            "MAP<STRING, DOUBLE>",
            "wall seconds by stage; tasks.… are summed over tasks",
        ),
        (
            "environment",
            "MAP<STRING, STRING>",
            "versions and device of the loads of the model, and canary_cosine, the lowest, or unchecked",
        ),
        ("error", "STRING", "why it failed"),
        ("claim", "BIGINT", "number of the claim that it holds, so that others wait"),
        ("holder", "STRING", "machine and process that it runs in"),
        ("beat_at", "TIMESTAMP", "when it last said that it works"),
        (
            "metrics",
            "MAP<STRING, DOUBLE>",
            "figures that are no rows: tokens, bytes, shares, seconds, by name",
        ),
    ),
)

EVALUATIONS = Table(
    "evaluations",
    "How well models retrieve: one row for each metric of a task, and for each line of the averages.",
    (
        ("evaluation_id", "!STRING", "the evaluation: one model, all tasks"),
        ("run_id", "!STRING", "run that evaluated, see view runs"),
        ("model_id", "!STRING", "model that was evaluated"),
        ("level", "!STRING", "what the line is of: task, or the average over what name says"),
        ("name", "!STRING", "the task, or what was averaged over"),
        ("dataset", "STRING", "dataset of the task; null: an average"),
        ("pair", "STRING", "modalities of query and document; null: an average over several"),
        ("class", "STRING", "class of tasks; null: over all classes"),
        ("metric", "!STRING", "the metric, such as ndcg@10"),
        ("main", "!BOOLEAN", "whether it is a line of the headline table"),
        ("value", "!DOUBLE", "the metric, 0 to 1"),
        ("low", "!DOUBLE", "lower end of the 95 % interval of value"),
        ("high", "!DOUBLE", "upper end of the 95 % interval of value"),
        ("datasets", "!INT", "datasets in the line"),
        ("queries", "!BIGINT", "queries that were counted"),
        ("documents", "BIGINT", "documents that were ranked; null: an average"),
        ("rejected_documents", "BIGINT", "documents that got no vector; null: an average"),
        ("rejected_queries", "BIGINT", "queries that got no vector; null: an average"),
        ("unranked_queries", "BIGINT", "queries that found nothing; null: an average"),
        ("unjudged_queries", "BIGINT", "queries without a right answer; null: an average"),
        ("search", "!STRING", "exact, or the index that ranked"),
        ("split", "STRING", "split of the dataset; null: an average, or it has none"),
        ("evaluated_at", "!TIMESTAMP", "when it was recorded"),
    ),
)

EVALUATED_QUERIES = Table(
    "evaluated_queries",
    "One row for each query of an evaluation.",
    (
        ("evaluation_id", "!STRING", "the evaluation, see table evaluations"),
        ("task", "!STRING", "task that the query is of"),
        ("query_id", "!STRING", "the query, by the id it has in its dataset"),
        ("metrics", "!MAP<STRING, DOUBLE>", "its metrics by name, 0 to 1"),
        ("first_hits", "!ARRAY<STRING>", "ids of the first documents found, best first"),
    ),
)

RECALLS = Table(
    "recalls",
    "How much of exact search an index finds: one row for each operating point and group of queries that was measured.",
    (
        ("index_id", "!STRING", "index that was measured, see table indexes"),
        ("model_id", "!STRING", "its model"),
        ("vectors_version", "!BIGINT", "version of table vectors, which was searched exactly"),
        ("query_set", "!STRING", "the queries, by a hash of their vectors"),
        ("origin", "!STRING", "table of queries, or held_out rows of the vectors"),
        ("part", "!STRING", "all; unseen: queries that a choice by tune-index has not seen"),
        ("kind", "!STRING", "any, or modalities of the queries; row: held-out rows"),
        ("segment", "STRING", "column that queries are grouped by; null: all of the kind"),
        ("segment_value", "STRING", "value of that column; null: all of the kind"),
        ("queries", "!BIGINT", "queries that were counted"),
        ("k", "!INT", "rows that were asked for"),
        ("nprobe", "!INT", "lists of the index that were read for a query"),
        ("k_factor", "!INT", "candidates for each row asked for"),
        ("reranked", "!BOOLEAN", "whether candidates were ranked again by exact vectors"),
        ("recall", "!DOUBLE", "share of the exact k nearest rows that was found, 0 to 1"),
        ("recall_low", "!DOUBLE", "lower end of the 95 % interval of recall"),
        ("recall_high", "!DOUBLE", "upper end of the 95 % interval of recall"),
        (
            "first",
            "!DOUBLE",
            "share of queries whose nearest row is among the k found, 0 to 1",
        ),
        ("first_low", "!DOUBLE", "lower end of the 95 % interval of first"),
        ("first_high", "!DOUBLE", "upper end of the 95 % interval of first"),
        ("ms_median", "!DOUBLE", "milliseconds of a query, the median"),
        ("ms_p95", "!DOUBLE", "milliseconds of a query, 95 % took less"),
        ("run_id", "!STRING", "run that measured, see view runs"),
        ("measured_at", "!TIMESTAMP", "when it was recorded"),
    ),
)

ABLATIONS = Table(
    "ablations",
    "What strategies of training come to: one row for each training and score.",
    (
        ("run_id", "!STRING", "run of ablate-training, see view runs"),
        ("strategy", "!STRING", "name of the strategy"),
        ("against", "STRING", "strategy that it is compared with; null: none"),
        ("settings", "!STRING", "JSON: what the strategy changes in section train"),
        ("seed", "!INT", "seed of the training"),
        ("scores_key", "!STRING", "the training, by a hash: the same one is done once"),
        (
            "work",
            "!STRING",
            "folder of the training, with the scores of every query; ./… lies in the folder of the lake",
        ),
        ("reused", "!BOOLEAN", "whether an earlier run had trained it"),
        ("steps", "!BIGINT", "steps of the training"),
        ("seconds", "!DOUBLE", "wall seconds of the training"),
        ("task", "!STRING", "drawn/DIRECTION or validation/DIRECTION, and its parts"),
        ("metric", "!STRING", "the metric, such as ndcg@10"),
        ("mean", "!DOUBLE", "mean of the metric over queries, 0 to 1"),
        ("low", "!DOUBLE", "lower end of the 95 % interval of mean"),
        ("high", "!DOUBLE", "upper end of the 95 % interval of mean"),
        ("queries", "!BIGINT", "queries that were counted"),
        ("ended_at", "!TIMESTAMP", "when it was recorded"),
    ),
)

SYNTHESIS_ANSWERS = Table(
    "synthesis_answers",
    "One row for each request to a language or picture model by synthesize-pairs: each is asked once.",
    (
        ("request_id", "!STRING", "the request, by a hash of all that decides the answer"),
        ("passage_id", "!STRING", "passage that it was first asked for"),
        ("step", "!STRING", "step that it is of, such as query or entity"),
        ("prompt_version", "!STRING", "version of the prompt"),
        ("model_name", "!STRING", "model that was asked"),
        ("seed", "!INT", "seed that was given"),
        ("status", "!STRING", "ok, or why there is no answer"),
        ("error", "STRING", "the reason in words; null where status is ok"),
        ("fields", "STRING", "JSON: the fields of the answer"),
        ("raw", "ARRAY<STRING>", "what the model said, once for each time it was asked"),
        ("picture", "STRING", "picture that was made, a file; ./… lies in the folder of the lake"),
        ("prompt_tokens", "!BIGINT", "tokens of the requests, as the server counts them"),
        ("answer_tokens", "!BIGINT", "tokens of the answers, as the server counts them"),
        ("cost", "!DOUBLE", "cost, in the currency of settings price_prompt and price_answer"),
        ("tries", "!INT", "times it was asked"),
        ("seconds", "!DOUBLE", "wall seconds of the requests"),
        ("run_id", "!STRING", "run that asked, see view runs"),
        ("answered_at", "!TIMESTAMP", "when it was answered"),
    ),
)

SYNTHESIS_REJECTS = Table(
    "synthesis_rejects",
    "What synthesize-pairs left out: one row for each passage, or pair of it.",
    (
        ("run_id", "!STRING", "run that left it out, see view runs"),
        ("passage_id", "!STRING", "the passage"),
        ("step", "!STRING", "step that left it out"),
        ("direction", "STRING", "direction of the pair, such as t2it; null: all of the passage"),
        ("domain", "STRING", "domain of its entity; null: not known by then"),
        ("reason", "!STRING", "rule that it broke"),
        ("detail", "STRING", "what of it broke the rule"),
        ("request_id", "STRING", "request it came from, see table synthesis_answers"),
        ("rejected_at", "!TIMESTAMP", "when it was recorded"),
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
