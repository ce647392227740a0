"""One run of a job: its events, from which view `runs` is made, its MLflow run, counts and seconds by stage."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyspark.sql import DataFrame, Row

from jobs.driver.progress import described_jobs
from jobs.driver.task_errors import failure
from jobs.lake.conflicts import again_on_conflict
from jobs.lake.holder import Holder
from jobs.lake.lake import Lake, now
from jobs.lake.model_work import ModelWork
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.sql import identifier
from udfs.errors import LakeError
from udfs.gme.canaries.environment import UNCHECKED

_OF_STEPS = {"bytes_read", "bytes_written"}  # metrics that a run sums up over its steps


@dataclass
class Run:
    """What a job reports while it works. `counts` are rows (bytes where the name says so), `seconds` by stage: wall,
    or of tasks.

    `settings` are all that the job was given, as JSON: they are recorded, a stage is told its own. `work` is what models
    did for it, at `price_per_hour` of one of them; `metrics` are all other figures that are no rows.
    """

    lake: Lake
    job: str
    settings: str
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])
    started_at: datetime = field(default_factory=now)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    model: ResolvedModel | None = None
    source_table: str | None = None
    source_version: int | None = None
    source_key: str | None = None
    source_commit: str | None = None
    vectors_version: int | None = None
    claim: int | None = None
    holder: str = field(default_factory=lambda: str(Holder.this()))
    mlflow_run_id: str | None = None
    recorded: bool = False
    work: ModelWork = field(default_factory=ModelWork)
    price_per_hour: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    registry: Registry | None = None  # in whose MLflow the lake's runs are
    # For MLflow alone: tags, and (table, version, context) read beside the source.
    tags: dict[str, str] = field(default_factory=dict)
    inputs: list[tuple[str, int, str]] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall seconds of a block to `seconds[name]`; its Spark jobs are called after run and stage."""
        start = time.perf_counter()
        called = f"gme-lake {self.job.replace('_', '-')}: {name} (run {self.run_id})"
        try:
            with described_jobs(called):
                yield
        finally:
            self.add_seconds(name, time.perf_counter() - start)

    def add_seconds(self, name: str, seconds: float) -> None:
        """Add to a stage's seconds."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def add_metric(self, name: str, value: float) -> None:
        """Add to a figure that is no row count."""
        self.metrics[name] = self.metrics.get(name, 0.0) + value

    def add_step(self, step: Run) -> None:
        """Count in what another run did as a step of this one: its model work, and the bytes it read and wrote."""
        self.work.add(step.work)
        for name in _OF_STEPS & step.metrics.keys():
            self.add_metric(name, step.metrics[name])

    def measures(self) -> dict[str, float]:
        """All figures that are no rows, those of the models included."""
        return self.work.metrics(price_per_hour=self.price_per_hour) | self.metrics

    def begin(self, *, txn: tuple[str, int] | None = None) -> None:
        """Record the run as running, once: a run that is killed later then still has a row that its vectors join to.

        Every write does so first. A stage that works long before it writes says it here, for who looks at `runs`; a
        claim is taken by it, with `txn` as of `Lake.append`.
        """
        if not self.recorded:
            self.lake.append("run_events", [self._row("running")], txn=txn)
            self.recorded = True

    def append(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows to a lake table, given as mappings of column to value."""
        self.begin()
        self.lake.append(table, rows)

    def insert_new(self, table: str, row: Mapping[str, Any], *, key: str) -> bool:
        """Append one row unless the table has its key already; returns whether it was inserted.

        Unlike an append it conflicts with another run that inserts at the same time, and then looks again.
        """
        column, rows = identifier(key), self.lake.frame_of(table, [row])
        then = "WHEN NOT MATCHED THEN INSERT *"
        made = self.merge(table, rows, on=f"t.{column} = s.{column}", then=then)
        return int(made.num_inserted_rows) > 0

    def merge(self, table: str, rows: DataFrame, *, on: str, then: str) -> Row:
        """MERGE `rows` (s) into a lake table (t) under the condition `on`; `then` are its WHEN clauses. Delta's counts.

        Made again where another commit came between, so it has to decide by what the table then holds.
        """
        self.begin()
        spark = rows.sparkSession
        view = f"gme_{table}_{self.run_id}"  # views are the session's, and two runs may share one
        rows.createOrReplaceTempView(identifier(view))
        statement = (
            f"MERGE INTO {self.lake.name(table)} t USING {identifier(view)} s ON {on} {then}"
        )
        try:
            counts = again_on_conflict(spark.sql)(statement).first()
        finally:
            spark.catalog.dropTempView(view)
        if counts is None:
            raise LakeError(
                f"a MERGE into {self.lake.name(table)} has told nothing of what it did; run again, which looks at what is "
                "there"
            )
        return counts

    def beat(self) -> None:
        """Record that the run still works, and its counts so far."""
        self.lake.append("run_events", [self._row("running")])

    def end(self, status: str, *, error: str | None = None) -> None:
        """Record how the run ended."""
        self.lake.append("run_events", [self._row(status, error=error)])

    def log_to(self, registry: Registry) -> None:
        """Log what the run did to the active MLflow run."""
        model = self.model
        of_model = (
            {"model_id": model.spec.model_id, "model_version": model.version} if model else {}
        )
        counts = {
            k if k.endswith("bytes") else f"rows.{k}": float(v) for k, v in self.counts.items()
        }
        seconds = {f"seconds.{k}": float(v) for k, v in self.seconds.items()}
        source = (
            [(self.source_table, self.source_version, "source")]
            if self.source_table and self.source_version is not None
            else []
        )
        environment = self.work.environment()
        lowest = environment.get("canary_cosine", UNCHECKED)
        canaries = {} if lowest == UNCHECKED else {"canary_cosine": float(lowest)}
        registry.log_run(
            tags={
                "run_id": self.run_id,
                "job": self.job,
                **self.tags,
                **of_model,
                **{f"environment.{name}": value for name, value in environment.items()},
            },
            metrics=counts | seconds | canaries | self.measures(),
            tables=[*source, *self.inputs],
        )

    def _row(self, status: str, *, error: str | None = None) -> dict[str, object]:
        model = self.model
        counts, seconds = (
            self.counts.copy(),
            self.seconds.copy(),
        )  # a beat reads while the job counts
        return {
            "run_id": self.run_id,
            "job": self.job,
            "started_at": self.started_at,
            "ended_at": None if status == "running" else now(),
            "status": status,
            "settings": self.settings,
            "model_id": model.spec.model_id if model else None,
            "model_name": model.name if model else None,
            "model_version": model.version if model else None,
            "source_table": self.lake.relative(self.source_table) if self.source_table else None,
            "source_version": self.source_version,
            "source_key": self.source_key,
            "source_commit": self.source_commit,
            "vectors_version": self.vectors_version,
            "mlflow_run_id": self.mlflow_run_id,
            "counts": {k: int(v) for k, v in counts.items()},
            "seconds": {k: round(float(v), 3) for k, v in seconds.items()},
            "environment": self.work.environment() or None,
            "metrics": {k: float(v) for k, v in self.measures().items()},
            "error": error,
            "claim": self.claim,
            "holder": self.holder,
            "beat_at": now(),
        }


@contextmanager
def open_run(lake: Lake, registry: Registry, *, job: str) -> Iterator[Run]:
    """A run by the registry's settings, recorded in `runs` and MLflow however it ends; the block may set status by
    raising.
    """
    settings = registry.settings
    price = settings.plan.price_per_hour
    run = Run(lake, job, settings.to_json(), price_per_hour=price, registry=registry)
    with registry.open_run(job) as run.mlflow_run_id:
        try:
            with record_end(run):
                yield run
        finally:
            run.log_to(registry)


@contextmanager
def record_end(run: Run) -> Iterator[Run]:
    """Record in `runs` how a block ends that does the work of `run`."""
    start = time.perf_counter()
    try:
        yield run
    except BaseException as error:
        run.add_seconds("total", time.perf_counter() - start)
        run.end("failed", error=failure(error)[:4000])
        raise
    run.add_seconds("total", time.perf_counter() - start)
    run.end("succeeded")
