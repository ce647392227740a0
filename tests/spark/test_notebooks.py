"""Every notebook of a lake runs from top to bottom against a small released one."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from jobs.driver.session import QUICK_JAVA
from tests.lake_settings import settings_of

pytestmark = pytest.mark.spark
# These are shown from a results file, without a lake: tests/unit/training/test_ablations.py, synthesis/test_notebook.py.
NOTEBOOKS = sorted(
    path
    for path in (Path(__file__).parents[2] / "notebooks").glob("*.ipynb")
    if path.stem not in {"ablations", "synthesis"}
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, released, tmp_path, monkeypatch):
    settings = settings_of(released.lake())
    monkeypatch.setenv("GME_LAKE_LAKE__ROOT", settings.lake.root)
    monkeypatch.setenv("GME_LAKE_MLFLOW__TRACKING_URI", settings.mlflow.tracking_uri)
    monkeypatch.setenv("GME_LAKE_MODEL__NAME", settings.model.name)
    monkeypatch.setenv("GME_LAKE_SPARK__DRIVER_MEMORY", "1g")
    monkeypatch.setenv("JDK_JAVA_OPTIONS", QUICK_JAVA)
    # The session under test is this process's own; the kernel starts another one.
    for name in [n for n in os.environ if n.startswith(("PYSPARK_GATEWAY", "SPARK_"))]:
        monkeypatch.delenv(name)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": tmp_path}}).execute()
    tables = [o for cell in notebook.cells for o in cell.get("outputs", []) if "data" in o]
    assert len(tables) >= 5
    assert all(not cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells), (
        "notebooks are kept without outputs"
    )
