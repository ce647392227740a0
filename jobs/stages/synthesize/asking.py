"""Requests of a step answered exactly once: what is kept is not asked again, and a run spends what it may at most."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from jobs.driver.on_executors import on_executors
from jobs.driver.task_errors import clear_task_errors
from jobs.lake.claims import Claim
from jobs.lake.lake import Lake, now
from jobs.lake.runs import Run
from jobs.settings.synthesize import SynthesizeSettings
from udfs import storage
from udfs.errors import BudgetError, ServingError, SettingsError
from udfs.synthesis.asking import ANSWERS, IN_VAIN, REQUEST_INPUT, ask_batches, request_batches
from udfs.synthesis.spec import AskSpec, EndpointSpec, RequestSpec, Step

log = logging.getLogger("gme_lake")

_REQUESTS_PER_TASK = 4  # for each that an executor has under way at a time
_MOST_TASKS = 512


@dataclass
class Spent:
    """What a run has used so far."""

    tokens: int = 0
    cost: float = 0.0
    requests: int = 0
    seconds: float = 0.0  # of requests, over all that were under way at a time


@dataclass
class Asking:
    """What the steps of a run share: where answers are kept, and what may be spent. `spent` is by step."""

    lake: Lake
    run: Run
    held: Claim
    settings: SynthesizeSettings
    staging: str
    spent: dict[str, Spent] = field(default_factory=dict)

    def ask(self, step: Step, rows: DataFrame) -> DataFrame:
        """(passage_id, request_id, status, error, fields, picture) for each REQUEST_INPUT row, asked where nobody has.

        Raises BudgetError where the rest would cost more than is left, with what was answered kept; ServingError and
        SettingsError as `ask_batches` does.
        """
        folder, endpoint = f"{self.staging}/{step}", self._endpoint(step)
        spec = RequestSpec(
            step, endpoint, tuple(self.settings.domains), self.settings.passage_chars
        )
        wanted = rows.select(*(_column(rows, name) for name in REQUEST_INPUT.names))
        requests = on_executors(wanted, request_batches, spec=spec).write(f"{folder}/requests")
        failed = self._ask_pending(step, requests, folder=folder)
        answers = self.lake.read("synthesis_answers").where(F.col("step") == step)
        answers = answers.withColumn("picture", self.lake.resolve_column("picture"))
        taken = ("request_id", "status", "error", "fields", "picture")
        found = answers.select(*taken).unionByName(failed.select(*taken))
        return requests.select("passage_id", "request_id").join(found, "request_id", "left")

    def _ask_pending(self, step: Step, requests: DataFrame, *, folder: str) -> DataFrame:
        """Ask what no answer is kept for, commit by commit; the ANSWERS rows that nobody answered."""
        known = self.lake.read("synthesis_answers").select("request_id")
        pending = requests.dropDuplicates(["request_id"]).join(known, "request_id", "left_anti")
        with clear_task_errors():
            pending.write.mode("overwrite").parquet(f"{folder}/pending")
        pending = self.lake.spark.read.parquet(f"{folder}/pending")
        count = pending.count()
        self.run.counts[f"{step}_asked"] += count
        none = self.lake.spark.createDataFrame([], ANSWERS.ddl)
        if not count:
            return none
        log.info("%s: %d requests to ask", step, count)
        per_task = _REQUESTS_PER_TASK * self.settings.concurrency
        most = min(count, self.settings.requests_per_commit)
        tasks = min(_MOST_TASKS, math.ceil(most / per_task))
        chunks = math.ceil(count / self.settings.requests_per_commit)
        number = F.conv(F.substring("request_id", 1, 8), 16, 10).cast("bigint") % chunks
        for chunk in range(chunks):
            for part, rows in enumerate(self._affordable(step, pending.where(number == chunk))):
                made = self._ask_rows(
                    step, rows.repartition(tasks), folder=f"{folder}/answers/{chunk}-{part}"
                )
                self._keep(step, made)
        made = self.lake.spark.read.schema(ANSWERS.ddl).parquet(f"{folder}/answers/*")
        failed = made.where(F.col("status").startswith(IN_VAIN))
        return failed.withColumn("status", F.expr(f"substring(status, {len(IN_VAIN) + 2})"))

    def _affordable(self, step: Step, rows: DataFrame) -> Iterator[DataFrame]:
        """The rows, in as many parts as it takes for none to be able to cost more than is left."""
        settings = self.settings
        if settings.budget_tokens is None and settings.budget_cost is None:
            yield rows
            return
        bounds = rows.select("request_id", "prompt_bound", "answer_bound").collect()
        while bounds:
            tokens, cost, taken = self._left_tokens(), self._left_cost(), 0
            for row in bounds:
                tokens -= row.prompt_bound + row.answer_bound
                pictures = int(step == "picture")
                prices = settings.prices()
                cost -= prices.cost(row.prompt_bound, row.answer_bound, pictures=pictures)
                if tokens < 0 or cost < 0:
                    break
                taken += 1
            if not taken:
                raise BudgetError(self._tell_budget(step))
            ids = [row.request_id for row in bounds[:taken]]
            yield rows.where(F.col("request_id").isin(ids))
            bounds = bounds[taken:]

    def _ask_rows(self, step: Step, rows: DataFrame, *, folder: str) -> DataFrame:
        settings = self.settings
        spec = AskSpec(
            endpoint=self._endpoint(step),
            journal=self.lake.folder("synthesis", "journal"),
            pictures=pictures_folder(self.lake),
            domains=tuple(settings.domains),
            prices=settings.prices(),
            concurrency=settings.concurrency,
        )
        self.held.require()
        return on_executors(rows, ask_batches, spec=spec).write(folder)

    def _keep(self, step: Step, made: DataFrame) -> None:
        """Commit the answers, then forget the files that kept them until now."""
        self.held.require()
        self.run.begin()
        given = made.where(~F.col("status").startswith(IN_VAIN))
        given = given.withColumns(
            {
                "picture": relative_column(self.lake, "picture"),
                "run_id": F.lit(self.run.run_id),
                "answered_at": F.lit(now()),
            }
        )
        names = self.lake.row_schema("synthesis_answers").names
        writer = given.select(*names).coalesce(1).write.format("delta").mode("append")
        with clear_task_errors():
            writer.saveAsTable(self.lake.name("synthesis_answers"))
        storage.remove_folder(self.lake.folder("synthesis", "journal"))
        self._count(step, made)

    def _count(self, step: Step, made: DataFrame) -> None:
        row = made.agg(
            F.count(F.lit(1)).alias("requests"),
            F.sum(F.col("prompt_tokens") + F.col("answer_tokens")).alias("tokens"),
            *(F.sum(name).alias(name) for name in ("cost", "seconds")),
            F.count_if(F.col("status").startswith(IN_VAIN)).alias("in_vain"),
            F.max("error").alias("last"),
        ).first()
        if row is None or not row.requests:
            return
        spent = self.spent.setdefault(step, Spent())
        spent.requests += int(row.requests)
        spent.tokens += int(row.tokens)
        spent.cost += float(row.cost)
        spent.seconds += float(row.seconds)
        self.run.counts["tokens"] += int(row.tokens)
        self.run.counts[f"{step}_in_vain"] += int(row.in_vain)
        self.run.metrics["cost"] = sum(each.cost for each in self.spent.values())
        # Tasks are many and short: none of them may see as many as one would give up after.
        if row.in_vain == row.requests >= AskSpec.give_up_after:
            raise ServingError(
                f"{self._endpoint(step).url} did not answer any of {row.requests:,} requests of step {step} "
                f"({row.last}). What was answered before is kept; run again when it serves"
            )

    def _left_tokens(self) -> float:
        used = sum(spent.tokens for spent in self.spent.values())
        given = self.settings.budget_tokens
        return math.inf if given is None else given - used

    def _left_cost(self) -> float:
        used = sum(spent.cost for spent in self.spent.values())
        given = self.settings.budget_cost
        return math.inf if given is None else given - used

    def _tell_budget(self, step: Step) -> str:
        tokens = sum(spent.tokens for spent in self.spent.values())
        cost = sum(spent.cost for spent in self.spent.values())
        asked = sum(spent.requests for spent in self.spent.values())
        settings = self.settings
        return (
            f"the next request of step {step} could cost more than is left of synthesize.budget_tokens="
            f"{settings.budget_tokens} and synthesize.budget_cost={settings.budget_cost}: {asked:,} requests of this run "
            f"used {tokens:,} tokens and cost {cost:.4f}. Their answers are kept; run again, with more, to go on"
        )

    def _endpoint(self, step: Step) -> EndpointSpec:
        settings = self.settings
        made = settings.picture_model() if step == "picture" else settings.language_model()
        name = "image_model" if step == "picture" else "model"
        for what, value in (("url", made.url), (name, made.model)):
            if not value:
                raise SettingsError(
                    f"synthesize.{what} is not set: give the model that answers step {step}, or start one with "
                    "synthesize.server"
                )
        return replace(made, url=made.url.rstrip("/"))


def pictures_folder(lake: Lake) -> str:
    """Where pictures of pairs lie as files."""
    return lake.folder("synthesis", "pictures")


def relative_column(lake: Lake, column: str) -> Column:
    """A column of paths as tables name them: `./…` where they lie in the lake."""
    path, root = F.col(column), lake.root
    within = F.concat(F.lit("."), F.substr(path, F.lit(len(root) + 1)))
    return F.when(path.startswith(f"{root}/"), within).otherwise(path)


def _column(rows: DataFrame, name: str) -> Column:
    have = name in rows.columns
    return (F.col(name) if have else F.lit(None)).cast("string").alias(name)
