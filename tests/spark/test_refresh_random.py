"""A source and a model to which anything happens: after every refresh, and before a switch, searches equal brute force.

TEST_STEPS=200 walks as far (half an hour on two cores); the suite takes a short walk. TEST_SEED chooses another.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.lake.releases import Release, current_release, newest_releases, rollback
from jobs.lake.runs import Run
from jobs.settings.conf import profile_named
from jobs.stages.refresh import job as refreshing
from jobs.stages.search.single import Query, search_one
from jobs.stages.search.target import find_target
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.spark.conftest import SOURCE_SCHEMA, picture
from tests.spark.index_vectors import released
from tests.spark.test_refresh_lake import Refreshed
from udfs.errors import LakeError
from udfs.gme import Encoder, Row
from udfs.gme.scratch import write_scratch_checkpoint

pytestmark = [pytest.mark.spark, pytest.mark.long, pytest.mark.timeout(9000)]

STEPS = int(os.environ.get("TEST_STEPS", "7"))
SEED = int(os.environ.get("TEST_SEED", "3"))
HITS = 6
KEPT_DAYS = 0


@dataclass(frozen=True)
class Content:
    """What a model sees of a row."""

    text: str
    image: bytes | None


class Oracle:
    """A model in this process, and every vector that it has given."""

    def __init__(self, checkpoint: Path) -> None:
        self._encoder = Encoder.load(checkpoint, profile=profile_named("tiny"))
        self._known: dict[Content, np.ndarray] = {}

    def vectors(self, contents: list[Content]) -> np.ndarray:
        """float32 (n, d)."""
        new = [content for content in dict.fromkeys(contents) if content not in self._known]
        if new:
            made = self._encoder.encode([Row(text=c.text, image=c.image) for c in new])
            self._known |= dict(zip(new, made.vectors, strict=True))
        return np.stack([self._known[content] for content in contents])

    def query(self, text: str) -> np.ndarray:
        """float32 (d,): a text on the query side."""
        return self._encoder.encode([Row(text=text, is_query=True)]).vectors[0]


class Walk:
    """A shop, its refreshes, and what they are held against."""

    def __init__(self, refreshed: Refreshed, checkpoints: list[Path]) -> None:
        self.refreshed, self.lake, self.spark = refreshed, refreshed.lake, refreshed.lake.spark
        self.table = refreshed.shop.table
        self.random = random.Random(SEED)
        self.checkpoints = checkpoints
        self.ids: dict[Path, str] = {}
        self.oracles: dict[str, Oracle] = {}
        self.alias = ""  # model_id
        self.names = {"title": "title", "description": "description", "price": "price"}
        self.names_at: dict[int, dict[str, str]] = {}
        self.is_late = self.is_mapped = False
        self.oldest = 0  # version of the source that RESTORE may go back to
        # The source as each model that has vectors was given it last.
        self.seen: dict[str, dict[str, Content]] = {}
        self.held_back: set[str] = set()
        self.log: list[str] = []
        self.refreshes = self.switches = self.searches = 0

    # What happens to the source.

    def begin(self) -> None:
        rows = [self.row(f"p{n}") for n in range(8)]
        writer = self.frame(rows).repartition(3).write.format("delta")
        writer.option("delta.enableChangeDataFeed", "true").save(self.table)
        self.note_version()

    def row(self, name: str) -> tuple:
        """Of contents that come again and again."""
        content = self.random.randrange(14)
        image = picture(content) if content % 2 else None
        return (name, f"thing {content}", f"described {content % 3}", image, 0.0)

    def frame(self, rows: list[tuple]) -> Any:
        frame = self.spark.createDataFrame(rows, SOURCE_SCHEMA)
        return frame.withColumnsRenamed(self.names)

    def append(self) -> None:
        taken = self.random.sample(range(100, 1000), k=3)
        there = self.current()
        rows = [self.row(f"p{n}") for n in taken if f"p{n}" not in there]
        self.frame(rows).repartition(2).write.format("delta").mode("append").save(self.table)

    def update(self) -> None:
        n = self.random.randrange(14)
        self.sql(
            f"UPDATE {{}} SET {self.names['title']} = 'thing {n}' WHERE hash(id) % 4 = {n % 4}"
        )

    def update_what_no_model_sees(self) -> None:
        self.sql(f"UPDATE {{}} SET {self.names['price']} = {self.random.random()}")

    def delete(self) -> None:
        if len(self.current()) > 4:
            self.sql(f"DELETE FROM {{}} WHERE hash(id) % 6 = {self.random.randrange(6)}")

    def overwrite(self) -> None:
        rows = [self.row(f"p{n}") for n in self.random.sample(range(20), k=9)]
        self.frame(rows).repartition(3).write.format("delta").mode("overwrite").save(self.table)

    def overwrite_with_the_same(self) -> None:
        rows = self.source().collect()
        frame = self.spark.createDataFrame(rows, self.source().schema)
        frame.repartition(2).write.format("delta").mode("overwrite").save(self.table)

    def restore(self) -> None:
        newest = self.version()
        back = self.random.randrange(self.oldest, newest + 1)
        self.sql(f"RESTORE TABLE {{}} TO VERSION AS OF {back}")
        self.names = self.names_at[max(v for v in self.names_at if v <= back)]

    def optimize(self) -> None:
        self.sql("OPTIMIZE {}")

    def vacuum(self) -> None:
        check = "spark.databricks.delta.retentionDurationCheck.enabled"
        self.spark.conf.set(check, "false")
        self.oldest = self.version()
        self.sql("VACUUM {} RETAIN 0 HOURS")
        self.spark.conf.unset(check)

    def add_column(self) -> None:
        self.sql(f"ALTER TABLE {{}} ADD COLUMNS (extra_{self.version()} STRING)")

    def rename_column(self) -> None:
        """Delta takes no writes of a table with a change feed after it: that goes, once half of the walk is done."""
        if not self.is_late:
            self.reorder_columns()
            return
        if not self.is_mapped:
            self.sql(
                "ALTER TABLE {} SET TBLPROPERTIES ('delta.columnMapping.mode' = 'name', "
                "'delta.enableChangeDataFeed' = 'false')"
            )
            self.is_mapped = True
            self.oldest = self.version()
        column = self.random.choice(sorted(self.names))
        new = f"{column}_{self.version()}"
        self.sql(f"ALTER TABLE {{}} RENAME COLUMN {self.names[column]} TO {new}")
        self.names = {**self.names, column: new}

    def reorder_columns(self) -> None:
        column = self.names[self.random.choice(sorted(self.names))]
        self.sql(f"ALTER TABLE {{}} ALTER COLUMN {column} FIRST")

    # What happens to the model and the release.

    def move_the_alias(self) -> None:
        """What people see stays as it is."""
        others = [path for path in self.checkpoints if self.ids.get(path) != self.alias]
        self.point_to(self.random.choice(others))
        self.check_search()

    def point_to(self, checkpoint: Path) -> None:
        self.alias = self.refreshed.champion(checkpoint)
        self.ids[checkpoint] = self.alias
        if self.alias not in self.oracles:
            self.oracles[self.alias] = Oracle(checkpoint)

    def rollback(self) -> None:
        before = current_release(self.lake)
        try:
            after = released(self.lake, rollback)
        except LakeError as error:
            self.log[-1] += f": {str(error)[:150]}"
            return
        assert before is not None and before.shown != after.shown
        if before.model_id != after.model_id:
            self.held_back.add(before.model_id)
        self.held_back.discard(after.model_id)
        self.log[-1] += f": {after}"
        self.check_search()

    def refresh(self) -> None:
        self.try_refresh()

    def refresh_again(self) -> None:
        self.try_refresh(again=True)

    def refresh_that_is_cut(self) -> None:
        """Between its steps."""
        step = self.random.choice(("build_index", "record_decision", "promote", "remove"))

        def stop(*arguments: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        before = current_release(self.lake)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(refreshing, step, stop)
            try:
                self.try_refresh()
            except KeyboardInterrupt:
                self.log[-1] += f": at {step}"
                self.note_refresh(*self.models_of_refresh(before))
                self.check_search()

    def models_of_refresh(self, release: Release | None) -> list[str]:
        """The model that a refresh releases, then the release's where that is another: both are brought up to date."""
        if release is None or release.model_id == self.alias:
            return [self.alias]
        if self.alias in self.held_back:
            return [release.model_id]
        return [self.alias, release.model_id]

    # What has to be so.

    def try_refresh(self, *, again: bool = False) -> None:
        before = current_release(self.lake)
        if again:
            self.held_back.discard(self.alias)
        models = self.models_of_refresh(before)
        target = models[0]
        holds = target != self.alias
        contents = self.current()
        given = {m: set(seen.values()) for m, seen in self.seen.items()}
        report = self.refreshed.refresh(*self.sets(), again=again)
        self.log[-1] += f": {report.values['outcome']} {report.values['release']}"
        assert (report.values["held_back"] is not None) == holds, report.values["held_back"]
        assert report.values["outcome"] in ("released", "nothing")
        after = current_release(self.lake)
        assert after is not None and after.model_id == target
        assert report.values["outcome"] == "released" or after == before
        counts = report.values["counts"]
        distinct = set(contents.values())
        assert counts.get("embedded", 0) <= len(distinct - given.get(target, set()))
        if before is not None and before.model_id != target:
            serving = distinct - given.get(before.model_id, set())
            assert counts.get("embedded_for_the_release", 0) <= len(serving)
        self.note_refresh(*models)
        self.refreshes += 1
        self.switches += before is not None and before.model_id != target
        self.check_tables(target, contents)
        self.check_search()

    def note_refresh(self, *models: str) -> None:
        """Which models' vectors are there, and of which rows: `models` have been brought up to date."""
        self.held_back &= {self.alias}
        rows = self.lake.read("vectors").select("model_id").distinct().collect()
        there = {row.model_id for row in rows}
        self.seen |= dict.fromkeys(models, self.current())
        assert set(models) <= there
        self.seen = {model: seen for model, seen in self.seen.items() if model in there}

    def check_tables(self, model_id: str, contents: dict[str, Content]) -> None:
        rows = self.lake.read("vectors").where(f"model_id = '{model_id}'").collect()
        assert sorted(row.id for row in rows) == sorted(contents)
        wanted = self.oracles[model_id].vectors([contents[row.id] for row in rows])
        got = np.array([row.embedding for row in rows], np.float32)
        assert np.abs(got - wanted).max() < 1e-5
        states = self.spark.sql(f"SELECT DISTINCT status FROM {self.lake.name('runs')}").collect()
        assert "running" not in {row.status for row in states}
        ids = [release.release_id for release in newest_releases(self.lake, limit=None)]
        assert ids == list(range(len(ids), 0, -1))
        root = Path(self.lake.root)
        assert not [*root.glob("staging/*"), *root.glob("streams/*")]

    def check_search(self) -> None:
        """In the space of the release's model, over the source as that model was given it last."""
        release = current_release(self.lake)
        if release is None:
            return
        contents, oracle = self.seen[release.model_id], self.oracles[release.model_id]
        names = sorted(contents)
        matrix = oracle.vectors([contents[name] for name in names])
        text = f"thing {self.random.randrange(14)}"
        asked = oracle.query(text)
        literal = "array(" + ",".join(f"float({value!r})" for value in asked.tolist()) + ")"
        # Opened again, as its columns are the source's of then, and any may be renamed.
        register_functions(self.lake, settings_of(self.lake))
        found = self.spark.sql(f"SELECT * FROM vector_search({literal}, {HITS})").collect()
        hits = [(hit.id, hit.score) for hit in sorted(found, key=lambda hit: hit.rank)]
        same_hits(hits, names, matrix @ asked)
        if self.random.random() < 0.4:
            target = find_target(self.lake)
            assert target.model_id == release.model_id
            settings = settings_of(self.refreshed.shop.lake(*self.refreshed.sets, *self.sets()))
            run = Run(self.lake, "search", settings.to_json())
            model = self.refreshed.registry.find(target.model_id)
            result = search_one(
                run, Query(text, k=HITS), target=target, model=model, settings=settings
            )
            same_hits([(hit.id, hit.score) for hit in result.hits], names, matrix @ asked)
        self.searches += 1

    # Helpers.

    def source(self) -> Any:
        return self.spark.read.format("delta").load(self.table)

    def current(self) -> dict[str, Content]:
        """The source as it is now, by id."""
        title, description = self.names["title"], self.names["description"]
        rows = self.source().collect()
        found = {
            row.id: Content(f"{row[title]} {row[description]}", row.image and bytes(row.image))
            for row in rows
        }
        assert len(found) == len(rows)
        return found

    def sets(self) -> list[str]:
        title, description = self.names["title"], self.names["description"]
        return [
            f"source.text={{{title}}} {{{description}}}",
            f"embed.files_per_batch={self.random.randrange(1, 4)}",
            "embed.max_deleted=1",
            "refresh.keep_releases=2",
            f"refresh.keep_days={KEPT_DAYS}",
        ]

    def sql(self, statement: str) -> Any:
        return self.spark.sql(statement.format(f"delta.`{self.table}`"))

    def version(self) -> int:
        return int(self.sql("DESCRIBE HISTORY {} LIMIT 1").first().version)

    def note_version(self) -> None:
        self.names_at[self.version()] = self.names


def same_hits(found: list[tuple[str, float]], names: list[str], scores: np.ndarray) -> None:
    """Whether hits (id, score) are the best of all; of rows of one content any may be named."""
    best = np.sort(scores)[::-1][:HITS]
    assert np.abs(np.array([score for _, score in found]) - best).max(initial=0) < 2e-5
    assert len(found) == len(best) == len({name for name, _ in found})
    own = dict(zip(names, scores, strict=True))
    assert all(abs(own[name] - score) < 2e-5 for name, score in found)


SOURCE_STEPS = (
    "append",
    "update",
    "update_what_no_model_sees",
    "delete",
    "overwrite",
    "overwrite_with_the_same",
    "restore",
    "optimize",
    "vacuum",
    "add_column",
    "rename_column",
    "reorder_columns",
)
MODEL_STEPS = ("move_the_alias", "rollback")
REFRESHES = ("refresh",) * 4 + ("refresh_again", "refresh_that_is_cut")
# What no walk should miss.
OPENING = ("update", "move_the_alias", "refresh", "append", "rollback", "refresh")


def next_steps(chance: random.Random) -> Iterator[str]:
    """No refresh follows another, as nothing has changed."""
    name = ""
    yield from OPENING
    while True:
        kinds = (SOURCE_STEPS, MODEL_STEPS, REFRESHES)
        weights = (5, 2, 0 if name in REFRESHES else 4)
        name = chance.choice(chance.choices(kinds, weights=weights)[0])
        yield name


def test_a_random_walk_of_refreshes_is_searched_as_brute_force_would(
    shop, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
):
    checkpoints = [checkpoint]
    for seed in (1, 2):
        checkpoints.append(tmp_path_factory.mktemp("model") / "checkpoint")
        write_scratch_checkpoint(
            checkpoints[-1], seed=seed, hidden=64, layers=2, texts=["a red mug", "thing 1"]
        )
    walk = Walk(Refreshed(shop), checkpoints)
    walk.begin()
    walk.point_to(checkpoint)
    walk.log.append("first")
    try:
        walk.refresh()
        for step, name in zip(range(STEPS), next_steps(walk.random), strict=False):
            walk.is_late = step >= STEPS // 2
            walk.log.append(f"{step}: {name}")
            getattr(walk, name)()
            walk.note_version()
            print(walk.log[-1], flush=True)
        walk.log.append("last")
        walk.refresh()
    finally:
        print("\n".join(walk.log))
        print(f"{walk.refreshes} refreshes, {walk.switches} switches, {walk.searches} searches")
