"""The wheel: what is inside, what it asks for, and that it works as a zip on the import path."""

import email
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.wheel import build_wheel

ROOT = Path(__file__).resolve().parents[2]
OWNED_BY_THE_CLUSTER = {"pyspark", "delta-spark", "torch", "transformers", "mlflow", "pandas"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def _metadata(wheel: Path) -> email.message.Message:
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    return email.message_from_string(archive.read(name).decode())


def test_wheel_holds_all_code_and_conf_and_nothing_else(names: set[str]) -> None:
    for package in ("jobs", "udfs"):
        code = {str(p.relative_to(ROOT)) for p in (ROOT / package).rglob("*.py")}
        assert code <= names
    files = [p for p in (ROOT / "conf").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert {f"jobs/{p.relative_to(ROOT)}" for p in files} <= names
    assert "jobs/reports/templates/search_report.html" in names
    assert {n.split("/")[0] for n in names} == {"jobs", "udfs", "gme_lake-0.1.0.dist-info"}
    assert not [n for n in names if re.search(r"test|\.pyc$|notebook|\.parquet$", n)]
    assert "gme_lake-0.1.0.dist-info/licenses/LICENSE" in names


def test_wheel_never_replaces_what_a_cluster_owns(wheel: Path) -> None:
    required = _metadata(wheel).get_all("Requires-Dist")
    always = {re.match(r"[\w.-]+", line).group() for line in required if "extra ==" not in line}
    assert {"numpy", "faiss-cpu", "pyarrow"} <= always
    assert not always & OWNED_BY_THE_CLUSTER
    in_extras = {re.match(r"[\w.-]+", line).group() for line in required if "extra ==" in line}
    assert in_extras >= OWNED_BY_THE_CLUSTER
    assert _metadata(wheel)["Requires-Python"] == ">=3.11"
    assert _metadata(wheel)["License-Expression"] == "Apache-2.0"


def test_wheel_has_the_console_script(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
    assert "gme-lake = jobs.driver.cli:main" in archive.read(name).decode()


def test_wheel_works_as_a_zip_on_the_import_path(wheel: Path, tmp_path: Path) -> None:
    """As spark-submit --py-files lays it out: another name, never unpacked, from another folder."""
    archive = tmp_path / "gme_lake.zip"
    shutil.copy(wheel, archive)
    code = f"""
import sys
sys.path = [{str(archive)!r}] + [p for p in sys.path if p != {str(ROOT)!r}]
import jobs, udfs
from importlib import resources
from jobs.driver.cli import main
from jobs.settings.conf import conf_file, conf_names, conf_text, profile_named
from jobs.settings.load import load_settings
from udfs.gme.canaries.inputs import canary_rows
assert jobs.__file__.startswith({str(archive)!r}), jobs.__file__
assert udfs.__file__.startswith({str(archive)!r}), udfs.__file__
assert load_settings(files=["demo.yaml"], env={{}}).lake.root == "demo-lake"
assert profile_named("gme-qwen2-vl-2b").dim == 1536
assert len(canary_rows()) == 16
assert "knn.sql" in conf_names("sql") and "SELECT" in conf_text("sql/knn.sql").upper()
with conf_file("log4j2.properties") as path:
    assert "rootLogger" in path.read_text()
try:
    load_settings(files=["nowhere.yaml"], env={{}})
except Exception as error:
    assert "no such file" in str(error), error
main(["embed-table", "--help"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "source.table" in done.stdout
