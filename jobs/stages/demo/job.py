"""The demo: every step a user would take, in one session, on a drawn catalogue."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from jobs.lake.lake import Lake, absolute, read_table
from jobs.lake.registry import Registry, ResolvedModel
from jobs.lake.releases import promote
from jobs.lake.runs import Run, open_run
from jobs.lake.sql import literal, table_sql
from jobs.reports.hits import QueryResult, write_search_report
from jobs.settings.settings import Settings
from jobs.stages.demo.drawn_catalogue import draw_catalogue
from jobs.stages.embed.job import embed_table
from jobs.stages.index.job import build_index
from jobs.stages.index.plan import plan_index
from jobs.stages.register import describe_checkpoint, make_canaries
from jobs.stages.search.job import search_table
from jobs.stages.search.queries import query_reading, read_queries
from jobs.stages.search.report import query_results
from jobs.stages.search.target import find_target
from udfs.drawing import COLOURS, CatalogueSpec, Combination, draw_jpeg, held_out
from udfs.drawing.catalogue import catalogue_row
from udfs.drawing.training_rows import INSTRUCTIONS
from udfs.drawing.words import change_text, query_text

QUERY_SCHEMA = "query_id STRING, text STRING, image BINARY, instruction STRING"
_CHANGED_ROWS = 5
_NEW_ROWS = 4
_REMOVED_ROWS = 3


NOTE = (
    "The model of this demo is gme-tiny, a toy of 1.1 million parameters that knows drawn products like these and "
    "nothing else. It was trained on none of the products that the queries ask for."
)


@dataclass
class Demo:
    """The demo's open lake, its settings (of conf/demo.yaml), and how it talks. `say` prints a line."""

    lake: Lake
    registry: Registry
    settings: Settings
    say: Callable[[str], None]
    facts: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step and say how long it took."""
        self.say(f"\n== {title}")
        start = time.perf_counter()
        yield
        self.say(f"   {time.perf_counter() - start:.1f} s")


def run_demo(demo: Demo) -> Path:
    """Draw, register, embed, index, release, search, change, embed again; returns the HTML page."""
    start = time.perf_counter()
    with demo.step(f"draw {demo.settings.draw.rows:,} products into {demo.settings.source.table}"):
        draw_catalogue(demo.lake.spark, settings=demo.settings)
    with demo.step("register the model"):
        model = _register(demo)
    with demo.step("embed the table"):
        _embed(demo, model)
    with demo.step("build the index and release it"):
        _release(demo, model)
    with demo.step("search by text, by picture, and by both"):
        results = _search(demo, model)
    with demo.step("change a few rows and embed again"):
        _change_rows(demo)
        _embed(demo, model, fact="embedded after the change")
    with demo.step("embed once more: nothing has changed"):
        _embed(demo, model, fact=None)
    demo.facts["seconds in all"] = f"{time.perf_counter() - start:.0f}"
    return _write_page(demo, results)


def _register(demo: Demo) -> ResolvedModel:
    settings = demo.settings.model
    spec = describe_checkpoint(settings)
    canaries = make_canaries(spec, settings)
    model = demo.registry.register(spec, alias=settings.alias, canaries=canaries)
    demo.say(
        f"   {model.name} version {model.version}: model_id {spec.model_id}, {spec.dim} dimensions"
    )
    demo.facts["model"] = f"{model.name} version {model.version}\n{spec.model_id}"
    return model


def _embed(demo: Demo, model: ResolvedModel, *, fact: str | None = "embedded") -> None:
    with open_run(demo.lake, demo.registry, job="embed_table") as run:
        settings = demo.settings
        report = embed_table(
            demo.lake,
            run,
            model=model,
            source=settings.source,
            embed=settings.embed,
            serving=settings.serving.spec(),
        )
    demo.say(f"   {report}")
    if fact:
        demo.facts[fact] = str(report)
    rejected = demo.lake.read("vectors").where("status <> 'ok'").groupBy("status").count()
    counts = {row["status"]: row["count"] for row in rejected.orderBy("status").collect()}
    demo.facts["rejected, by reason"] = "\n".join(f"{n} {status}" for status, n in counts.items())


def _release(demo: Demo, model: ResolvedModel) -> None:
    planned = plan_index(demo.lake, demo.settings.index, model=model)
    demo.say(f"   {planned}")
    with open_run(demo.lake, demo.registry, job="build_index") as run:
        report = build_index(demo.lake, run, model=model, planned=planned)
        release = promote(
            demo.lake,
            run,
            index_id=planned.spec.index_id,
            limits=demo.settings.release,
            model_id=model.spec.model_id,
            note="demo",
        )
    demo.say(f"   {report}\n   release {release.release_id}")
    plan = planned.spec.plan
    demo.facts["index"] = f"{planned.spec.index_id}\n{plan.factory}, {plan.shards} shards"


def _search(demo: Demo, model: ResolvedModel) -> list[QueryResult]:
    queries = demo_queries(seed=demo.settings.draw.seed)
    frame = demo.lake.spark.createDataFrame(queries, QUERY_SCHEMA)
    table = absolute(demo.settings.search.queries)
    frame.coalesce(1).write.format("delta").mode("overwrite").save(table)
    target = find_target(demo.lake)
    with open_run(demo.lake, demo.registry, job="search_table") as run:
        report = search_table(demo.lake, run, target=target, model=model, settings=demo.settings)
        results = _shown_queries(demo, run, model, output=report.output)
    demo.say(f"   {report}")
    return results


def _shown_queries(demo: Demo, run: Run, model: ResolvedModel, *, output: str) -> list[QueryResult]:
    search = demo.settings.search
    with run.stage("report"):
        spark, table, base = demo.lake.spark, search.queries, search.image_base
        queries = read_queries(spark, table, image_base=base)
        reading = query_reading(spark, demo.settings, table, image_base=base)
        hits = read_table(spark, output).collect()
        model_id = model.spec.model_id
        return query_results(demo.lake, queries, hits, model_id=model_id, reading=reading)


def _change_rows(demo: Demo) -> None:
    spark, settings = demo.lake.spark, demo.settings
    table = table_sql(absolute(settings.source.table))
    spec = CatalogueSpec(seed=settings.draw.seed)
    ids = [
        catalogue_row(number, spec=spec)["id"] for number in range(_CHANGED_ROWS + _REMOVED_ROWS)
    ]
    quoted = [literal(row_id) for row_id in ids]
    changed, removed = ", ".join(quoted[:_CHANGED_ROWS]), ", ".join(quoted[_CHANGED_ROWS:])
    spark.sql(f"UPDATE {table} SET title = concat('now on sale: ', title) WHERE id IN ({changed})")
    spark.sql(f"DELETE FROM {table} WHERE id IN ({removed})")
    first = settings.draw.rows
    rows = [catalogue_row(number, spec=spec) for number in range(first, first + _NEW_ROWS)]
    schema = spark.table(table).schema
    frame = spark.createDataFrame(
        [tuple(row[name] for name in schema.names) for row in rows], schema
    )
    frame.write.format("delta").mode("append").save(absolute(settings.source.table))
    demo.say(
        f"   {_CHANGED_ROWS} titles changed, {_REMOVED_ROWS} rows deleted, {_NEW_ROWS} rows new"
    )


def _write_page(demo: Demo, results: list[QueryResult]) -> Path:
    path = Path(absolute(demo.settings.search.report or "demo-report.html"))
    return write_search_report(
        path, title="gme-lake demo", queries=results, facts=demo.facts, note=NOTE
    )


def demo_queries(*, seed: int) -> list[tuple[str, str | None, bytes | None, str | None]]:
    """Nine queries (QUERY_SCHEMA): three by text, three by a newly drawn picture, three by picture and change.

    All ask for products that gme-tiny was not trained on.
    """
    rng = random.Random(f"demo queries {seed}")
    asked = rng.sample(sorted(held_out()), 9)
    queries: list[tuple[str, str | None, bytes | None, str | None]] = []
    for number, wanted in enumerate(asked[:3], 1):
        text = query_text(*wanted, rng=rng)
        queries.append((f"1 text {number}", text, None, INSTRUCTIONS["t2i"]))
    for number, wanted in enumerate(asked[3:6], 1):
        queries.append((f"2 picture {number}", None, _view(wanted, rng), INSTRUCTIONS["i2i"]))
    for number, wanted in enumerate(asked[6:], 1):
        shown = wanted._replace(colour=rng.choice(sorted(COLOURS.keys() - {wanted.colour})))
        change = change_text("colour", wanted.colour, rng=rng)
        query = (f"3 picture and text {number}", change, _view(shown, rng), INSTRUCTIONS["it2i"])
        queries.append(query)
    return queries


def _view(wanted: Combination, rng: random.Random) -> bytes:
    return draw_jpeg(*wanted, seed=f"demo {rng.random()}")
