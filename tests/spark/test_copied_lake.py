"""A lake that was copied or moved is a lake of its own: it works, and never touches the one it came from."""

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from jobs.lake.indexes import find_index
from jobs.lake.lake import Lake
from jobs.lake.releases import current_release, promote, rollback
from jobs.lake.runs import Run, record_end
from jobs.stages.index.vacuum import plan_vacuum, vacuum
from jobs.stages.recall.job import measure_recall, open_spec
from jobs.stages.search.target import find_target, search_spec
from jobs.stages.sql.session_functions import register_functions
from tests.lake_settings import settings_of
from tests.spark.index_vectors import append_vectors, build, model_of, unit
from udfs.errors import LakeError
from udfs.search.index import Index
from udfs.specs import SearchOptions

pytestmark = [pytest.mark.spark, pytest.mark.long]

DIM, ROWS = 16, 800
SETS = ("index.factory=IVF{nlist},Flat", "index.nlist=4", "index.nprobe=4", "recall.held_out=20")


def contents(root: str) -> dict[str, str]:
    """sha-256 of every file of a lake but MLflow's own."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(root).rglob("*")
        if path.is_file() and not path.name.startswith("mlflow.db")
    }


def released(lake: Lake, action, **options):
    if action is promote:
        options["limits"] = settings_of(lake).release
    with record_end(Run(lake, "release", "{}")) as run:
        return action(lake, run, **options)


def found(lake: Lake, query: np.ndarray) -> list[str]:
    """Ids by the released index, in Python and in SQL, which agree."""
    target = find_target(lake)
    root = target.manifest.spec.root
    assert root == lake.folder("indexes", target.index_id)
    with record_end(Run(lake, "search", "{}")) as run:
        spec = search_spec(
            run,
            settings_of(lake).search,
            target=target,
            staging=lake.folder("staging", run.run_id),
        )
    shutil.rmtree(lake.folder("staging"), ignore_errors=True)
    assert (spec.root, spec.manifest_sha256) == (root, target.manifest_sha256)
    index = Index.open(root, model_id="model-a", manifest_sha256=spec.manifest_sha256)
    ids = index.search(query, SearchOptions(5)).ids[0].tolist()
    vector = "array(" + ",".join(f"{value!r}" for value in query[0].tolist()) + ")"
    register_functions(lake, settings_of(lake))
    rows = lake.spark.sql(f"SELECT * FROM vector_search({vector}, 5)").collect()
    assert [row.id for row in sorted(rows, key=lambda row: row.rank)] == ids
    shutil.rmtree(lake.folder("staging"), ignore_errors=True)  # of the session, which has it open
    return ids


@pytest.fixture
def other_schema(spark):
    name = "gme_of_a_copy"
    yield f"lake.schema={name}"
    spark.sql(f"DROP SCHEMA IF EXISTS {name} CASCADE")


def test_a_copied_lake_and_a_moved_one_work_and_leave_the_original_alone(
    open_lake, other_schema, tmp_path
):
    lake, model = open_lake(*SETS), model_of("model-a", DIM)
    append_vectors(lake, unit(ROWS, DIM), model_id="model-a")
    first = build(lake, model)[0].spec.index_id
    released(lake, promote, index_id=first)
    query = unit(1, DIM, seed=9)
    wanted = found(lake, query)
    assert find_index(lake, first).root == f"./indexes/{first}"
    assert all(row.path.startswith("./indexes/") for row in lake.read("index_shards").collect())
    assert lake.root not in Path(lake.folder("indexes", first, "manifest.json")).read_text()
    before = contents(lake.root)

    root = tmp_path / "a copy"
    shutil.copytree(lake.root, root)
    with pytest.raises(LakeError, match=r"another lake is known under this schema.*lake.schema"):
        open_lake(*SETS, root=root)
    copy = open_lake(*SETS, other_schema, root=root)
    assert found(copy, query) == wanted
    spec = open_spec(copy, first)
    with record_end(Run(copy, "measure_recall", "{}")) as run:
        assert (
            measure_recall(copy, run, spec=spec, model=model, settings=settings_of(copy)).spec.root
            == spec.root
        )
    append_vectors(copy, unit(40, DIM, seed=1), model_id="model-a")
    added, _ = build(copy, model)
    assert added.extension is not None and added.extension.base.spec.root == spec.root
    released(copy, promote, index_id=added.spec.index_id)
    released(copy, rollback)
    assert current_release(copy).index_id == first and found(copy, query) == wanted

    # As an older version wrote them: absolute, and so of the original. The copy's own files are meant.
    table = copy.name("indexes")
    copy.spark.sql(f"UPDATE {table} SET root = '{lake.root}/indexes/' || index_id")
    assert found(copy, query) == wanted
    copy.spark.sql(f"UPDATE {table} SET built_at = built_at - INTERVAL 2 DAYS")
    append_vectors(copy, unit(300, DIM, seed=2), model_id="model-a")
    whole, _ = build(copy, model)
    assert whole.extension is None
    for _ in range(2):
        released(copy, promote, index_id=whole.spec.index_id)
    planned = plan_vacuum(copy, releases=1, retain=timedelta(0))
    assert set(planned.indexes) == {first, added.spec.index_id}
    assert all(folder.startswith(f"{root}/indexes/") for folder in planned.folders)
    with record_end(Run(copy, "vacuum_indexes", "{}")) as run:
        assert vacuum(copy, run, planned).indexes == planned.indexes
    assert [path.name for path in (root / "indexes").iterdir()] == [whole.spec.index_id]
    assert contents(lake.root) == before

    # Moved: the catalog still has the old place, where nothing is any more.
    wanted = found(copy, query)
    moved = open_lake(*SETS, other_schema, root=Path(shutil.move(root, tmp_path / "moved")))
    assert found(moved, query) == wanted and moved.read("indexes").count() == 1
    assert not root.exists() and contents(lake.root) == before
