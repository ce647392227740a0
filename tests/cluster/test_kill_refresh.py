"""refresh-lake with its driver, a Python worker or a model server killed: the next refresh ends where a clean one would.

TEST_REFRESH_KILLS=50 kills as often, at chosen and at random points (a third of a minute to one a kill on two quiet
cores), and compares after every fifth; TEST_REFRESH_SEED chooses others.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from jobs.driver.session import QUICK_CONF, QUICK_JAVA
from jobs.lake.gates import read_decisions
from jobs.lake.indexes import index_age, whole_manifest
from jobs.lake.registry import Registry
from jobs.lake.releases import current_release, newest_releases
from jobs.settings.conf import profile_named
from jobs.stages.register import describe_checkpoint
from jobs.stages.sql.session_functions import register_functions
from tests.cluster.standalone import ROOT, Processes
from tests.cluster.test_kill_driver import sets
from tests.lake_settings import settings_of
from tests.spark.conftest import SOURCE_SCHEMA, source_rows
from udfs.gme import Encoder, Row
from udfs.gme.scratch import write_scratch_checkpoint

pytestmark = [pytest.mark.cluster, pytest.mark.spark, pytest.mark.timeout(9000)]

ROWS = 16
KILLS = int(os.environ.get("TEST_REFRESH_KILLS", "0"))
SEED = int(os.environ.get("TEST_REFRESH_SEED", "1"))
COMPARED_EVERY = 5

# What appears in the lake as a refresh goes on: the moment of a kill is the n-th new path of a pattern.
_TABLE = "tables/{}/_delta_log/*.json"
POINTS = {
    "the claim is taken": (_TABLE.format("run_events"), 1),
    "the step has its claim": (_TABLE.format("run_events"), 2),
    "ids are counted": ("staging/*/ids-*/_SUCCESS", 1),
    "rows are being embedded": ("staging/*/batch-*/embedded/_temporary", 1),
    "rows are embedded": ("staging/*/batch-*/embedded/_SUCCESS", 1),
    "the first commit": (_TABLE.format("vectors"), 1),
    "the second commit": (_TABLE.format("vectors"), 2),
    "ids are compared": ("staging/*/accounts/_SUCCESS", 1),
    "the index is begun": ("indexes/*/*", 1),
    "its manifest is written": ("indexes/*/manifest.json", 1),
    "its shards are committed": (_TABLE.format("index_shards"), 1),
    "the index is committed": (_TABLE.format("indexes"), 1),
    "the gate has decided": (_TABLE.format("gate_decisions"), 1),
    "the index is held for its release": (_TABLE.format("index_marks"), 2),
    "released": (_TABLE.format("releases"), 1),
    "the old index is marked": (_TABLE.format("index_marks"), 3),
    "the old index is claimed": (_TABLE.format("index_marks"), 4),
    "the old index's row is gone": (_TABLE.format("indexes"), 2),
    "its shards' rows are gone": (_TABLE.format("index_shards"), 2),
    "the old index's mark is gone": (_TABLE.format("index_marks"), 5),
}
ANY = (_TABLE.format("*"), "staging/*/*/*/_SUCCESS", "indexes/*/*")
MOST = 40  # new paths of ANY in one refresh, about
WHILE_EMBEDDING = "rows are being embedded"
WHILE_INDEXING = "the index is begun"
VICTIMS = ("driver", "driver alone", "worker", "server")


@dataclass(frozen=True)
class Kill:
    """Who is killed, where (a point, or the n-th new path of any kind), and how much later. `change`: of the model too."""

    victim: str
    point: str
    later: float = 0.0
    new_model: bool = False

    @property
    def moment(self) -> tuple[tuple[str, ...], int]:
        """Patterns of paths, and which new one of them."""
        if self.point.isdigit():
            return ANY, int(self.point)
        pattern, number = POINTS[self.point]
        return (pattern,), number


IN_SUITE = [
    Kill("driver", "the index is committed"),
    Kill("driver", "the old index's row is gone"),
    Kill("server", WHILE_EMBEDDING, new_model=True),
]


def drawn_kills(chance: random.Random) -> list[Kill]:
    """A driver's end at every point in turn; each third kill is of anyone, at any point or moment."""
    points = list(POINTS)
    chance.shuffle(points)
    chosen = itertools.cycle(points)
    kills = []
    for number in range(KILLS):
        victim, point = chance.choice(("driver", "driver", "driver alone")), next(chosen)
        if number % 3 == 2:
            victim = chance.choice(VICTIMS)
            point = chance.choice([*POINTS, *map(str, range(1, MOST))])
        if victim == "server":
            point = WHILE_EMBEDDING
        elif victim == "worker":
            point = chance.choice((WHILE_EMBEDDING, WHILE_INDEXING, "its manifest is written"))
        later = chance.choice((0.0, chance.random()))
        kills.append(Kill(victim, point, later, new_model=chance.random() < 0.2))
    return kills


class Night:
    """A source that changes, a lake that is refreshed, and who is killed meanwhile."""

    def __init__(
        self, spark: Any, lake: Any, source: Path, models: list[Path], processes: Processes
    ):
        self.spark, self.lake, self.source, self.models = spark, lake, source, models
        self.processes, self.chance = processes, random.Random(SEED)
        self.registry = Registry(settings_of(lake))
        self.model = 0
        self.next_row = ROWS
        self.encoders = [Encoder.load(path, profile=profile_named("tiny")) for path in models]
        self.known: dict[tuple[int, str], np.ndarray] = {}
        self.killed: Counter[str] = Counter()
        self.missed = 0
        self.most_twice = 0  # micro-batches of one refresh
        self.looked_at: set[Path] = set()
        self.extends = (
            0.4 if KILLS else 0.0
        )  # of the refreshes: an index that is added to is not removed

    # What happens to source and model.

    def champion(self, number: int) -> None:
        """Point the alias to a model."""
        self.model = number
        model = settings_of(self.lake).model
        spec = describe_checkpoint(
            model.model_copy(update={"checkpoint": str(self.models[number])})
        )
        self.registry.register(spec, alias="champion")

    def change(self) -> None:
        """Rows come, change and go, together no fewer than fill three micro-batches."""
        rows = source_rows(range(self.next_row, self.next_row + 2))
        self.next_row += 2
        self.spark.createDataFrame(rows, SOURCE_SCHEMA).repartition(2).write.format("delta").mode(
            "append"
        ).save(str(self.source))
        table = f"delta.`{self.source}`"
        some = self.chance.randrange(4)
        self.spark.sql(f"UPDATE {table} SET title = concat(title, '!') WHERE hash(id) % 4 = {some}")
        self.spark.sql(f"DELETE FROM {table} WHERE id = 'p{self.next_row - ROWS - 1}'")

    # Refreshes.

    def start(self, *command: str) -> subprocess.Popen:
        """A gme-lake command in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.driver.cli", *command],
            cwd=self.processes.folder,
            env=self.processes.environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=(self.processes.folder / "said.log").open("w"),
            text=True,
            start_new_session=True,
        )

    def refresh(self, kill: Kill | None = None) -> bool:
        """One refresh, and whether it came to its end; without a kill, or with one of a helper alone, it has to."""
        run = self.start("refresh-lake", "--json", *self.sets)
        try:
            reached = kill is not None and self.wait_for(kill, run)
            if kill is not None and reached:
                time.sleep(kill.later)
                reached = self.end(kill.victim, run)
                self.killed[kill.victim] += reached
            self.missed += kill is not None and not reached
            if kill is not None and reached and kill.victim.startswith("driver"):
                run.communicate(timeout=60)
                self.wait_until_alone()
                self.check_left()
                return False
            said, _ = run.communicate(timeout=400)
        except BaseException:
            os.killpg(run.pid, signal.SIGKILL)
            raise
        told = (self.processes.folder / "said.log").read_text()
        assert run.returncode == 0, f"{kill}: {said}{told[-6000:]}"
        assert json.loads(said.splitlines()[-1])["outcome"] in ("released", "nothing")
        return True

    @property
    def sets(self) -> list[str]:
        """Arguments of every command."""
        return sets(
            [
                f"lake.root={self.lake.root}",
                f"source.table={self.source}",
                "embed.files_per_batch=1",
                "embed.max_deleted=1",
                f"index.extend={str(self.chance.random() < self.extends).lower()}",
                "refresh.keep_releases=1",
                "refresh.keep_days=0",
                "serving.threads=1",
                "spark.master=local[2,4]",
                "spark.driver_memory=1g",
                f"spark.conf.spark.driver.extraJavaOptions=-XX:+UseSerialGC {QUICK_JAVA}",
                *(f"spark.conf.{name}={value}" for name, value in QUICK_CONF.items()),
            ]
        )

    def wait_for(self, kill: Kill, run: subprocess.Popen) -> bool:
        """Whether the moment of a kill has come; False where the refresh ended before."""
        patterns, number = kill.moment
        before = set(self.paths(patterns))
        give_up = time.monotonic() + 400
        while run.poll() is None:
            if len(set(self.paths(patterns)) - before) >= number:
                return True
            assert time.monotonic() < give_up, f"not within 400 s: {kill}"
            time.sleep(0.01)
        return False

    def paths(self, patterns: tuple[str, ...]) -> Iterator[Path]:
        """What there is of some patterns in the lake; of a folder that goes meanwhile, perhaps a part."""
        for pattern in patterns:
            try:
                yield from Path(self.lake.root).glob(pattern)
            except FileNotFoundError:
                continue

    def end(self, victim: str, run: subprocess.Popen) -> bool:
        """Kill; False where the refresh came to its end before there was somebody."""
        while run.poll() is None:
            if victim == "driver":
                os.killpg(run.pid, signal.SIGKILL)
                return True
            if victim == "driver alone":
                os.kill(run.pid, signal.SIGKILL)
                return True
            # They start after what is waited for.
            if found := self.processes.servers() if victim == "server" else self.workers():
                self.chance.choice(found).kill()
                return True
            time.sleep(0.05)
        return False

    def workers(self) -> list[psutil.Process]:
        """Python workers of executors: children of Spark's daemon."""
        daemons = self.processes.find("pyspark.daemon")
        return [p for p in daemons if p.ppid() in {daemon.pid for daemon in daemons}] or daemons

    def wait_until_alone(self) -> None:
        """A killed driver takes its JVM along, that its workers, and those their model server."""
        give_up = time.monotonic() + 60
        while left := self.processes.find(""):
            assert time.monotonic() < give_up, f"left after a kill: {[p.cmdline() for p in left]}"
            time.sleep(0.1)

    def check_left(self) -> None:
        """Of the micro-batches that a killed refresh has given to the model, one at most is not in `vectors`."""
        for staging in set(Path(self.lake.root).glob("staging/*")) - self.looked_at:
            self.looked_at.add(staging)
            rows = self.lake.read("vectors").where(f"run_id = '{staging.name}'").collect()
            committed = {row.id for row in rows}
            lost = 0
            for embedded in staging.glob("batch-*/embedded"):
                pending = self.spark.read.parquet(str(embedded.parent / "pending")).collect()
                lost += not {row.id for row in pending} <= committed
            self.most_twice = max(self.most_twice, lost)
            assert lost <= 1, f"{lost} micro-batches of run {staging.name} are embedded twice"

    # What a clean run would have made.

    def expected(self) -> dict[str, np.ndarray]:
        """Vectors by id, float32 (d,): the encoder's, of the source as it is."""
        rows = self.spark.read.format("delta").load(str(self.source)).collect()
        inputs = {
            row.id: Row(text=f"{row.title} {row.description}", image=bytes(row.image))
            for row in rows
        }
        keys = {
            name: (self.model, f"{given.text}|{hash(given.image)}")
            for name, given in inputs.items()
        }
        new = {keys[name]: given for name, given in inputs.items() if keys[name] not in self.known}
        if new:
            vectors = self.encoders[self.model].encode(list(new.values())).vectors
            self.known |= dict(zip(new, vectors, strict=True))
        return {name: self.known[key] for name, key in keys.items()}

    def compare(self) -> None:
        """Tables and searches with what one clean run makes of the source."""
        lake = self.lake
        expected = self.expected()
        release = current_release(lake)
        model = self.registry.resolve()
        assert release is not None and release.model_id == model.spec.model_id
        rows = lake.read("vectors").where(f"model_id = '{release.model_id}'").collect()
        found = {row.id: row for row in rows}
        assert len(found) == len(rows) and set(found) == set(expected)
        names = sorted(expected)
        wanted = np.stack([expected[name] for name in names])
        got = np.array([found[name].embedding for name in names], np.float32)
        assert np.abs(got - wanted).max() < 1e-5

        indexes = {row.index_id: row for row in lake.read("indexes").collect()}
        index = indexes[release.index_id]
        assert index.rows == len(expected)
        age = index_age(lake, whole_manifest(lake, index))
        assert (age.missing, age.gone) == (0, 0)
        for row in indexes.values():
            whole_manifest(lake, row)
        shards = lake.read("index_shards").select("index_id", "path").collect()
        assert {row.index_id for row in shards} == set(indexes)
        assert len(set(shards)) == len(shards)

        releases = newest_releases(lake, limit=None)
        numbers = [one.release_id for one in releases]
        assert numbers == list(range(len(releases), 0, -1))
        assert all(a.shown != b.shown for a, b in itertools.pairwise(releases))
        decided = lake.read("gate_decisions").collect()
        assert all(row.passed and not row.forced for row in decided)
        assert {one.index_id for one in releases} <= {row.index_id for row in decided}
        ((_, decision),) = read_decisions(lake, limit=1)
        assert decision.passed

        runs = lake.spark.table(lake.name("runs")).collect()
        states = Counter((row.job, row.status) for row in runs)
        assert not [state for state in states if state[1] == "running"], states
        marks = {row.mark for row in lake.read("index_marks").collect()}
        assert marks <= {"held"}, "an index is still marked, or being removed"
        self.compare_search(expected)

    def compare_search(self, expected: dict[str, np.ndarray]) -> None:
        """The nearest ten of three vectors, against all products."""
        names = sorted(expected)
        matrix = np.stack([expected[name] for name in names])
        for number in range(3):
            query = expected[self.chance.choice(names)] + 0.3 * matrix[number]
            query = (query / np.linalg.norm(query)).astype(np.float32)
            frame = self.spark.createDataFrame([(query.tolist(),)], "query array<float>")
            frame.createOrReplaceTempView("asked")
            register_functions(self.lake, settings_of(self.lake))
            found = self.spark.sql(
                "SELECT hit.* FROM asked, LATERAL vector_search(asked.query, 10) hit ORDER BY rank"
            ).collect()
            scores = matrix @ query
            best = np.sort(scores)[::-1][:10]
            assert np.abs(np.array([hit.score for hit in found]) - best).max() < 1e-5
            own = dict(zip(names, scores, strict=True))
            assert all(abs(own[hit.id] - hit.score) < 1e-5 for hit in found)
            assert len({hit.id for hit in found}) == len(best)

    def check_nothing_left(self) -> None:
        """After vacuum-indexes: no folder but the release's, no socket, no process."""
        run = self.start("vacuum-indexes", "--retain-hours", "0", "--releases", "1", *self.sets)
        said, _ = run.communicate(timeout=200)
        assert run.returncode == 0, said
        root = Path(self.lake.root)
        left = [path for name in ("staging", "streams") for path in (root / name).glob("*")]
        assert not left, "a killed refresh's files stay"
        indexes = {row.index_id: row for row in self.lake.read("indexes").collect()}
        assert {path.name for path in (root / "indexes").iterdir()} == set(indexes)
        # The release's, the newest of each other model that has vectors, and what those add to.
        release = current_release(self.lake)
        assert release is not None
        bases = {json.loads(row.params)["base"] for row in indexes.values()}
        own = [row.model_id for name, row in indexes.items() if name not in bases]
        assert release.index_id in set(indexes) - bases and len(set(own)) == len(own)
        self.wait_until_alone()
        assert not self.processes.leftovers()


@pytest.fixture
def night(spark, checkpoint: Path, open_lake, tmp_path_factory) -> Iterator[Night]:
    folder = Path(tempfile.mkdtemp(prefix="gme-kill-"))  # short: sockets lie in it
    other = tmp_path_factory.mktemp("other") / "checkpoint"
    write_scratch_checkpoint(other, seed=1, hidden=64, layers=2, texts=["a red mug", "a kite"])
    source = folder / "products"
    frame = spark.createDataFrame(source_rows(range(ROWS)), SOURCE_SCHEMA).repartition(4)
    frame.write.format("delta").option("delta.enableChangeDataFeed", "true").save(str(source))
    lake = open_lake(
        f"source.table={source}",
        "model.profile=tiny",
        root=folder / "lake",
    )
    night = Night(spark, lake, source, [checkpoint, other], Processes(folder))
    yield night
    for process in night.processes.find(""):
        process.kill()
    shutil.rmtree(folder)


def test_a_killed_refresh_is_continued_and_leaves_nothing_behind(night: Night):
    night.champion(0)
    kills = drawn_kills(night.chance) if KILLS else IN_SUITE
    ended = False
    for number, kill in enumerate(kills, start=1):
        if number > 1:
            night.change()
        if kill.new_model:
            night.champion(1 - night.model)
        began = time.monotonic()
        ended = night.refresh(kill)
        print(f"{number} {kill} ended={ended} {time.monotonic() - began:.0f} s", flush=True)
        if number % COMPARED_EVERY == 0 and number < len(kills):
            if not ended:
                night.refresh()
            night.compare()
            print(f"{number} compared, killed {night.killed}, missed {night.missed}", flush=True)
    if not ended:
        night.refresh()
    night.compare()
    night.check_nothing_left()
    print(f"killed {night.killed}, missed {night.missed}, most twice {night.most_twice}")
    # Not every refresh comes to every point: an index that is added to is not removed.
    assert sum(night.killed.values()) >= 0.6 * len(kills)
