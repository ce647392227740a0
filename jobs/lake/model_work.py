"""What models did for a run: seconds, tokens, loads and bytes, summed up from the rows that tasks gave back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from udfs.gme.canaries.environment import merge_loads

_SUMS = (
    "tokens",
    "budget_tokens",
    "input_bytes",
    "prepare_seconds",
    "model_seconds",
    "load_seconds",
)


@dataclass
class ModelWork:
    """Sums over rows of EMBED_OUTPUT (udfs/embed/batches.py).

    `server_seconds` are those in which servers were there for the run: wall seconds of the embedding, times the model
    loads that answered in it. `servers` are those loads, `loaded` the ones that were made for the run, `reports` what
    they say of themselves.
    """

    tokens: float = 0.0
    budget_tokens: float = 0.0
    input_bytes: float = 0.0
    prepare_seconds: float = 0.0
    model_seconds: float = 0.0
    load_seconds: float = 0.0
    server_seconds: float = 0.0
    servers: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    reports: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, made: DataFrame, *, wall_seconds: float) -> ModelWork:
        """Of the rows that an embedding of `wall_seconds` has made."""
        sums = [F.coalesce(F.sum(name), F.lit(0)).cast("double").alias(name) for name in _SUMS]
        loaded = F.collect_set(F.when(F.col("load_seconds") > 0, F.col("server")))
        row: Any = made.agg(
            *sums,
            F.collect_set("server").alias("servers"),
            loaded.alias("loaded"),
            F.collect_set("load_report").alias("reports"),
        ).first()
        work = cls(**{name: row[name] for name in _SUMS})
        work.servers, work.loaded = set(row.servers), set(row.loaded)
        work.reports = set(row.reports)
        work.server_seconds = wall_seconds * len(work.servers)
        return work

    def add(self, other: ModelWork) -> None:
        """Add the work of another step."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            setattr(self, one.name, mine | theirs if isinstance(mine, set) else mine + theirs)

    def environment(self) -> dict[str, str]:
        """What the models were loaded in, and `canary_cosine`; empty where none has answered."""
        return merge_loads(self.reports.copy())

    def cost(self, *, price_per_hour: float | None) -> float | None:
        """Of the models' seconds, where `price_per_hour` of one model is known."""
        return None if price_per_hour is None else self.model_seconds / 3600 * price_per_hour

    def metrics(self, *, price_per_hour: float | None) -> dict[str, float]:
        """As `runs` shows it; empty where no model saw a row. `price_per_hour` is of one model.

        `batch_fill` is the share of the batches' token budgets that was used, `model_busy` the share of their time that
        the models worked.
        """
        if not self.tokens:
            return {}
        found = {
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / self.model_seconds if self.model_seconds else None,
            "batch_fill": self.tokens / self.budget_tokens if self.budget_tokens else None,
            "model_busy": self.model_seconds / self.server_seconds if self.server_seconds else None,
            "model_seconds": self.model_seconds,
            "model_loads": float(len(self.loaded)),
            "load_seconds": self.load_seconds,
            "bytes_read": self.input_bytes,
            "cost": self.cost(price_per_hour=price_per_hour),
        }
        return {name: float(value) for name, value in found.items() if value is not None}
