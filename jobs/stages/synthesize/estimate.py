"""What a run would cost, from a sample of the passages: their requests are asked and their answers kept."""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import functions as F

from jobs.lake.claims import claim
from jobs.lake.lake import Lake
from jobs.lake.runs import Run
from jobs.settings.settings import Settings
from jobs.stages.synthesize.asking import Asking, Spent
from jobs.stages.synthesize.job import check_settings, make_texts
from jobs.stages.synthesize.local import serve_models
from jobs.stages.synthesize.passages import read_passages
from jobs.stages.synthesize.rejects import Rejects
from jobs.stages.synthesize.words import limit_domains, make_captions


@dataclass(frozen=True)
class Estimate:
    """What all passages would take beyond what is answered, as the sample did: by step, and in all."""

    passages: int
    sampled: int
    kept: int  # answers that the lake had before
    steps: dict[str, Spent]
    hours: float

    def __str__(self) -> str:
        tokens = sum(spent.tokens for spent in self.steps.values())
        cost = sum(spent.cost for spent in self.steps.values())
        lines = [
            f"{self.passages:,} passages, {self.kept:,} answers kept from before; by {self.sampled:,} passages all "
            f"would take about {tokens:,} tokens, cost {cost:.2f} and {self.hours:.2f} hours at one executor's concurrency"
        ]
        for step, spent in self.steps.items():
            lines.append(
                f"  {step}: about {spent.requests:,} requests, {spent.tokens:,} tokens, cost {spent.cost:.2f}"
            )
        return "\n".join(lines)

    def values(self) -> dict[str, object]:
        """The same for programs."""
        return {**vars(self), "steps": {step: vars(each) for step, each in self.steps.items()}}


def estimate_pairs(lake: Lake, run: Run, *, settings: Settings) -> Estimate:
    """Steps 1 and 2 (and captions and pictures, where they are generated) for `synthesize.sample` passages.

    The sample is the same at every call, and a later run asks none of it again. Where all of it was answered before,
    what it took then is taken. Raises as `synthesize_pairs` does.
    """
    check_settings(lake.spark, settings.synthesize)
    with (
        claim(run, name=run.job, timeout=settings.embed.claim_seconds) as held,
        lake.staging(run.run_id) as staging,
        serve_models(settings.synthesize) as own,
    ):
        passages = read_passages(lake, run, own, staging=staging).narrow
        rejects = Rejects(lake, run)  # shown by a run; an estimate leaves none
        if own.domain:
            passages = limit_domains(rejects, passages, most=own.per_domain, seed=own.seed)
        usable = passages.where("text IS NOT NULL")
        count = usable.count()
        kept = lake.read("synthesis_answers").count()
        order = F.xxhash64("passage_id", F.lit(own.seed))
        sample = usable.orderBy(order, "passage_id").limit(own.sample)
        sample.write.mode("overwrite").parquet(f"{staging}/sample")
        sample = lake.spark.read.parquet(f"{staging}/sample")
        trial = own.model_copy(update={"per_domain": None})
        asking = Asking(lake, run, held, trial, staging)
        _, entities = make_texts(asking, rejects, sample)
        if entities is not None and own.picture == "generate":
            captions = make_captions(asking, rejects, sample, entities)
            asking.ask("picture", captions.select("passage_id", F.col("caption").alias("text")))
        sampled = sample.count()
        taken = _taken(asking, own.picture == "generate")
    factor = count / max(1, sampled)
    steps = {
        step: Spent(
            round(each.tokens * factor),
            each.cost * factor,
            round(each.requests * factor),
            each.seconds * factor,
        )
        for step, each in taken.items()
    }
    seconds = sum(each.seconds for each in steps.values())
    return Estimate(count, sampled, kept, steps, seconds / own.concurrency / 3600)


def _taken(asking: Asking, generated: bool) -> dict[str, Spent]:
    """What the sample's requests took, those of earlier runs too, by step."""
    names = ["query", "entity", *(["caption", "picture"] if generated else [])]
    answers = asking.lake.read("synthesis_answers")
    taken = {}
    for step in names:
        folder = f"{asking.staging}/{step}/requests"
        if f"{step}_asked" not in asking.run.counts:
            continue
        requests = asking.lake.spark.read.parquet(folder).select("request_id").distinct()
        row = requests.join(answers, "request_id").agg(
            F.count(F.lit(1)).alias("requests"),
            F.coalesce(F.sum(F.expr("prompt_tokens + answer_tokens")), F.lit(0)).alias("tokens"),
            *(F.coalesce(F.sum(name), F.lit(0.0)).alias(name) for name in ("cost", "seconds")),
        )
        found = row.collect()[0]
        taken[step] = Spent(
            int(found.tokens), float(found.cost), int(found.requests), float(found.seconds)
        )
    return taken
