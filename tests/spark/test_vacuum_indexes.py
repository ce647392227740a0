"""vacuum-indexes removes what nothing needs: never an index that is searched, added to, rolled back to, or young."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.driver.registry import Registry
from jobs.driver.releases import promote, rollback
from jobs.driver.runs import open_run
from jobs.stages.vacuuming import plan_vacuum, vacuum
from tests.spark.index_vectors import append_vectors, build, model_of, released, unit
from udfs.ann.search import Searcher
from udfs.errors import LakeError

pytestmark = pytest.mark.spark

DIM, ROWS = 8, 2000
NOW = timedelta(0)
FACTORY = ("index.factory=IVF{nlist},Flat", "index.nlist=4")


def vacuumed(lake, **options):
    """What was removed."""
    planned = plan_vacuum(lake, **{"releases": 1, "retain": NOW, **options})
    with open_run(lake, Registry(lake.settings), job="vacuum_indexes") as run:
        vacuum(lake, run, planned)
    return planned


def index_ids(lake, table: str = "indexes") -> set[str]:
    return {row.index_id for row in lake.read(table).select("index_id").distinct().collect()}


def on_disk(lake) -> set[str]:
    return {path.name for path in Path(lake.folder("indexes")).iterdir()}


def test_what_is_released_newest_or_added_to_stays(open_lake):
    lake = open_lake(*FACTORY)
    model = model_of("model-a", DIM)
    append_vectors(lake, unit(30, DIM), model_id="model-b")
    other = build(open_lake(), model_of("model-b", DIM))[0].spec.index_id
    append_vectors(lake, unit(ROWS, DIM), model_id="model-a")
    first = build(lake, model)[0].spec.index_id
    second = build(open_lake(*FACTORY, "index.seed=1"), model)[0].spec.index_id
    append_vectors(lake, unit(50, DIM, seed=1), model_id="model-a")
    added, _ = build(lake, model)
    assert added.extension is not None and added.extension.base.spec.index_id == first
    third = added.spec.index_id
    # The second is released; the third and the other model's are the newest; the first is what the third adds to.
    released(lake, promote, index_id=second)
    assert plan_vacuum(lake, releases=1, retain=NOW).indexes == ()
    # A rollback goes from the third to the second, whatever else was released again meanwhile.
    for index_id in (third, second, third):
        released(lake, promote, index_id=index_id)
    assert plan_vacuum(lake, releases=2, retain=NOW).indexes == ()
    young = plan_vacuum(lake, releases=1, retain=timedelta(hours=1))
    assert (young.indexes, young.folders, young.bytes) == ((), (), 0)

    planned = plan_vacuum(lake, releases=1, retain=NOW)
    assert planned.indexes == (second,) and planned.bytes > 0 and second in str(planned)
    assert index_ids(lake) == on_disk(lake) == {other, first, second, third}
    assert vacuumed(lake) == planned
    kept = {other, first, third}
    assert index_ids(lake) == index_ids(lake, "index_shards") == on_disk(lake) == kept
    assert len(Searcher.open(lake.folder("indexes", third)).search(unit(3, DIM), k=5).I) == 3
    with pytest.raises(LakeError, match=f"has index {second}, which is no longer in"):
        released(lake, rollback)
    run = lake.read("runs").where("job = 'vacuum_indexes'").first()
    assert run.counts["indexes_removed"] == 1 and run.counts["bytes_removed"] == planned.bytes
    assert plan_vacuum(lake, releases=1, retain=NOW).folders == ()


def test_folders_that_killed_runs_left_go_when_they_are_old(open_lake):
    lake = open_lake()
    append_vectors(lake, unit(30, DIM), model_id="model-a")
    kept = build(lake, model_of("model-a", DIM))[0].spec.index_id
    left = [lake.folder("indexes", "0123456789abcdef"), lake.folder("staging", "killed")]
    for folder in left:
        file = Path(folder) / "deep" / "file"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"12345")
        for path in (file, file.parent, Path(folder)):
            os.utime(path, (1e9, 1e9))
    os.utime(Path(lake.folder("indexes", kept)), (1e9, 1e9))
    young = Path(lake.folder("staging", "running"))
    young.mkdir()
    planned = vacuumed(lake, retain=timedelta(hours=1))
    assert (planned.folders, planned.bytes) == (tuple(sorted(left)), 10)
    assert young.exists() and not any(Path(folder).exists() for folder in left)
    assert index_ids(lake) == on_disk(lake) == {kept}
