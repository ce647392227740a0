"""embed_batches over a real checkpoint: rows in, the encoder's vectors or a reason out."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.embed_specs import embed_spec
from tests.shared import shared
from tests.unit.serving.conftest import until
from udfs.embed import batches as embed
from udfs.embed.batches import EMBED_OUTPUT, embed_batches
from udfs.embed.rows_done import Done, read_done
from udfs.errors import CheckpointError, ServingError
from udfs.gme import Encoder
from udfs.gme.canaries.environment import merge_loads
from udfs.gme.canaries.inputs import canary_rows
from udfs.gme.canaries.record import Canaries, sha256_of
from udfs.serving import launch
from udfs.specs import REFERENCE, CanarySpec, EmbedSpec, ServingSpec

INPUT = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("image_uri", pa.string()),
        ("instruction", pa.string()),
        ("is_query", pa.bool_()),
    ]
)


@pytest.fixture(scope="module", params=[pytest.param("server", marks=pytest.mark.slow), "worker"])
def spec(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbedSpec]:
    """A spec for each placement; the server, if any, is shared by the tests and must be gone after them."""
    checkpoint = shared(
        "gme_golden", "checkpoint"
    )  # a skip inside the block would wait for `sleep`
    path = tmp_path_factory.mktemp("serving")
    folder = path / f"gme-lake-{os.getuid()}"
    serving = ServingSpec(placement=request.param, device="cpu", threads=1)
    with pytest.MonkeyPatch.context() as patch, subprocess.Popen(["sleep", "600"]) as watched:
        patch.setattr("tempfile.tempdir", str(path))
        patch.setattr(os, "getppid", lambda: watched.pid)  # it stands for Spark's daemon
        yield embed_spec(checkpoint, profile=REFERENCE, serving=serving)
        watched.kill()
    until(lambda: not (folder.exists() and list(folder.iterdir())))


def _batch(rows: list[dict]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(rows, schema=INPUT)


def _run(batches: list[pa.RecordBatch], spec: EmbedSpec) -> list[pa.RecordBatch]:
    return list(embed_batches(iter(batches), spec=spec))


def test_golden_rows_and_bad_rows(spec: EmbedSpec, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(embed, "REQUEST_BYTES", 3 << 20)  # several requests a batch
    golden = pq.read_table(shared("gme_golden", "rows.parquet")).to_pylist()
    picture = next(row["image"] for row in golden if row["image"])
    (tmp_path / "there.img").write_bytes(picture)
    rows = [row | {"key": row["row_id"], "image_uri": None} for row in golden]
    bad = [
        {"key": "nothing"},
        {"key": "gone", "text": "a text", "image_uri": str(tmp_path / "gone.jpg")},
        {"key": "cut", "text": "a text", "image": picture[: len(picture) // 2]},
        {"key": "uri", "image_uri": (tmp_path / "there.img").as_uri()},
        {"key": "bytes", "image": picture},
    ]
    told = tmp_path / "progress"
    told.mkdir()
    spec = dataclasses.replace(spec, progress=str(told))
    first, empty, second = _run([_batch(rows[:20] + bad), _batch([]), _batch(rows[20:])], spec)
    statuses = [status for batch in (first, second) for status in batch["status"].to_pylist()]
    known: dict[str, Done] = {}
    read_done(str(told), known=known)
    rejected = sum(status != "ok" for status in statuses)
    assert known == {"0.json": Done(len(rows) + len(bad), rejected, True)} and rejected >= 3
    for batch in (first, empty, second):
        assert batch.schema == EMBED_OUTPUT.arrow
        batch.validate(full=True)
    assert [row["key"] for row in first.to_pylist()] == [r["key"] for r in rows[:20] + bad]
    assert empty.num_rows == 0
    found = {row["key"]: row for row in first.to_pylist() + second.to_pylist()}
    for row in rows:
        assert found[row["key"]]["status"] == "ok"
        np.testing.assert_allclose(found[row["key"]]["embedding"], row["embedding"], atol=1e-5)
    assert found["nothing"]["status"] == "empty"
    assert found["gone"]["status"] == "image_missing"
    assert found["cut"]["status"] in ("image_truncated", "image_corrupt")
    for key in ("nothing", "gone", "cut"):
        assert found[key]["embedding"] is None
        assert found[key]["error"]
        assert found[key]["model_seconds"] == 0
    np.testing.assert_allclose(found["uri"]["embedding"], found["bytes"]["embedding"], atol=1e-6)
    assert len({row["server"] for row in found.values() if row["status"] == "ok"}) == 1
    assert all(row["prepare_seconds"] > 0 for row in found.values())
    assert all(row["model_seconds"] > 0 for row in found.values() if row["status"] == "ok")
    # What the run is told of the model: rows share it, so that sums are what was spent.
    good = [row for row in found.values() if row["status"] == "ok"]
    tokens = sum(row["tokens"] for row in good)
    assert tokens <= sum(row["budget_tokens"] for row in good) and tokens > 0
    assert found["bytes"]["input_bytes"] == found["uri"]["input_bytes"] == len(picture)
    assert found["nothing"]["input_bytes"] == found["gone"]["input_bytes"] == 0
    assert sum(row["load_seconds"] for row in good) > 0
    (later,) = _run([_batch(rows[:2])], spec)
    assert sum(later["load_seconds"].to_pylist()) == 0, "a load is told of once"


def test_a_partition_without_good_rows_loads_no_model(spec: EmbedSpec, monkeypatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was asked for")

    monkeypatch.setattr(launch, "_spawn", forbidden)
    monkeypatch.setattr(embed, "_open_model", forbidden)
    assert _run([], spec) == []
    (batch,) = _run([_batch([{"key": "a"}, {"key": "b", "text": None}])], spec)
    assert batch.column("status").to_pylist() == ["empty", "empty"]


def test_other_weights_than_the_driver_resolved_are_refused(spec: EmbedSpec) -> None:
    other = dataclasses.replace(spec.model, weights_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="but the driver resolved 0000000000000000"):
        _run([_batch([{"key": "a", "text": "a"}])], dataclasses.replace(spec, model=other))
    other = dataclasses.replace(spec.model, model_id="f" * 16)
    with pytest.raises(CheckpointError, match="makes model_id"):
        _run([_batch([{"key": "a", "text": "a"}])], dataclasses.replace(spec, model=other))


def test_a_load_is_compared_with_its_canaries(spec: EmbedSpec, tmp_path: Path) -> None:
    """Agrees, and says with what; made where one picture comes out otherwise: refused, and no vector is made."""
    rows = {name: canary_rows()[name] for name in ("word", "glass.png", "tiny.png")}
    made = Encoder.load(spec.model.path, profile=REFERENCE).encode(rows.values())
    theirs = Canaries.of(rows, made, environment={"pillow": "9.9.9"})

    def kept() -> EmbedSpec:
        data = theirs.to_bytes()
        file = tmp_path / sha256_of(data)
        file.write_bytes(data)
        canaries = CanarySpec(str(file), sha256_of(data), 0.9995)
        return dataclasses.replace(spec, model=dataclasses.replace(spec.model, canaries=canaries))

    batch = _batch([{"key": "a"}, {"key": "b", "text": "b"}, {"key": "c", "text": "c"}])
    checked = _run([batch], kept())[0].column("load_report").to_pylist()
    unchecked = _run([batch], spec)[0].column("load_report").to_pylist()
    assert checked[0] is None and checked[2] is None  # once a request
    load = merge_loads([checked[1]])
    assert float(load["canary_cosine"]) > 0.99999 and load["device"].startswith("cpu")
    assert load | {"canary_cosine": "unchecked"} == merge_loads([unchecked[1]])

    theirs.vectors[list(rows).index("glass.png")] *= -1
    with pytest.raises(
        ServingError, match=r"'glass.png' has cosine -1.0+ .*pillow 9\.9\.9"
    ) as refused:
        _run([batch], kept())
    assert f"here python {load['python']}, pillow {load['pillow']}" in str(refused.value)


def test_a_tokenizer_that_is_not_the_models_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """A task that comes later reads a file that was replaced meanwhile; what a server says is tested with it."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    serving = ServingSpec(placement="worker", device="cpu", threads=1)
    own = embed_spec(folder, serving=serving)
    batch = _batch([{"key": "a", "text": "a red mug"}])
    assert _run([batch], own)[0].column("status").to_pylist() == ["ok"]
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    embed.load_preparer.cache_clear()
    with pytest.raises(ServingError, match=r"tokenizer.json of sha-256 .* but that of model"):
        _run([batch], own)


def test_a_consumer_that_stops_early_leaves_a_usable_server(spec: EmbedSpec) -> None:
    batches = [_batch([{"key": str(n), "text": f"number {n}"}]) for n in range(6)]
    stream = embed_batches(iter(batches), spec=spec)
    first = next(stream)
    stream.close()
    again = _run(batches, spec)
    assert [batch.column("key")[0].as_py() for batch in again] == list("012345")
    assert again[0].column("server") == first.column("server")
