"""The model registry: versions by reference, aliases resolved once, a pyfunc that embeds, runs that can be joined."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.spark.conftest import source_rows


def settings(checkpoint, tracking_uri, *sets):
    from jobs.driver.settings import load_settings

    known = [
        f"mlflow.tracking_uri={tracking_uri}",
        f"model.checkpoint={checkpoint}",
        "model.profile=tiny",
        "model.name=shelf",
    ]
    return load_settings(sets=[*known, *sets], env={})


def test_a_version_is_registered_once_and_its_pyfunc_embeds(checkpoint, tracking_uri):
    import mlflow

    from jobs.driver.registry import Registry
    from jobs.driver.settings import profile_named
    from jobs.stages.models import describe_checkpoint
    from udfs.errors import RegistryError
    from udfs.gme import Encoder, Row

    registry = Registry(settings(checkpoint, tracking_uri))
    with pytest.raises(RegistryError, match="register-model"):
        registry.resolve()
    spec = describe_checkpoint(registry.settings.model)
    first = registry.register(spec, alias="champion")
    assert registry.register(spec, alias="champion") == first == registry.resolve()
    assert registry.find(spec.model_id) == first
    half = settings(checkpoint, tracking_uri, "model.dtype=float16").model
    other = Registry(settings(checkpoint, tracking_uri)).register(
        describe_checkpoint(half), alias="challenger"
    )
    assert other.version != first.version and other.spec.model_id != spec.model_id
    assert registry.resolve() == first

    picture = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(picture, "PNG")
    frame = pd.DataFrame({"text": ["a red mug", None], "image": [None, picture.getvalue()]})
    vectors = np.array(mlflow.pyfunc.load_model("models:/shelf@champion").predict(frame))
    rows = [Row(text="a red mug"), Row(image=picture.getvalue())]
    expected = Encoder.load(checkpoint, profile=profile_named("tiny")).encode(rows).vectors
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    with pytest.raises(ValueError, match="image_truncated"):
        mlflow.pyfunc.load_model("models:/shelf@champion").predict(
            pd.DataFrame({"text": [None], "image": [picture.getvalue()[:60]]})
        )


@pytest.mark.spark
def test_a_runs_vectors_and_its_mlflow_run_are_one_query_apart(shop):
    from jobs.driver.registry import Registry

    shop.write(source_rows(range(3)))
    lake, _ = shop.embed()
    row = shop.spark.sql(f"SELECT * FROM {lake.name('vector_lineage')} WHERE id = 'p1'").first()
    assert row.source_table == shop.table and row.source_version == 0
    run = Registry(lake.settings).client.get_run(row.mlflow_run_id)
    assert run.data.tags["run_id"] == row.run_id and run.data.tags["model_id"] == row.model_id
    assert run.data.params["source.table"] == shop.table
    assert run.data.metrics["rows.embedded"] == 3 and run.data.metrics["seconds.embed"] > 0
    inputs = [(i.dataset.name, i.dataset.source) for i in run.inputs.dataset_inputs]
    assert [(name, shop.table in source) for name, source in inputs] == [(f"{shop.table}@v0", True)]
