"""A source, a lake and runs to which anything happens: after every run that says success, `vectors` is a clean run's.

TEST_RANDOM_STEPS=200 walks as far (a quarter of an hour on two cores); the suite takes a short walk, about a minute.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.spark.conftest import SOURCE_SCHEMA, Shop, picture
from tests.spark.sources import TEMPLATE, assert_clean, expected_hashes
from udfs.errors import LakeError

pytestmark = [pytest.mark.spark, pytest.mark.long, pytest.mark.timeout(6000)]

STEPS = int(os.environ.get("TEST_RANDOM_STEPS", "14"))
SEED = int(os.environ.get("TEST_RANDOM_SEED", "7"))
TEMPLATES = (TEMPLATE, "source.text={title}", "source.text={description}, {title}")


class PowerCutError(Exception):
    """The sudden end of a run."""


class Walk:
    """The shop, what happens to it, and what the vectors of every content have been so far."""

    def __init__(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shop, self.patch, self.random = shop, monkeypatch, random.Random(SEED)
        self.template = TEMPLATE
        self.seen: dict[str, np.ndarray] = {}
        self.log: list[str] = []
        self.succeeded = 0

    # What happens to the source.

    def rows(self, *, new: bool) -> list[tuple]:
        """A few rows: of new or of used ids, of contents that come again and again."""
        numbers = self.random.sample(range(100, 1000) if new else range(12), k=3)
        return [self.row(f"p{n}") for n in numbers]

    def row(self, name: str) -> tuple:
        content = self.random.randrange(8)
        image = picture(content) if content % 2 else None
        return (name, f"thing {content}", f"described {content % 3}", image, 0.0)

    def append(self) -> None:
        self.shop.write(self.rows(new=True), files=2)

    def repeat(self) -> None:
        """Some id that is there already comes once more, with another content."""
        self.shop.write(self.rows(new=False))

    def update(self) -> None:
        n = self.random.randrange(8)
        self.sql(f"UPDATE {{}} SET title = 'thing {n}' WHERE hash(id) % 5 = {n % 5}")

    def delete(self) -> None:
        self.sql(f"DELETE FROM {{}} WHERE hash(id) % 7 = {self.random.randrange(7)}")

    def delete_one_of_two(self) -> None:
        self.sql(f"DELETE FROM {{}} WHERE title = 'thing {self.random.randrange(8)}'")

    def overwrite(self) -> None:
        rows = [self.row(f"p{n}") for n in range(self.random.randrange(1, 12))]
        self.shop.write(rows, mode="overwrite", files=3)

    def drop_and_recreate(self) -> None:
        shutil.rmtree(self.shop.table)
        cdf = self.random.random() < 0.6
        for _ in range(self.random.randrange(1, 4)):
            rows = [self.row(f"p{n}") for n in self.random.sample(range(12), k=4)]
            self.shop.write(rows, cdf=cdf)

    def restore(self) -> None:
        versions = self.sql("DESCRIBE HISTORY {}").count()
        back = self.random.randrange(versions)
        self.sql(f"RESTORE TABLE {{}} TO VERSION AS OF {back}")

    def optimize(self) -> None:
        self.sql("OPTIMIZE {}")

    def lose_the_change_feed(self) -> None:
        shutil.rmtree(Path(self.shop.table) / "_change_data", ignore_errors=True)

    # What happens to the settings and the lake.

    def change_template(self) -> None:
        self.template = self.random.choice(TEMPLATES)

    def lose_vectors(self) -> None:
        n = self.random.randrange(4)
        name = self.shop.lake().name("vectors")
        self.shop.spark.sql(f"DELETE FROM {name} WHERE hash(id) % 4 = {n}")

    def damage_the_checkpoint(self) -> None:
        files = [f for f in (Path(self.shop.lake().root) / "streams").rglob("*") if f.is_file()]
        if files:
            file = self.random.choice(files)
            file.unlink() if self.random.random() < 0.5 else file.write_bytes(b"")

    # Runs.

    def run(self) -> None:
        _, report = self.shop.embed(*self.sets())
        self.succeeded += 1
        assert_clean(self.shop, self.template)
        self.check_vectors()
        assert not list((Path(self.shop.lake().root) / "staging").glob("*"))
        self.log[-1] += f" -> {report}"

    def run_over_a_part(self) -> None:
        """What it has looked at is a clean run's, and nothing is left of ids that are gone."""
        part = self.part()
        _, report = self.shop.embed(*self.sets(), *part)
        self.log[-1] += f" {part} -> {report}"
        found = self.shop.vectors(self.shop.lake())
        expected = expected_hashes(self.shop, self.template)
        if "embed.retry=rejected" not in part:
            assert set(found) <= set(expected)
        if part == ["embed.where=hash(id) % 3 = 0"]:
            inside = self.sql("SELECT DISTINCT id FROM {} WHERE hash(id) % 3 = 0").collect()
            for row in inside:
                assert found[row.id].content_hash in expected[row.id]

    def part(self) -> list[str]:
        """Settings of a run that does not look at all rows."""
        parts = [
            ["embed.where=hash(id) % 3 = 0"],
            ["embed.limit=2"],
            ["embed.limit=1", "embed.first=title DESC"],
            ["embed.where=hash(id) % 3 = 0", "embed.limit=2"],
            ["embed.retry=rejected"],
        ]
        return self.random.choice(parts)

    def run_that_is_cut(self) -> None:
        """The run ends at its n-th commit: before it or after it, by a power cut, a full disk or a stopped stream."""
        import jobs.stages.embed.changes as changes
        import jobs.stages.embed.job as job

        calls, at = [0], self.random.randrange(3)
        how = self.random.choice(["before", "after", "disk", "stop", "accounts"])
        commit, compare = changes.commit, job.compare_ids

        def cut(*args: Any, **named: Any) -> None:
            calls[0] += 1
            if how == "after":
                commit(*args, **named)
            if calls[0] > at:
                if how == "stop":
                    active = self.shop.spark.streams.active
                    threading.Thread(target=lambda: [query.stop() for query in active]).start()
                    time.sleep(0.5)
                    commit(*args, **named)
                    return
                raise OSError(28, "No space left on device") if how == "disk" else PowerCutError()
            if how != "after":
                commit(*args, **named)

        def cut_accounts(*args: Any, **named: Any) -> Any:
            raise PowerCutError

        with self.patch.context() as patch:
            if how == "accounts":
                patch.setattr(job, "compare_ids", cut_accounts)
            else:
                patch.setattr(changes, "commit", cut)
            part = self.part() if self.random.random() < 0.3 else []
            try:
                self.shop.embed(*self.sets(), *part)
            except (PowerCutError, OSError) as error:
                self.log[-1] += f" {how} at {at}: {type(error).__name__}"
                return
            except LakeError as error:
                assert how == "stop" and "something has stopped it" in str(error)
                self.log[-1] += f" {how} at {at}: stopped"
                return
            except Exception as error:
                # A stream that is stopped interrupts whatever call of the JVM its batch is in.
                if "InterruptedException" not in str(error) or how != "stop":
                    raise
                self.log[-1] += f" {how} at {at}: interrupted"
                return
        assert job.compare_ids is compare
        if not part:
            self.succeeded += 1
            assert_clean(self.shop, self.template)

    # Helpers.

    def sets(self) -> list[str]:
        files = self.random.randrange(1, 4)
        return [
            self.template,
            f"embed.files_per_batch={files}",
            "embed.max_deleted=1",
            "embed.max_rejected=1",
        ]

    def sql(self, statement: str) -> Any:
        return self.shop.spark.sql(statement.format(f"delta.`{self.shop.table}`"))

    def check_vectors(self) -> None:
        """A content has the vector that it had before, whoever embedded or copied it."""
        for row in self.shop.vectors(self.shop.lake()).values():
            if row.embedding is not None:
                vector = np.array(row.embedding, np.float32)
                known = self.seen.setdefault(row.content_hash, vector)
                assert np.abs(vector - known).max() < 2e-6


SOURCE_STEPS = (
    "append",
    "repeat",
    "update",
    "delete",
    "delete_one_of_two",
    "overwrite",
    "drop_and_recreate",
    "restore",
    "optimize",
    "lose_the_change_feed",
    "change_template",
    "lose_vectors",
    "damage_the_checkpoint",
)


def test_a_random_walk_ends_every_run_as_a_clean_run_would(shop, monkeypatch):
    walk = Walk(shop, monkeypatch)
    shop.spark.createDataFrame([walk.row(f"p{n}") for n in range(8)], SOURCE_SCHEMA).repartition(
        3
    ).write.format("delta").option("delta.enableChangeDataFeed", "true").save(shop.table)
    try:
        for step in range(STEPS):
            kind = walk.random.random()
            if kind < 0.3:
                name = "run"
            elif kind < 0.4:
                name = "run_over_a_part"
            elif kind < 0.55:
                name = "run_that_is_cut"
            else:
                name = walk.random.choice(SOURCE_STEPS)
            walk.log.append(f"{step}: {name}")
            try:
                getattr(walk, name)()
            except LakeError as error:
                raise AssertionError(f"step {step}, {name}: {error}") from error
        walk.log.append("last")
        walk.run()
    finally:
        print("\n".join(walk.log))
    assert walk.succeeded >= STEPS // 5 and expected_hashes(shop, walk.template)
