"""Every notebook of a lake, in one kernel and session against one small lake like the demo's: to start them costs most."""

import json
import os
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from jobs.driver.session import QUICK_JAVA
from jobs.lake.lake import now
from jobs.lake.registry import Registry
from jobs.lake.releases import Release, current_release
from jobs.lake.runs import open_run
from jobs.lake.sql_functions import SQL_FUNCTIONS
from jobs.stages.demo.drawn_catalogue import draw_catalogue
from jobs.stages.demo.job import QUERY_SCHEMA, demo_queries
from jobs.stages.duplicates.job import find_duplicates
from jobs.stages.recall.job import index_to_measure, measure_recall
from jobs.stages.search.target import find_target
from tests.lake_settings import settings_of
from tests.spark.index_vectors import release

pytestmark = [
    pytest.mark.spark,
    pytest.mark.long,
    pytest.mark.timeout(1200),  # one lake is made for all
]

FOLDER = Path(__file__).parents[2] / "notebooks"
# These are shown from a results file, without a lake: tests/unit/training/test_ablations.py, synthesis/test_notebook.py.
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
NOTEBOOKS = [name for name in NOTEBOOKS if name not in {"ablations", "synthesis"}]
# What each needs beside a release, and the command that it names where that is missing.
NEEDS = {
    "model_change": "gme-lake refresh-lake",
    "near_duplicates": "gme-lake find-duplicates",
    "recall_and_cost": "gme-lake measure-recall",
}
ROWS, OTHER = 120, "another-model"


def make_demo(shop):
    """The demo's lake, small and by random weights, with recall, duplicates and another model; its settings."""
    root = Path(shop.table).parent
    shop.sets += [f"draw.rows={ROWS}", "draw.files=2", "index.shards=2", "index.full_text=true"]
    shop.sets += ["index.factory=IVF{nlist},SQ8", "index.nlist=2"]
    shop.sets += [f"recall.queries={root}/queries", "recall.k=5", "duplicates.threshold=0.9"]
    shop.sets += [f"duplicates.{name}={root}/{name}" for name in ("pairs", "clusters")]
    settings = settings_of(shop.lake())
    draw_catalogue(shop.spark, settings=settings)
    shop.spark.sql(f"UPDATE delta.`{shop.table}` SET image = X'3C' WHERE id = 'p0000003'")
    queries = shop.spark.createDataFrame(demo_queries(seed=0), QUERY_SCHEMA)
    queries.write.format("delta").save(settings.recall.queries)
    lake, _ = shop.embed()
    release(lake)
    registry = Registry(settings)
    spec, model = index_to_measure(lake, registry, index_id=None)
    with open_run(lake, registry, job="measure_recall") as run:
        measure_recall(lake, run, spec=spec, model=model, settings=settings)
    with open_run(lake, registry, job="find_duplicates") as run:
        find_duplicates(lake, run, target=find_target(lake), settings=settings)
    add_model(lake)
    return settings


def add_model(lake):
    """Vectors of a model that sees every second number, which was released for a while."""
    rows = lake.read("vectors").where("status = 'ok'").drop("vector_id").toPandas()
    x = np.stack(rows.embedding.to_numpy()) * (np.arange(len(rows.embedding[0])) % 2)
    rows["embedding"] = (x / np.linalg.norm(x, axis=1, keepdims=True)).tolist()
    rows["model_id"] = OTHER
    frame = lake.spark.createDataFrame(rows, lake.row_schema("vectors"))
    frame.writeTo(lake.name("vectors")).append()
    first = current_release(lake)
    for number, model_id in ((2, OTHER), (3, first.model_id)):
        row = Release(number, model_id, first.vectors_version, first.index_id)
        lake.append("releases", [{**vars(row), "released_at": now(), "by_run": ""}])


def overlap(lake, k=10):
    """The mean share of each row's k nearest that both models have."""
    rows = lake.read("vectors").where("status = 'ok'").toPandas()
    near = {}
    for model_id, mine in rows.groupby("model_id"):
        mine = mine.sort_values("id")
        x = np.stack(mine.embedding.to_numpy())
        scores = x @ x.T - 9 * np.eye(len(x))
        near[model_id] = [set(line.argsort()[-k:]) for line in scores]
    one, other = near.values()
    return np.mean([len(a & b) / k for a, b in zip(one, other, strict=True)])


@pytest.fixture(scope="module")
def ran(lakes, tmp_path_factory):
    """What the cells of each notebook gave (by its name), of those in NEEDS over a bare lake too (`bare` before its
    name), up to where they look for what they need; and the overlap of the lake's two models.
    """
    bare = tmp_path_factory.mktemp("bare") / "lake"
    with lakes.new_shop("shown") as shop:
        settings = make_demo(shop)
        share = overlap(shop.lake())
    lakes.copy(lakes.released, bare)
    asked = {
        name: nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells for name in NOTEBOOKS
    }
    over_bare = {
        f"bare {name}": asked[name][: 1 + raising(asked[name])] for name in NEEDS
    }  # read anew below: cells keep their outputs
    over_bare = nbformat.from_dict(json.loads(json.dumps(over_bare)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GME_LAKE_LAKE__ROOT", settings.lake.root)
        patch.setenv("GME_LAKE_MLFLOW__TRACKING_URI", settings.mlflow.tracking_uri)
        patch.setenv("GME_LAKE_MODEL__NAME", settings.model.name)
        patch.setenv("GME_LAKE_SPARK__DRIVER_MEMORY", "1g")
        patch.setenv("JDK_JAVA_OPTIONS", QUICK_JAVA)
        # The session under test is this process's own; the kernel starts another one.
        for name in [n for n in os.environ if n.startswith(("PYSPARK_GATEWAY", "SPARK_"))]:
            patch.delenv(name)
        move = f"%env GME_LAKE_LAKE__ROOT={bare}\n%env GME_LAKE_LAKE__SCHEMA=bare"
        cells = [*in_turn(asked), nbformat.v4.new_code_cell(move), *in_turn(over_bare)]
        for number, cell in enumerate(cells):
            cell["id"] = str(number)
        NotebookClient(
            nbformat.v4.new_notebook(cells=cells),
            timeout=240,
            allow_errors=True,
            resources={"metadata": {"path": tmp_path_factory.mktemp("notebooks")}},
        ).execute()
    return asked | dict(over_bare), share


def raising(cells):
    """The number of the cell that raises where something is missing."""
    return next(n for n, cell in enumerate(cells) if "raise LakeError" in cell.source)


def in_turn(notebooks):
    """All cells, those of each notebook after one that forgets what the one before has named."""
    for cells in notebooks.values():
        yield nbformat.v4.new_code_cell("%reset -f")
        yield from cells


def outputs(cells, kind):
    return [o for cell in cells for o in cell.get("outputs", []) if o["output_type"] == kind]


def shown(cells, kind):
    """What cells show as HTML or as plots."""
    every = outputs(cells, "display_data") + outputs(cells, "execute_result")
    return [o["data"][kind] for o in every if kind in o["data"]]


def printed(cells):
    return "".join(o["text"] for o in outputs(cells, "stream") if o["name"] == "stdout")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom_and_is_kept_without_outputs(ran, name):
    cells = ran[0][name]
    errors = [f"{e['ename']}: {e['evalue'][:500]}" for e in outputs(cells, "error")]
    assert errors == []
    assert len(shown(cells, "text/html")) >= 3
    kept = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4).cells
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in kept)


def test_the_tour_in_sql_is_sql_alone_and_calls_every_function(ran):
    _, *statements = (cell for cell in ran[0]["sql_tour"] if cell.cell_type == "code")
    assert all(re.match(r"%%sql\n(SELECT|SHOW|DESCRIBE) ", cell.source) for cell in statements)
    assert all(len(shown([cell], "text/html")) == 1 for cell in statements)
    text = "\n".join(cell.source for cell in statements)
    for function in SQL_FUNCTIONS:
        assert f"{function.name.removeprefix('{schema}.')}(" in text
    views = ("coverage", "rejected_rows", "model_history", "vector_lineage", "index_health")
    assert all(f"FROM {view}" in text for view in views)
    empty = [cell.source for cell in statements if "No rows." in shown([cell], "text/html")[0]]
    assert empty == []
    assert "data:image/jpeg" in shown(statements, "text/html")[5]


def test_a_change_of_the_model_is_told_as_brute_force_finds_it(ran):
    cells, share = ran[0]["model_change"], ran[1]
    assert 0.2 < share < 0.95
    assert f"compared with: {OTHER}" in printed(cells)
    assert abs(float(re.search(r"([\d.]+)% \[", printed(cells))[1]) / 100 - share) < 0.002
    side_by_side, changed = shown(cells, "text/html")[-2:]
    assert side_by_side.count("data:image/jpeg") > 40 and changed.count("data:image/jpeg") > 10
    assert len(shown(cells, "image/png")) == 1


def test_recall_and_duplicates_have_plots_and_pictures(ran):
    recall, duplicates = ran[0]["recall_and_cost"], ran[0]["near_duplicates"]
    assert len(shown(recall, "image/png")) == 3 and len(shown(duplicates, "image/png")) == 2
    table = next(page for page in shown(recall, "text/html") if "recall_low" in page)
    assert all(kind in table for kind in ("any", "text", "image"))
    assert shown(duplicates, "text/html")[-1].count("data:image/jpeg") > 5


@pytest.mark.parametrize("name", NEEDS)
def test_what_is_missing_is_told_with_the_command_that_makes_it(ran, name):
    (error,) = outputs(ran[0][f"bare {name}"], "error")
    assert error["ename"] == "LakeError" and NEEDS[name] in error["evalue"]
