"""Vectors appended straight into `vectors`, for tests of index and releases that need no model."""

import numpy as np

from jobs.lake.registry import ResolvedModel
from tests.lake_settings import settings_of
from udfs.specs import ModelSpec


def model_of(model_id: str, dim: int) -> ResolvedModel:
    """A model that was never registered: indexes need its id and width only."""
    return ResolvedModel("gme", "1", ModelSpec("/nowhere", model_id, dim, "0" * 64))


def unit(rows: int, dim: int, *, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def append_vectors(lake, x: np.ndarray, *, model_id: str, rejected: int = 0) -> None:
    """One commit of len(x) good rows named <model_id>-<n>, and some without a vector."""
    import pandas as pd

    rows = [(f"{model_id}-{n}", "ok", v.tolist()) for n, v in enumerate(x)]
    rows += [(f"{model_id}-bad-{n}", "empty", None) for n in range(rejected)]
    frame = lake.spark.createDataFrame(
        pd.DataFrame(rows, columns=["id", "status", "embedding"]),
        "id string, status string, embedding array<float>",
    )
    frame.createOrReplaceTempView("index_vectors")
    lake.spark.sql(
        f"INSERT INTO {lake.name('vectors')} "
        "(model_id, id, content_hash, status, error, embedding, run_id, embedded_at) "
        f"SELECT '{model_id}', id, id, status, NULL, embedding, 'test', current_timestamp() "
        "FROM index_vectors"
    )


def build(lake, model: ResolvedModel):
    """build_index in a recorded run; returns (report, run)."""
    from jobs.lake.registry import Registry
    from jobs.lake.runs import open_run
    from jobs.stages.index.job import build_index
    from jobs.stages.index.plan import plan_index

    settings = settings_of(lake)
    with open_run(lake, Registry(settings), job="build_index") as run:
        planned = plan_index(lake, settings.index, model=model)
        report = build_index(lake, run, model=model, planned=planned)
    return report, run


def released(lake, action, **options):
    """A release action in a recorded run."""
    from jobs.lake.registry import Registry
    from jobs.lake.releases import promote
    from jobs.lake.runs import open_run

    settings = settings_of(lake)
    if action is promote:
        options["limits"] = settings.release
    with open_run(lake, Registry(settings), job="release") as run:
        return action(lake, run, **options)


def release(lake):
    """Build the index of the registered model's vectors and promote it."""
    from jobs.lake.registry import Registry
    from jobs.lake.releases import promote
    from jobs.lake.runs import open_run
    from jobs.stages.index.job import build_index
    from jobs.stages.index.plan import plan_index

    settings = settings_of(lake)
    registry = Registry(settings)
    model = registry.resolve()
    with open_run(lake, registry, job="build_index") as run:
        planned = plan_index(lake, settings.index, model=model)
        built = build_index(lake, run, model=model, planned=planned)
        return promote(lake, run, index_id=built.spec.index_id, limits=settings.release)
