"""refresh-lake: a change of rows or of the model becomes a release, or is refused with reasons; killed anywhere it
goes on.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import refresh_lake, status
from jobs.driver.cli import JobContext
from jobs.driver.printing import json_line
from jobs.lake.holder import Holder
from jobs.lake.registry import Registry
from jobs.lake.releases import Release, current_release, newest_releases, promote, rollback
from jobs.lake.runs import Run
from jobs.settings.refresh import GateSettings
from jobs.stages.refresh import job as refreshing
from jobs.stages.refresh import machines
from jobs.stages.refresh.drift import check_drift
from jobs.stages.register import describe_checkpoint
from tests.lake_settings import settings_of
from tests.spark.conftest import source_rows
from tests.spark.index_vectors import append_vectors, model_of, released, unit
from udfs.drawing import COMBINATIONS, draw_jpeg
from udfs.errors import (
    BudgetError,
    CheckpointError,
    GateError,
    LakeError,
    RowsError,
    SettingsError,
)
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

    def status(self, *sets: str, html: Path | None = None):
        """The command status with the text file beside the lake, without its printing."""
        file = Path(self.lake.root).parent / "gme.prom"
        context = JobContext(
            settings_of(self.shop.lake(*self.sets, f"metrics.textfile={file}", *sets))
        )
        context.__dict__["session"] = self.lake.spark
        report = status.command.callback.__wrapped__(context, html=html, planned=True)
        json_line(report.values)
        return report

    @staticmethod
    def said(report) -> str:
        """What a report prints."""
        out = io.StringIO()
        report.text(file=out)
        return out.getvalue()

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


def test_a_nightly_change_becomes_a_release_and_no_change_none(refreshed, tmp_path):
    shop = refreshed.shop
    shop.write(source_rows(range(12)), cdf=True)
    model_id = refreshed.champion("gme-tiny")
    with pytest.raises(BudgetError, match=r"plan.max_hours=0 allows less. Nothing was embedded"):
        refreshed.refresh("plan.max_hours=0")
    assert refreshed.rows_of(model_id) == {}

    planned = refreshed.refresh("plan.price_per_hour=3600", "plan.trial_rows=4", dry_run=True)
    (forecast,) = planned.values["forecasts"]
    assert (forecast.rows["new"], forecast.contents, forecast.effort.sampled) == (12, 12, 12)
    assert forecast.effort.pace.source == "a trial of 4 rows on cpu"
    assert 0 < forecast.seconds.low < forecast.seconds.mean < forecast.seconds.high
    assert forecast.cost == pytest.approx(forecast.seconds)
    assert forecast.effort.picture_tokens.mean == 12 * 16
    index = planned.values["index"]
    assert (index.rows, index.factory, index.added_to) == (12, "Flat", None)
    assert refreshed.rows_of(model_id) == {} and current_release(refreshed.lake) is None

    first = refreshed.refresh("plan.price_per_hour=3600")
    assert (first.values["outcome"], first.status) == ("released", 0), first.text
    assert first.values["counts"]["embedded"] == 12
    assert first.values["cost"] == pytest.approx(first.values["model_seconds"])
    assert first.values["cost"] > 0
    took = {one.name: one for one in first.values["compared"]}
    assert took["contents"].planned == took["contents"].took == 12
    assert took["tokens"].planned == took["tokens"].took == forecast.tokens.mean
    assert set(took) == {
        "contents",
        "tokens",
        "vector_bytes",
        "index_bytes",
        "index_task_bytes",
        "tasks.model",
        "tasks.index",
    }
    (recorded,) = (
        refreshed.lake.read("runs").where("job = 'refresh_lake' AND error IS NULL").collect()
    )
    assert recorded.metrics["planned.tokens"] == recorded.tokens > 0
    assert recorded.seconds["planned.tasks.model"] > 0
    (embedded,) = refreshed.lake.read("runs").where("job = 'embed_table'").collect()
    assert embedded.environment["device"] == "cpu" and embedded.tokens == recorded.tokens
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
    assert (forecast.contents, forecast.copied) == (2, 1)
    assert forecast.effort.pace.source == "1 earlier run(s) on cpu"
    second = refreshed.refresh()
    counts = second.values["counts"]
    assert (counts["embedded"], counts["copied"], counts["deleted"]) == (2, 1, 1)
    assert second.values["release"].release_id == 2
    assert refreshed.shown() == refreshed.rows_of(model_id)
    assert set(refreshed.shown()) == {f"p{n}" for n in range(14) if n != 3}

    runs = {row.job: row for row in refreshed.lake.read("runs").orderBy("started_at").collect()}
    made, whole = runs["embed_table"], runs["refresh_lake"]
    assert made.tokens > 0 and made.tokens_per_second > 0
    assert 0 < made.batch_fill <= 1 and 0 < made.model_busy <= 1
    assert made.model_seconds == pytest.approx(made.seconds["tasks.model"], abs=1e-3)
    assert (whole.tokens, whole.model_seconds) == (made.tokens, made.model_seconds)
    assert made.bytes_read > 100 and made.bytes_written == 4 * 128 * 3  # three rows are new
    assert whole.bytes_written == made.bytes_written + runs["build_index"].bytes_written
    assert made.metrics["coverage"] == 1 and made.cost is None
    priced = refreshed.lake.read("runs").where("job = 'embed_table' AND cost IS NOT NULL").first()
    assert priced.cost == pytest.approx(priced.model_seconds)

    shop.write(source_rows([20]))
    state = refreshed.status(html=tmp_path / "status.html")
    told = refreshed.said(state)
    assert f"({model_id}), index " in told and "vectors: 13 of 13 rows (100.0%)" in told
    assert "index: 0 of 13 rows are not in it" in told and "gate: index" in told
    assert "refresh-lake" in told and "succeeded" in told
    assert f"source: 1 of 14 rows are not embedded with model {model_id}" in told
    assert f"next refresh: model {model_id}: 1 new of 14 rows" in told
    assert (
        "1 contents to embed and 0 to copy" in told and "by 2 earlier run(s) on any device" in told
    )
    assert state.values["not_embedded"] == {"new": 1, "changed": 0, "model": 0, "left": 0}
    html = (tmp_path / "status.html").read_text()
    assert html.count("<circle") >= 3 and "<dd>100.0%\n13 of 13 rows</dd>" in html
    assert "Every row of the released model has a vector." in html
    figures = (tmp_path / "gme.prom").read_text()
    assert 'job="refresh_lake",status="succeeded"} 3.0' in figures
    assert "gme_lake_coverage_ratio{" in figures and "gme_lake_release_id{" in figures
    assert 'job="embed_table",outcome="copied"} 1.0' in figures

    unset = refreshed.status("source.table=")
    assert "source: not looked at, as source.table is not set" in refreshed.said(unset)
    assert unset.values["not_embedded"] is None
    gone = refreshed.status(f"source.table={shop.table}-gone")
    assert "source: a refresh would fail: " in refreshed.said(gone)


@pytest.mark.long
def test_what_is_refused_or_lost_leaves_the_release_and_says_how(refreshed, tmp_path):
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

    page, figures = tmp_path / "status.html", tmp_path / "gme.prom"
    state = refreshed.status(html=page)
    assert state.values["coverage"] == 0.8 and state.values["rows"]["ok"] == 8
    html = page.read_text()
    assert html.count("no picture<small>unsupported format</small>") == 2 and "bad1" in html
    assert "released by force" in html and "the rest comes later" in html

    lake.spark.sql(f"DELETE FROM delta.`{shop.table}` WHERE id > 'p1'")
    with pytest.raises(RowsError, match=r"embed.max_deleted=0.2 allows less"):
        refreshed.refresh(f"metrics.textfile={figures}")
    assert 'job="refresh_lake",status="failed"} 1.0' in figures.read_text()
    with pytest.raises(SettingsError, match="is no folder"):
        refreshed.refresh(f"metrics.textfile={tmp_path}/gone/gme.prom")
    assert current_release(lake) == forced
    run = lake.read("runs").where("job = 'refresh_lake'").orderBy("started_at").collect()[-1]
    assert run.status == "failed" and "embed.max_deleted" in run.error


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
def test_vectors_are_compared_with_those_that_the_release_shows(lakes, open_lake, tmp_path: Path):
    lakes.copy(lakes.sharded, tmp_path / "lake")
    lake, gate, model = open_lake(), GateSettings(), model_of("model-a", 32)
    release = Release(1, "model-a", lake.version("vectors"), None)

    def refused(release: Release | None) -> set[str]:
        checks = check_drift(lake, gate, model=model, release=release)
        assert {"norms", "collapse", "near_duplicates"} <= {check.name for check in checks}
        moved = {"mean_shift", "effective_rank", "duplicates_rise"}
        assert (moved <= {check.name for check in checks}) == (
            release is not None and release.vectors_version < 1000
        )
        return {check.name for check in checks if not check.passed}

    assert refused(release) == refused(None) == set()
    vectors = lake.name("vectors")
    lake.spark.sql(f"UPDATE {vectors} SET content_hash = concat('old-', content_hash)")
    append_vectors(lake, np.tile(unit(1, 32, seed=3), (400, 1)), model_id="model-a")
    assert refused(release) == {"mean_shift", "duplicates_rise", "effective_rank"}
    assert refused(replace(release, vectors_version=1000)) == set()  # a version that is gone
    assert refused(None) == set()
    few = Release(1, "model-a", release.vectors_version, None)
    assert check_drift(lake, gate, model=model_of("model-b", 32), release=few) == []


def test_a_plan_that_executors_cannot_carry_out_is_refused_before_the_first_row(
    refreshed, monkeypatch, tmp_path: Path
):
    shop = refreshed.shop
    shop.write(source_rows(range(4)), cdf=True)
    moved = tmp_path / "checkpoint"
    # A model of its own: others resolve theirs by model_id, and this one is moved away.
    write_scratch_checkpoint(moved, seed=9, hidden=64, layers=2, texts=["a red mug"])
    refreshed.champion(moved)
    with pytest.raises(SettingsError, match=r"serving.device=cuda, and torch sees no GPU on"):
        refreshed.refresh("serving.device=cuda")
    with pytest.raises(SettingsError, match="faiss cannot build"):
        refreshed.refresh("index.factory=NoSuch")
    with monkeypatch.context() as patched:
        patched.setattr(machines, "worker_room", lambda get, machine: 1000)
        with pytest.raises(
            SettingsError, match=r"an index of 4 rows needs about .* may take (1e\+03 B|1 kB)"
        ):
            refreshed.refresh()
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"No executor that was asked can"):
        refreshed.refresh()
    lake = refreshed.lake
    assert lake.read("vectors").count() == lake.read("indexes").count() == 0
    assert lake.read("run_events").where("job <> 'refresh_lake'").count() == 0


@pytest.mark.long
def test_a_part_is_released_where_coverage_allows_and_the_next_refresh_goes_on(refreshed):
    shop, lake = refreshed.shop, refreshed.lake
    shop.write(source_rows(range(10)), cdf=True)
    model_id = refreshed.champion("gme-tiny")
    few = ("embed.limit=4", "embed.first=price DESC")
    (forecast,) = refreshed.refresh(*few, dry_run=True).values["forecasts"]
    assert (forecast.rows["new"], forecast.contents, forecast.left) == (4, 4, 6)
    assert forecast.source_rows == 10

    # Rows of the source that no run has looked at count: too few are no verdict on the model, and no index is built.
    refused = refreshed.refresh(*few)
    assert (refused.values["outcome"], refused.status) == ("refused", 3)
    assert refused.values["reasons"] == ("4 of 10 rows have a vector (40.0%); gate.coverage=0.95",)
    assert "6 rows left: the next refresh goes on" in refused.text
    assert "promote --force" not in refused.text
    assert lake.read("indexes").count() == lake.read("gate_decisions").count() == 0
    released = refreshed.refresh(*few, "gate.coverage=.75")
    assert released.values["outcome"] == "released", released.text
    assert set(refreshed.shown()) == {f"p{n}" for n in range(2, 10)}

    part = "embed.where=price < 1"
    (forecast,) = refreshed.refresh(part, dry_run=True).values["forecasts"]
    assert dict(forecast.rows) == {"new": 1, "changed": 0, "model": 0, "gone": 0}
    assert (forecast.outside, forecast.source_rows) == (9, 10)
    assert refreshed.refresh(part, "gate.coverage=.85").values["outcome"] == "released"
    (forecast,) = refreshed.refresh(part, dry_run=True).values["forecasts"]
    assert (sum(forecast.rows.values()), forecast.outside, forecast.source_rows) == (0, 9, 10)
    rest = refreshed.refresh()
    assert (rest.values["outcome"], rest.values["counts"]["embedded"]) == ("released", 1)
    assert refreshed.refresh(*few).values["outcome"] == "nothing"

    # A new model of which a part is there is not held back: the old one serves until enough is there.
    new = refreshed.champion(shop.checkpoint)
    assert refreshed.refresh(*few).status == 3
    assert current_release(lake).model_id == model_id
    switched = refreshed.refresh("embed.limit=6")
    assert (switched.values["outcome"], switched.values["held_back"]) == ("released", None)
    assert refreshed.shown() == refreshed.rows_of(new) and len(refreshed.shown()) == 10

    (forecast,) = refreshed.refresh("embed.retry=rejected", dry_run=True).values["forecasts"]
    assert (forecast.rows["retried"], forecast.outside) == (0, 10)


@pytest.mark.long
def test_a_new_model_is_tried_on_some_rows_before_all_are_paid_for(
    shop, tmp_path_factory: pytest.TempPathFactory
):
    tasks = labelled_tasks(tmp_path_factory.mktemp("tasks"))
    refreshed = Refreshed(
        shop,
        f"evaluate.tasks={tasks}",
        "gate.quality_drop=null",
        "refresh.trial_rows=100",
        "gate.mean_length=1",
        "gate.near_duplicates=1",
    )
    names = [*PRODUCTS, *(f"thing {n}" for n in range(276))]
    shop.write([(name, name, None, None, 1.0) for name in names], cdf=True)
    old, lake = refreshed.champion(shop.checkpoint), refreshed.lake
    assert refreshed.refresh().values["outcome"] == "released"

    new = refreshed.champion("gme-tiny")
    refused = refreshed.refresh("gate.overlap=1")
    assert refused.status == 3, refused.text
    assert "gate.overlap=1" in refused.values["reasons"][0]
    assert "or gate.overlap=0." in refused.values["remedies"][0] and "to pass: " in refused.text
    tried = refreshed.rows_of(new)
    assert PRODUCTS.keys() <= tried.keys() and 100 <= len(tried) < 200
    assert refused.values["counts"]["embedded_for_the_trial"] == len(tried)
    assert refused.values["seconds"]["rest_after_trial"] > 0 and not refused.values["compared"]
    assert current_release(lake).model_id == old
    (decided,) = lake.read("gate_decisions").where(f"model_id = '{new}'").collect()
    assert (decided.index_id, decided.passed) == (None, False)
    assert {"trial.overlap", "trial.collapse"} <= {c["name"] for c in json.loads(decided.checks)}
    assert "the gate refused it" in refreshed.refresh().values["held_back"]

    # What the trial has embedded is not paid for again.
    switched = refreshed.refresh("refresh.trial_rows=50", again=True)
    assert switched.values["outcome"] == "released", switched.text
    assert {"trial.overlap", "mean_shift"} & {c.name for c in switched.values["checks"]} == {
        "trial.overlap"
    }
    counts = switched.values["counts"]
    assert (counts["embedded"], counts["embedded_for_the_trial"]) == (300 - len(tried), 0)
    assert refreshed.shown().keys() == set(names)


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
