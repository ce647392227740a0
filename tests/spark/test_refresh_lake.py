"""refresh-lake: a change of rows or of the model becomes a release, or is refused with reasons; killed anywhere it goes on."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import refresh_lake
from jobs.driver.cli import JobContext
from jobs.lake.holders import Holder
from jobs.lake.registry import Registry
from jobs.lake.releases import current_release, newest_releases, promote, rollback
from jobs.lake.runs import Run
from jobs.reports.lake_status import print_status, read_status
from jobs.stages.refresh import job as refreshing
from jobs.stages.register import describe_checkpoint
from tests.lake_settings import settings_of
from tests.spark.conftest import source_rows
from tests.spark.index_vectors import released
from udfs.drawing import COMBINATIONS, draw_jpeg
from udfs.errors import BudgetError, GateError, LakeError, RowsError
from udfs.gme.scratch import write_scratch_checkpoint

pytestmark = [pytest.mark.spark, pytest.mark.timeout(1500)]

PRODUCTS = {" ".join(combination): combination for combination in COMBINATIONS[::29][:24]}


class Refreshed:
    """A shop that is only ever refreshed. `refresh` is the command, without its printing."""

    def __init__(self, shop, *sets: str) -> None:
        # A worker holds the model itself: a server for each of these small models would take longer than they do.
        self.shop, self.sets = shop, ("serving.placement=worker", *sets)
        self.lake = shop.lake(*self.sets)
        self.registry = Registry(settings_of(self.lake))

    def champion(self, checkpoint: Path | str, *, profile: str = "tiny") -> str:
        """Register a checkpoint as the alias's model; its model_id."""
        model = settings_of(self.lake).model.model_copy(
            update={"checkpoint": str(checkpoint), "profile": profile}
        )
        return self.registry.register(describe_checkpoint(model), alias="champion").spec.model_id

    def refresh(self, *sets: str, dry_run: bool = False, again: bool = False):
        context = JobContext(settings_of(self.shop.lake(*self.sets, *sets)))
        context.__dict__["session"] = self.lake.spark
        report = refresh_lake.command.callback.__wrapped__(context, dry_run=dry_run, again=again)
        json.dumps(report.values, default=str)
        return report

    def rows_of(self, model_id: str) -> dict[str, str]:
        """Content hashes by id."""
        rows = self.lake.read("vectors").where(f"model_id = '{model_id}'").collect()
        assert len({row.id for row in rows}) == len(rows)
        return {row.id: row.content_hash for row in rows}

    def shown(self) -> dict[str, str]:
        """The same of what analysts see."""
        rows = self.lake.spark.table(self.lake.name("current_vectors")).collect()
        return {row.id: row.content_hash for row in rows}


@pytest.fixture
def refreshed(shop) -> Refreshed:
    return Refreshed(shop)


def test_a_nightly_change_becomes_a_release_and_no_change_none(refreshed):
    shop = refreshed.shop
    shop.write(source_rows(range(12)), cdf=True)
    model_id = refreshed.champion("gme-tiny")
    with pytest.raises(BudgetError, match=r"plan.max_hours=0 allows less. Nothing was embedded"):
        refreshed.refresh("plan.max_hours=0")
    assert refreshed.rows_of(model_id) == {}

    planned = refreshed.refresh("plan.price_per_hour=3600", "plan.trial_rows=4", dry_run=True)
    (forecast,) = planned.values["forecasts"]
    assert (forecast.rows["new"], forecast.contents, forecast.pace.source) == (
        12,
        12,
        "a trial of 4 rows",
    )
    assert 0 < forecast.seconds[1] <= forecast.seconds[0] <= forecast.seconds[2]
    assert forecast.cost == pytest.approx(forecast.seconds)
    assert refreshed.rows_of(model_id) == {} and current_release(refreshed.lake) is None

    first = refreshed.refresh("plan.price_per_hour=3600")
    assert (first.values["outcome"], first.status) == ("released", 0), first.text
    assert first.values["counts"]["embedded"] == 12
    assert first.values["cost"] == pytest.approx(first.values["model_seconds"])
    assert first.values["cost"] > 0
    assert {check.name for check in first.values["checks"]} == {"whole", "coverage", "recall"}
    nothing = refreshed.refresh()
    assert (nothing.values["outcome"], nothing.values["release"]) == (
        "nothing",
        first.values["release"],
    )

    # One row new, one changed, one gone, one a copy of another's content.
    spark, table = refreshed.lake.spark, shop.table
    spark.sql(f"DELETE FROM delta.`{table}` WHERE id = 'p3'")
    spark.sql(f"UPDATE delta.`{table}` SET title = 'another' WHERE id = 'p4'")
    copied = [("p13", *source_rows([5])[0][1:])]
    shop.write([*source_rows([12]), *copied])
    (forecast,) = refreshed.refresh(dry_run=True).values["forecasts"]
    assert dict(forecast.rows) == {"new": 2, "changed": 1, "model": 0, "gone": 1}
    assert (forecast.contents, forecast.copied, forecast.pace.source) == (2, 1, "1 earlier run(s)")
    second = refreshed.refresh()
    counts = second.values["counts"]
    assert (counts["embedded"], counts["copied"], counts["deleted"]) == (2, 1, 1)
    assert second.values["release"].release_id == 2
    assert refreshed.shown() == refreshed.rows_of(model_id)
    assert set(refreshed.shown()) == {f"p{n}" for n in range(14) if n != 3}

    said = io.StringIO()
    print_status(read_status(refreshed.lake), file=said)
    told = said.getvalue()
    assert f"gme 1 ({model_id})" in told and "vectors: 13 of 13 rows" in told
    assert "index: 0 of 13 rows are not in it" in told and "gate: index" in told
    assert "refresh-lake" in told and "succeeded" in told


def test_what_is_refused_or_lost_leaves_the_release_and_says_how(refreshed):
    shop = refreshed.shop
    bad = [(f"bad{n}", None, None, b"no picture", 1.0) for n in range(2)]
    shop.write([*source_rows(range(8)), *bad], cdf=True)
    refreshed.champion("gme-tiny")
    refused = refreshed.refresh()
    assert (refused.values["outcome"], refused.status) == ("refused", 3)
    (reason,) = refused.values["reasons"]
    assert reason == "8 of 10 rows have a vector (80.0%); gate.coverage=0.95"
    assert "no release stays" in str(refused.text) and "promote --force" in str(refused.text)
    lake = refreshed.lake
    assert current_release(lake) is None
    index_id = lake.read("indexes").first().index_id
    with pytest.raises(GateError, match=r"has refused index \w+: 8 of 10 rows"):
        released(lake, promote, index_id=index_id)
    forced = released(lake, promote, index_id=index_id, force=True, note="the rest comes later")
    assert current_release(lake) == forced
    decisions = lake.read("gate_decisions").orderBy("decided_at").collect()
    assert [(row.passed, row.forced) for row in decisions] == [(False, False), (False, True)]
    assert decisions[1].note == "the rest comes later"

    lake.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id > 'p1'")
    with pytest.raises(RowsError, match=r"embed.max_deleted=0.2 allows less"):
        refreshed.refresh()
    assert current_release(lake) == forced
    run = lake.read("runs").where("job = 'refresh_lake'").orderBy("started_at").collect()[-1]
    assert run.status == "failed" and "embed.max_deleted" in run.error


def test_a_new_model_is_released_rolled_back_held_back_and_refused(
    shop, tmp_path_factory: pytest.TempPathFactory
):
    tasks = labelled_tasks(tmp_path_factory.mktemp("tasks"))
    refreshed = Refreshed(shop, f"evaluate.tasks={tasks}", "evaluate.depth=10")
    rows = [
        (name, name, None, draw_jpeg(*product, seed=9), 1.0) for name, product in PRODUCTS.items()
    ]
    shop.write(rows[:20], cdf=True)
    lake = refreshed.lake
    old = refreshed.champion(shop.checkpoint)  # random weights
    assert refreshed.refresh().values["outcome"] == "released"
    new = refreshed.champion("gme-tiny")

    # The source moves on meanwhile; the release's model keeps up.
    shop.write(rows[20:])
    serving, target = refreshed.refresh(dry_run=True).values["forecasts"]
    assert (serving.model_id, serving.rows["new"]) == (old, 4)
    assert (target.model_id, target.rows["model"], target.rows["new"]) == (new, 20, 4)
    switched = refreshed.refresh()
    assert switched.values["outcome"] == "released", str(switched.text)
    (quality,) = (c for c in switched.values["checks"] if c.name == "quality")
    assert quality.passed and quality.value > -0.02
    assert len(refreshed.rows_of(old)) == len(refreshed.rows_of(new)) == 24
    assert refreshed.shown() == refreshed.rows_of(new)

    # Rolled back, the next refreshes leave it so, and keep the old model's release up to date.
    assert released(lake, rollback).model_id == old
    held = refreshed.refresh()
    assert "was rolled back by release 3" in held.values["held_back"]
    assert current_release(lake).model_id == old
    assert refreshed.refresh(again=True).values["outcome"] == "released"
    assert current_release(lake).model_id == new

    # A worse model is refused before a row of the source is embedded with it, and not tried again every night.
    write_scratch_checkpoint(
        worse := tmp_path_factory.mktemp("worse"), seed=1, hidden=64, layers=2, texts=["a mug"]
    )
    bad = refreshed.champion(worse)
    refused = refreshed.refresh()
    assert refused.status == 3 and "gate.quality_drop=0.02" in refused.values["reasons"][0]
    assert refreshed.rows_of(bad) == {}
    assert "the gate refused it" in refreshed.refresh().values["held_back"]
    assert refreshed.refresh(again=True).status == 3
    refreshed.champion("gme-tiny")
    assert refreshed.refresh().values["outcome"] == "nothing"
    refreshed.champion(worse)
    assert refreshed.refresh().status == 3  # the alias had moved

    # Vectors of a model that no kept release needs go.
    for row in newest_releases(lake, limit=None):
        assert row.model_id in {old, new}
    refreshed.champion("gme-tiny")
    shop.write([("one-more", "one more", None, None, 1.0)])
    once = ("refresh.keep_releases=1", "refresh.keep_days=0")
    last = refreshed.refresh(*once)
    assert last.values["outcome"] == "released"
    assert last.values["counts"]["vectors_removed"] == 24
    assert refreshed.rows_of(old) == {} and len(refreshed.rows_of(new)) == 25
    # Its newest index is still there; of nothing.
    before = next(row for row in newest_releases(lake, limit=None) if row.model_id == old)
    with pytest.raises(LakeError, match=rf"has no vectors of its model {old} any more"):
        released(lake, rollback, to=before.release_id)
    assert refreshed.refresh(*once).values["outcome"] == "nothing"
    assert {row.model_id for row in lake.read("indexes").collect()} == {new}
    assert refreshed.shown() == refreshed.rows_of(new)


def test_stopped_at_any_step_the_next_refresh_ends_where_one_would_have(refreshed, monkeypatch):
    shop = refreshed.shop
    shop.write(source_rows(range(8)), cdf=True)
    model_id = refreshed.champion("gme-tiny")
    kept = ("refresh.keep_days=0", "refresh.keep_releases=1")
    refreshed.refresh()

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    steps = ("build_index", "promote", "remove")
    for done, step in enumerate(steps, start=1):
        shop.write(source_rows([7 + done]))
        with monkeypatch.context() as patched:
            patched.setattr(refreshing, step, stop)
            with pytest.raises(KeyboardInterrupt):
                refreshed.refresh(*kept)
        again = refreshed.refresh(*kept)
        assert again.values["outcome"] == ("nothing" if step == "remove" else "released")
        assert again.values["counts"].get("embedded", 0) == 0
        assert current_release(refreshed.lake).release_id == 1 + done
        assert refreshed.shown() == refreshed.rows_of(model_id)
        assert len(refreshed.shown()) == 8 + done
    assert refreshed.lake.read("indexes").count() == 1
    states = refreshed.lake.read("runs").where("job = 'refresh_lake'").groupBy("status").count()
    assert dict(states.collect()) == {"succeeded": 4, "failed": 3}
    with_a_killed_step_it_is_over(refreshed, *kept)


def with_a_killed_step_it_is_over(refreshed, *sets: str) -> None:
    """A refresh that was killed in a step: neither stays "running", nor does what the step had written."""
    lake = refreshed.lake
    claims = lake.read("run_events").where("job = 'refresh_lake'").select("claim").collect()
    nobody = str(replace(Holder.this(), pid=2**22 + 1))
    dead = Run(
        lake, "refresh_lake", "{}", holder=nobody, claim=max(row.claim for row in claims) + 1
    )
    step = Run(lake, "build_index", "{}", holder=nobody)
    other = Run(lake, "build_index", "{}")
    for run in (dead, step, other):
        run.begin()
    left = Path(lake.folder("staging", step.run_id))
    left.mkdir(parents=True)
    assert refreshed.refresh(*sets).values["outcome"] == "nothing"
    runs = {row.run_id: row.status for row in lake.spark.table(lake.name("runs")).collect()}
    assert [runs[run.run_id] for run in (dead, step, other)] == ["killed", "killed", "running"]
    assert not left.exists()


def labelled_tasks(folder: Path) -> Path:
    """Find the drawn picture of a product by its words: 24 queries over 24 pictures."""
    string = pa.string()
    rows = [
        {"id": name, "image": draw_jpeg(*product, seed=1), "corpora": ["photos"]}
        for name, product in PRODUCTS.items()
    ]
    queries = [{"query_id": name, "text": name, "split": "test"} for name in PRODUCTS]
    judged = [
        {"task": "words", "query_id": name, "corpus_id": name, "split": "test", "score": 1}
        for name in PRODUCTS
    ]
    tables = {
        "catalog": (rows, {"id": string, "image": pa.binary(), "corpora": pa.list_(string)}),
        "queries": (
            queries,
            dict.fromkeys(("query_id", "text", "image_ref", "instruction", "split"), string)
            | {"image": pa.binary()},
        ),
        "qrels": (
            judged,
            dict.fromkeys(("task", "query_id", "corpus_id", "split"), string)
            | {"score": pa.int32()},
        ),
    }
    for name, (values, columns) in tables.items():
        table = pa.Table.from_pylist(values, schema=pa.schema(columns))
        pq.write_table(table, folder / f"{name}.parquet")
    task = {
        "task": "words",
        "corpus": "photos",
        "document_modality": "image",
        "document_fields": ["image"],
        "query_modality": "text",
        "main_metric": "ndcg_at_10",
    }
    (folder / "tasks.json").write_text(json.dumps([task]))
    return folder
