"""The model registry: versions by reference, aliases resolved once, a pyfunc that embeds, runs that can be joined."""

import dataclasses
import io
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.lake_settings import settings_of
from tests.spark.conftest import source_rows


def settings(checkpoint, tracking_uri, *sets):
    from jobs.settings.load import load_settings

    known = [
        f"mlflow.tracking_uri={tracking_uri}",
        f"model.checkpoint={checkpoint}",
        "model.profile=tiny",
        "model.name=shelf",
    ]
    return load_settings(sets=[*known, *sets], env={})


def test_a_version_is_registered_once_and_its_pyfunc_embeds(checkpoint, tracking_uri):
    import mlflow

    from jobs.lake.registry import Registry
    from jobs.settings.conf import profile_named
    from jobs.stages.register import describe_checkpoint
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


@pytest.fixture
def catalog(monkeypatch, tmp_path):
    """A registry that enforces what Unity Catalog does, under its own URI; the store."""
    import mlflow
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.unity_catalog_models_artifact_repo import (
        UnityCatalogModelsArtifactRepository,
    )
    from mlflow.tracking._model_registry import utils

    from tests.spark.catalog_store import CatalogStore

    store = CatalogStore(f"sqlite:///{tmp_path / 'catalog.db'}")
    stores = utils._get_store_registry()
    monkeypatch.setitem(stores._registry, "databricks-uc", lambda *args, **kwargs: store)
    # Files of a version come from a storage that the workspace lends; here from where they were logged.
    monkeypatch.setattr(
        UnityCatalogModelsArtifactRepository,
        "_get_artifact_repo",
        lambda self, **_: get_artifact_repository(self._get_blob_storage_path()),
    )
    stores._get_store_with_resolved_uri.cache_clear()
    monkeypatch.setattr(utils, "_registry_uri", None)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "databricks-uc")
    assert mlflow.get_registry_uri() == "databricks-uc"
    yield store
    stores._get_store_with_resolved_uri.cache_clear()


def test_unity_catalogs_rules_are_kept(checkpoint, tracking_uri, catalog, tmp_path):
    from jobs.lake.registry import Registry
    from jobs.stages.register import describe_checkpoint
    from udfs.errors import RegistryError

    def opened(*sets):
        return Registry(settings(checkpoint, tracking_uri, *sets))

    lake = f"lake.root={tmp_path / 'lake'}"
    registry = opened("model.name=main.gme.shelf", lake)
    spec = describe_checkpoint(registry.settings.model)
    with pytest.raises(RegistryError, match=r"catalog\.schema\.model; set model.name=main.gme.gme"):
        opened("model.name=gme").register(spec, alias="champion")
    with pytest.raises(RegistryError, match="no alias champion"):
        registry.resolve()
    first = registry.register(spec, alias="champion")
    assert registry.register(spec, alias="champion") == first == registry.resolve()
    half = describe_checkpoint(settings(checkpoint, tracking_uri, "model.dtype=float16").model)
    other = registry.register(half, alias="challenger")
    assert (first.version, other.version) == ("1", "2")
    assert registry.find(spec.model_id) == first and registry.find(half.model_id) == other
    assert opened("model.name=main.gme.shelf", "model.version=2").resolve() == other
    with pytest.raises(RegistryError, match=r"no version of model main\.gme\.shelf has"):
        registry.find("0" * 16)

    # Somebody else registers the same model after we looked and before we write.
    third = describe_checkpoint(settings(checkpoint, tracking_uri, "model.dtype=bfloat16").model)
    theirs = []
    type(catalog).before_create = lambda: theirs.append(registry.register(third, alias="theirs"))
    mine = opened("model.name=main.gme.shelf").register(third, alias="mine")
    assert mine == theirs[0] and mine.version == "3"
    assert [version for version, _ in registry._versions()] == [1, 2, 3]

    made = some_canaries(spec.dim)
    checked = registry.register(spec, alias="champion", canaries=made)
    assert int(checked.version) > 3 and checked == registry.resolve()
    assert kept_rows(checked) == made.rows


def some_canaries(dim, *, seed=0):
    """What an encoder of nowhere makes of the inputs."""
    from udfs.gme.canaries.inputs import canary_rows
    from udfs.gme.canaries.record import Canaries
    from udfs.gme.prepare import EncodedBatch

    rows = canary_rows()
    vectors = np.random.default_rng(seed).normal(size=(len(rows), dim)).astype(np.float32)
    made = EncodedBatch(vectors, [None] * len(rows))
    return Canaries.of(rows, made, environment={"pillow": f"{seed}.0"})


def kept_rows(model):
    from udfs.gme.canaries.record import read_canaries

    return read_canaries(model.spec.canaries).rows


def test_canaries_stay_with_the_version_and_lie_in_the_lake(checkpoint, tracking_uri, tmp_path):
    from jobs.lake.registry import Registry
    from jobs.stages.register import describe_checkpoint
    from udfs.errors import RegistryError
    from udfs.gme.canaries.record import read_canaries

    def opened(*sets):
        known = ["model.name=it's checked", "model.canary_cosine=0.9"]
        return Registry(settings(checkpoint, tracking_uri, *known, *sets))

    lake = tmp_path / "lake"
    registry = opened(f"lake.root={lake}")
    spec = describe_checkpoint(registry.settings.model)
    unchecked = registry.register(spec, alias="champion")
    assert unchecked.spec.canaries is None and not (lake / "canaries").exists()
    made = some_canaries(spec.dim)
    first = registry.register(spec, alias="champion", canaries=made)
    assert (unchecked.version, first.version) == ("1", "2")
    assert first.spec.model_id == spec.model_id and first.spec.canaries.cosine == 0.9
    # The same again, near enough, and without canaries: all are there already.
    near = dataclasses.replace(made, vectors=made.vectors * 2 + 0.001)
    assert registry.register(spec, alias="champion", canaries=near) == first
    assert registry.find(spec.model_id) == registry.resolve() == first
    # An environment of other vectors is another version of the same model.
    other = registry.register(spec, alias="other", canaries=some_canaries(spec.dim, seed=1))
    assert other.version == "3" and other.spec.model_id == spec.model_id
    assert registry.find(spec.model_id) == first  # the alias's, not the newest

    # What is lost or damaged in the lake comes again from the registry, in another lake too.
    file = Path(first.spec.canaries.uri)
    assert file.parent == lake / "canaries"
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(
        read_canaries(registry.resolve().spec.canaries).vectors, made.vectors
    )
    elsewhere = opened(f"lake.root={tmp_path / 'second'}").resolve()
    assert kept_rows(elsewhere) == made.rows and elsewhere.version == first.version

    # Damaged in the registry: said, and a new registration goes on.
    stored = registry.client.get_model_version_download_uri("it's checked", "2")
    (Path(stored.removeprefix("file://")) / "artifacts" / "canaries.json").write_bytes(b"{}")
    file.unlink()
    with pytest.raises(
        RegistryError, match=r"version 2 are damaged .*: register the checkpoint ag"
    ):
        registry.resolve()
    again = registry.register(spec, alias="champion", canaries=made)
    assert again.version == "4" and registry.resolve() == again


@pytest.mark.parametrize("name", ["it's a model", 'a "model"'])
def test_a_quote_in_a_models_name(checkpoint, tracking_uri, name):
    from jobs.lake.registry import Registry
    from jobs.stages.register import describe_checkpoint
    from udfs.errors import RegistryError

    registry = Registry(settings(checkpoint, tracking_uri, f"model.name={name}"))
    spec = describe_checkpoint(registry.settings.model)
    first = registry.register(spec, alias="champion")
    assert registry.register(spec, alias="champion") == first == registry.resolve()
    assert registry.find(spec.model_id) == first
    both = Registry(settings(checkpoint, tracking_uri, "model.name='\""))
    with pytest.raises(RegistryError, match="both kinds of quotes"):
        both.register(spec, alias="champion")


def _register_at(start, lake, checkpoint, said):
    """One of several processes that register a model at the same moment; tells the version, or what went wrong."""
    from jobs.lake.registry import Registry
    from jobs.settings.load import load_settings
    from jobs.stages.register import describe_checkpoint

    try:
        sets = [f"lake.root={lake}", f"model.checkpoint={checkpoint}", "model.profile=tiny"]
        settings = load_settings(sets=sets, env={})
        spec = describe_checkpoint(settings.model)
        start.wait(timeout=60)
        said.put(Registry(settings).register(spec, alias="champion").version)
    except BaseException as error:
        said.put(f"{type(error).__name__}: {error}"[:500])


def test_three_register_a_model_in_a_new_lake_at_once(checkpoint, tmp_path, monkeypatch):
    """The tables of the store are made once, and so is the version."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Forked from a process that has imported MLflow, which takes seconds, and knows nothing of this one's Spark.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow", "tests.spark.test_registry"])
    start, said = context.Barrier(3), context.Queue()
    arguments = (start, str(tmp_path / "lake"), str(checkpoint), said)
    runs = [context.Process(target=_register_at, args=arguments) for _ in range(3)]
    for run in runs:
        run.start()
    assert [said.get(timeout=120) for _ in runs] == ["1", "1", "1"]
    for run in runs:
        run.join(timeout=30)


def test_a_broken_checkpoint_is_not_registered(checkpoint, tmp_path):
    from click.testing import CliRunner

    from jobs import register_model
    from jobs.lake import registry

    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    weights = folder / "model.safetensors"

    def register(*sets):
        sets = [f"lake.root={tmp_path / 'lake'}", f"model.checkpoint={folder}", *sets]
        arguments = [part for item in sets for part in ("--set", item)]
        return CliRunner().invoke(register_model.command, arguments)

    with pytest.MonkeyPatch.context() as patch:

        def forbidden(self, settings):
            raise AssertionError("the registry was opened")

        patch.setattr(registry.Registry, "__init__", forbidden)
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        result = register("model.profile=tiny")
        assert result.exit_code == 1 and "model.safetensors of" in result.output
        tensors = load_file(checkpoint / "model.safetensors")
        tensors["model.norm.weight"][:] = float("nan")
        save_file(tensors, weights, metadata={"format": "pt"})
        result = register("model.profile=tiny")
        assert result.exit_code == 1 and "16 canaries were to be embedded" in result.output
        assert "'word' could not be: not_finite" in result.output
        weights.write_bytes(whole)
        result = register("model.profile=tiny")
        assert "the registry was opened" in result.output  # good: only now


def test_a_profile_beyond_the_checkpoints_own_budget_is_said(checkpoint, tmp_path, caplog):
    from jobs.stages.register import describe_checkpoint

    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    describe_checkpoint(settings(folder, "unused").model)
    assert not caplog.records
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_pixels": 8 * 784}))
    describe_checkpoint(settings(folder, "unused").model)
    assert "makes 16 to 16 image tokens of a picture, but" in caplog.text
    assert "says 4 to 8" in caplog.text


@pytest.mark.spark
def test_a_runs_vectors_and_its_mlflow_run_are_one_query_apart(shop):
    from jobs.lake.registry import Registry

    shop.write(source_rows(range(3)))
    lake, _ = shop.embed()
    row = shop.spark.sql(f"SELECT * FROM {lake.name('vector_lineage')} WHERE id = 'p1'").first()
    assert row.source_table == shop.table and row.source_version == 0
    run = Registry(settings_of(lake)).client.get_run(row.mlflow_run_id)
    assert "canary_cosine" not in run.data.metrics  # registered without
    assert run.data.tags["run_id"] == row.run_id and run.data.tags["model_id"] == row.model_id
    assert run.data.params["source.table"] == shop.table
    assert run.data.metrics["rows.embedded"] == 3 and run.data.metrics["seconds.embed"] > 0
    inputs = [(i.dataset.name, i.dataset.source) for i in run.inputs.dataset_inputs]
    assert [(name, shop.table in source) for name, source in inputs] == [(f"{shop.table}@v0", True)]


@pytest.mark.long
@pytest.mark.spark
def test_a_run_tells_its_environment_and_an_environment_of_other_vectors_ends_it(shop):
    """Registered here: checked, and the figure is in the run; registered where pictures come out otherwise: refused."""
    from jobs.lake import sql_catalog
    from jobs.lake.lake import _OWN, now
    from jobs.lake.registry import Registry
    from jobs.lake.tables import RUN_EVENTS, TABLES
    from jobs.stages.register import describe_checkpoint, make_canaries
    from udfs.errors import ServingError

    shop.write(source_rows(range(3)))
    columns = tuple(column for column in RUN_EVENTS.columns if column[0] != "environment")
    before = dataclasses.replace(RUN_EVENTS, columns=columns)
    with pytest.MonkeyPatch.context() as patch:  # a lake from before runs told it
        patch.setitem(_OWN, "run_events", before)
        tables = tuple(before if table is RUN_EVENTS else table for table in TABLES)
        patch.setattr(sql_catalog, "TABLES", tables)
        lake = shop.lake("model.name=checked")
        old = {"run_id": "old", "job": "embed_table", "started_at": now(), "status": "succeeded"}
        lake.append("run_events", [old | {"settings": "{}"}])
        assert "environment" not in shop.spark.table(lake.name("runs")).columns

    asked = settings_of(lake)
    registry = Registry(asked)
    spec = describe_checkpoint(asked.model)
    made = make_canaries(spec, asked.model)
    assert len(made.rows) == 16 and set(made.statuses) == {"ok"}
    registry.register(spec, alias="champion", canaries=made)
    lake, report = shop.embed("model.name=checked")
    assert report.counts["embedded"] == 3
    runs = {row.run_id: row for row in shop.spark.table(lake.name("runs")).collect()}
    assert runs.pop("old").environment is None
    (run,) = runs.values()
    assert run.environment["pillow"] == made.environment["pillow"]
    assert run.environment["torch"] and run.environment["device"].startswith("cpu")
    assert float(run.environment["canary_cosine"]) > 0.99999
    logged = registry.client.get_run(run.mlflow_run_id).data
    assert logged.metrics["canary_cosine"] > 0.99999
    assert logged.tags["environment.libjpeg"] == made.environment["libjpeg"]

    vectors = made.vectors.copy()
    vectors[list(made.rows).index("photo.jpg")] *= -1
    theirs = dataclasses.replace(
        made, vectors=vectors, environment=dict(made.environment) | {"pillow": "9.9.9"}
    )
    Registry(settings_of(shop.lake("model.name=theirs"))).register(
        spec, alias="champion", canaries=theirs
    )
    shop.write(source_rows(range(3, 5)))
    with pytest.raises(ServingError, match=r"'photo.jpg' has cosine -1.0+ .*pillow 9\.9\.9"):
        shop.embed("model.name=theirs")
    newest = shop.spark.table(lake.name("runs")).orderBy("started_at", ascending=False).first()
    assert newest.status == "failed" and newest.environment is None
    assert "they differ in pillow" in newest.error
    assert set(shop.vectors(lake)) == {"p0", "p1", "p2"}
