"""vacuum-indexes removes what nothing needs: never an index that is searched, added to, rolled back to, or young.

What happens at the same moment is played step by step: another run's whole work between two steps of a vacuum, and the
other way round.
"""

import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from jobs import vacuum_indexes
from jobs.driver.cli import JobContext
from jobs.lake import index_marks, releases
from jobs.lake.claims import claim
from jobs.lake.index_marks import hold, read_marks
from jobs.lake.indexes import find_index, read_manifest
from jobs.lake.lake import now
from jobs.lake.releases import Release, current_release, promote, rollback
from jobs.lake.runs import Run, open_run, record_end
from jobs.stages.index import commit
from jobs.stages.index import vacuum as vacuuming
from jobs.stages.index.vacuum import plan_vacuum, vacuum
from jobs.stages.search.target import find_target
from tests.lake_settings import settings_of
from tests.spark.index_vectors import append_vectors, build, model_of, released, unit
from udfs.errors import ActiveRunError, IndexDataError, LakeError
from udfs.search.index import Index
from udfs.specs import SearchOptions

pytestmark = pytest.mark.spark

DIM, ROWS = 8, 2000
NOW = timedelta(0)
FACTORY = ("index.factory=IVF{nlist},Flat", "index.nlist=4")


def vacuumed(lake, **options):
    """What was removed."""
    return done(lake, plan_vacuum(lake, **{"releases": 1, "retain": NOW, **options}))


def done(lake, planned):
    with record_end(Run(lake, "vacuum_indexes", "{}")) as run:
        return vacuum(lake, run, planned)


@contextmanager
def during(monkeypatch, module, step, *, before=None, after=None):
    """Something else happens right before or after a step of a run, once."""
    real = getattr(module, step)

    def played(*arguments, **options):
        monkeypatch.setattr(module, step, real)
        if before is not None:
            before()
        result = real(*arguments, **options)
        if after is not None:
            after()
        return result

    monkeypatch.setattr(module, step, played)
    yield
    assert getattr(module, step) is real, f"{step} was never taken"


def killed():
    raise KeyboardInterrupt


def show(lake, *index_ids):
    """Release indexes one after another by the rows that promotes leave: a tenth of what a promote costs."""
    latest = current_release(lake)
    first = latest.release_id + 1 if latest else 1
    versions = {row.index_id: row.vectors_version for row in lake.read("indexes").collect()}
    shown = [Release(n, "model-a", versions[i], i) for n, i in enumerate(index_ids, start=first)]
    lake.append("releases", [{**vars(one), "released_at": now(), "by_run": ""} for one in shown])


def index_ids(lake, table: str = "indexes") -> set[str]:
    return {row.index_id for row in lake.read(table).select("index_id").distinct().collect()}


def on_disk(lake) -> set[str]:
    return {path.name for path in Path(lake.folder("indexes")).iterdir()}


@pytest.mark.long
def test_what_is_released_newest_or_added_to_stays(open_lake, monkeypatch):
    lake = open_lake(*FACTORY)
    model = model_of("model-a", DIM)
    append_vectors(lake, unit(30, DIM), model_id="model-b")
    other = build(open_lake(), model_of("model-b", DIM))[0].spec.index_id
    append_vectors(lake, unit(ROWS, DIM), model_id="model-a")
    first = build(lake, model)[0].spec.index_id
    second = build(open_lake(*FACTORY, "index.seed=1"), model)[0].spec.index_id
    append_vectors(lake, unit(50, DIM, seed=1), model_id="model-a")
    # Nothing needs the first but the build that is about to add to it: it holds what it will name.
    done(lake, plan_vacuum(lake, releases=1, retain=timedelta(hours=1)))
    assert read_marks(lake)[first].mark == "unused"
    with during(monkeypatch, commit, "hold", after=lambda: vacuumed(lake)):
        added, _ = build(lake, model)
    assert added.extension is not None and added.extension.base.spec.index_id == first
    assert first in on_disk(lake)
    third = added.spec.index_id
    # The second is released; the third and the other model's are the newest; the first is what the third adds to.
    released(lake, promote, index_id=second)
    assert plan_vacuum(lake, releases=1, retain=NOW).indexes == ()
    # A rollback goes from the third to the second, whatever else was released again meanwhile.
    show(lake, third, second, third)
    assert plan_vacuum(lake, releases=2, retain=NOW).indexes == ()
    young = plan_vacuum(lake, releases=1, retain=timedelta(hours=1))
    assert (young.indexes, young.folders, young.bytes) == ((), (), 0)
    assert young.marked == (second,) and "for removal in 1 hours" in str(young)

    planned = plan_vacuum(lake, releases=1, retain=NOW)
    assert planned.indexes == (second,) and planned.bytes > 0 and second in str(planned)
    assert index_ids(lake) == on_disk(lake) == {other, first, second, third}
    assert vacuumed(lake) == planned
    kept = {other, first, third}
    assert index_ids(lake) == index_ids(lake, "index_shards") == on_disk(lake) == kept
    assert second not in read_marks(lake)
    found = Index.open(lake.folder("indexes", third)).search(unit(3, DIM), SearchOptions(5))
    assert len(found.I) == 3
    with pytest.raises(LakeError, match=f"has index {second}, which is no longer in"):
        released(lake, rollback)
    runs = lake.read("runs").where("job = 'vacuum_indexes'")
    run = runs.orderBy("started_at", ascending=False).first()
    assert run.counts["indexes_removed"] == 1 and run.counts["bytes_removed"] == planned.bytes
    assert plan_vacuum(lake, releases=1, retain=NOW).folders == ()


def test_folders_that_killed_runs_left_go_when_they_are_old(open_lake):
    lake = open_lake()
    append_vectors(lake, unit(30, DIM), model_id="model-a")
    kept = build(lake, model_of("model-a", DIM))[0].spec.index_id
    left = [
        lake.folder("indexes", "0123456789abcdef"),
        lake.folder("staging", "killed"),
        lake.folder("streams", "model-that-was-given-up"),
    ]
    for folder in left:
        file = Path(folder) / "deep" / "file"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"12345")
        for path in (file, file.parent, Path(folder)):
            os.utime(path, (1e9, 1e9))
    os.utime(Path(lake.folder("indexes", kept)), (1e9, 1e9))
    young = Path(lake.folder("staging", "running"))
    young.mkdir()
    # What is beside the lake is not of it, however it is called: a link in a copied lake leads to the original.
    outside = Path(lake.root).parent / "another lake" / "deep"
    outside.mkdir(parents=True)
    (outside / "file").write_bytes(b"not ours")
    os.utime(outside / "file", (1e9, 1e9))
    for name in ("indexes/fedcba9876543210", "staging/link"):
        Path(lake.folder(name)).symlink_to(outside)
    lake.append("index_shards", [shard_row("../staging"), shard_row("rows-without-files")])

    hour = timedelta(hours=1)
    first = vacuumed(lake, retain=hour)
    assert first.folders == (left[1], left[2]) and first.bytes == 10
    assert set(first.marked) == {"0123456789abcdef", "rows-without-files"}
    assert not vacuumed(lake, retain=hour).folders  # not yet
    lake.spark.sql(
        f"UPDATE {lake.name('index_marks')} SET marked_at = marked_at - INTERVAL 2 HOURS"
    )
    second = vacuumed(lake, retain=hour)
    assert second.folders == (left[0],) and set(second.left) == set(first.marked)
    assert young.exists() and not any(Path(folder).exists() for folder in left)
    assert index_ids(lake) == {kept} == on_disk(lake) - {"fedcba9876543210"}
    assert index_ids(lake, "index_shards") == {kept, "../staging"}
    assert (outside / "file").read_bytes() == b"not ours"


def shard_row(index_id: str) -> dict:
    """A row that a build left which was killed between its two commits, or an older vacuum between its deletions."""
    fixed = {"shard": 0, "kind": "base", "path": "x", "sha256": "", "bytes": 1, "rows": 1}
    return {"index_id": index_id, **fixed}


@pytest.mark.long
def test_promote_and_vacuum_at_the_same_moment_and_vacuums_that_are_killed(open_lake, monkeypatch):
    lake = open_lake()
    append_vectors(lake, unit(30, DIM), model_id="model-a")
    model = model_of("model-a", DIM)
    old, _, newest = (
        build(open_lake(f"index.seed={seed}"), model)[0].spec.index_id for seed in range(3)
    )

    def promoted(index_id=old):
        with record_end(Run(lake, "release", "{}")) as run:
            promote(lake, run, index_id=index_id, limits=settings_of(lake).release)

    def is_shown_and_whole():
        assert current_release(lake).index_id == find_target(lake).index_id == old
        marks = read_marks(lake)
        assert old not in marks or marks[old].mark != "removing"
        show(lake, newest)

    show(lake, newest, old, newest)
    # Promoted between plan and mark; between mark and claim; held, and not appended yet, during a whole vacuum.
    for step in ("mark_unused", "claim"):
        planned = plan_vacuum(lake, releases=1, retain=NOW)
        assert old in planned.indexes
        with during(monkeypatch, vacuuming, step, before=promoted):
            assert old not in done(lake, planned).indexes
        is_shown_and_whole()
    with during(monkeypatch, releases, "_append", before=lambda: vacuumed(lake)):
        promoted()
    is_shown_and_whole()
    assert on_disk(lake) == {old, newest}  # the other went in one of these

    # Claimed first: the promote is refused, and so is a build that names it.
    before = current_release(lake)
    manifest = read_manifest(lake, find_index(lake, old))

    def committed():
        with record_end(Run(lake, "build_index", "{}")) as run:
            commit.commit_index(lake, run, manifest)

    def refused():
        with pytest.raises(LakeError, match=f"index {old} is being removed by vacuum-indexes"):
            promoted()
        with pytest.raises(LakeError, match="is being removed"):
            committed()

    # Killed before each deletion: the next vacuum finishes; meanwhile nothing can be made of what is left.
    planned = plan_vacuum(lake, releases=1, retain=NOW)
    with (
        during(monkeypatch, vacuuming, "claim", after=refused),
        during(monkeypatch, vacuuming, "delete_rows", before=killed),
        pytest.raises(KeyboardInterrupt),
    ):
        done(lake, planned)
    assert old in index_ids(lake)
    shards_only = iter([None, killed])
    real = vacuuming.delete_rows

    def second_is_killed(*arguments):
        if (act := next(shards_only)) is not None:
            act()
        real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(vacuuming, "delete_rows", second_is_killed)
        vacuumed(lake)
    assert old not in index_ids(lake) and old in index_ids(lake, "index_shards")
    with pytest.raises(LakeError, match=f"index {old} is not in"):
        promoted()
    for step in ("remove_within", "forget"):
        with (
            during(monkeypatch, vacuuming, step, before=killed),
            pytest.raises(KeyboardInterrupt),
        ):
            vacuumed(lake)
        assert old not in index_ids(lake, "index_shards")
        assert (old in on_disk(lake)) == (step == "remove_within")
    assert vacuumed(lake).left == (old,) and old not in read_marks(lake)
    assert index_ids(lake) == index_ids(lake, "index_shards") == on_disk(lake) == {newest}

    # A vacuum from claim to end while a promote, or a build, has looked and not held: nothing is appended.
    assert current_release(lake) == before
    with pytest.raises(IndexDataError, match=r"was not committed: .* is gone"):
        committed()
    again = build(open_lake("index.seed=0"), model)[0].spec.index_id
    third = build(open_lake("index.seed=2", "index.extend=false"), model)[0]
    assert (again, third.built) == (old, False)
    lake.spark.sql(
        f"UPDATE {lake.name('indexes')} SET built_at = built_at - INTERVAL 1 DAY "
        f"WHERE index_id = '{old}'"
    )
    with (
        during(monkeypatch, releases, "hold", before=lambda: vacuumed(lake)),
        pytest.raises(LakeError, match=f"index {old} is not in"),
    ):
        promoted()
    assert current_release(lake) == before and find_target(lake).index_id == newest
    # A run that was killed while it held an index holds it for a day.
    hold(lake, Run(lake, "release", "{}"), [newest])
    assert read_marks(lake)[newest].mark == "held"


def test_a_hold_whose_index_is_removed_under_it_says_so(open_lake, monkeypatch):
    lake = open_lake()
    run, marks = Run(lake, "release", "{}"), lake.name("index_marks")
    hold(lake, run, ["one", "two"])
    assert {mark.mark for mark in read_marks(lake).values()} == {"held"}
    lake.spark.sql(f"UPDATE {marks} SET mark = 'removing' WHERE index_id = 'two'")
    with pytest.raises(LakeError, match="index two is being removed"):
        hold(lake, run, ["one", "two"])

    def forgotten():
        lake.spark.sql(f"DELETE FROM {marks} WHERE index_id = 'two'")

    with (
        during(monkeypatch, index_marks, "require_not_removing", before=forgotten),
        pytest.raises(LakeError, match="came to its end meanwhile with one of one, two"),
    ):
        hold(lake, run, ["one", "two"])


def test_the_command_takes_its_claim_and_is_recorded(spark, open_lake, tracking_uri):
    lake = open_lake(f"mlflow.tracking_uri={tracking_uri}")
    append_vectors(lake, unit(30, DIM), model_id="model-a")
    build(lake, model_of("model-a", DIM))
    context = JobContext(settings_of(lake))
    context.__dict__["session"] = spark
    command = vacuum_indexes.command.callback.__wrapped__
    for _ in range(2):  # the second finds the claim of the first ended
        report = command(context, releases=1, retain_hours=0, dry_run=False)
        assert report.values["removed"] and report.values["indexes"] == ()
    with (
        open_run(lake, context.registry, job="vacuum_indexes") as run,
        claim(run, name=run.job, timeout=300),
        pytest.raises(ActiveRunError, match="another run of vacuum-indexes is active"),
    ):
        command(context, releases=1, retain_hours=0, dry_run=False)
