"""A lake's own MLflow store goes on in a copy without writing into the original."""

import shutil
from pathlib import Path

import pytest

from jobs.lake.registry import Registry
from jobs.settings.load import load_settings


@pytest.fixture
def registry(monkeypatch):
    """registry(root) opens the registry of a lake without a tracking server; the one before is put back."""
    import mlflow

    before = mlflow.get_tracking_uri()

    def opened(root: Path) -> Registry:
        # As in a process of its own: MLflow keeps the store that was opened last in the environment.
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Registry(load_settings(sets=[f"lake.root={root}"], env={}))

    yield opened
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_artifacts_of_a_copied_lake_stay_in_the_copy(registry, tmp_path):
    def artifacts(root: Path) -> set[Path]:
        opened = registry(root)
        with opened._mlflow.start_run():
            opened.log_artifact(__file__)
        return {path.relative_to(root) for path in root.rglob(Path(__file__).name)}

    first, copy = tmp_path / "first", tmp_path / "a copy"
    original = artifacts(first)
    assert len(original) == 1
    shutil.copytree(first, copy)
    assert len(artifacts(copy)) == 2 and artifacts(first) > original
    # Opened again, and moved there and back: one experiment of each place, all runs kept.
    assert len(artifacts(copy)) == 3
    back = copy.rename(tmp_path / "back")
    assert len(artifacts(back)) == 4
    assert len(artifacts(back.rename(copy))) == 5
    runs = registry(copy)._mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert len(runs) == 5 and len(list(first.rglob(Path(__file__).name))) == 2
