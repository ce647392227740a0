"""What a machine says that it has for a model."""

from __future__ import annotations

import dataclasses
import shutil

import pyarrow as pa

from tests.embed_specs import embed_spec
from tests.shared import shared
from udfs.serving import machine
from udfs.serving.machine import checkpoint_error, describe_machines, machine_bytes
from udfs.specs import ServingSpec


def described(spec):
    (row,) = describe_machines(iter([pa.RecordBatch.from_pydict({"id": [1]})]), spec=spec)
    return row.to_pylist()[0]


def test_a_machine_that_has_all_says_so(tmp_path):
    spec = embed_spec(shared("gme_golden", "checkpoint"))
    found = described(spec)
    assert found["device"] == "cpu" and found["checkpoint_error"] is None
    assert 1 << 28 < found["memory_bytes"] == machine_bytes()


def test_a_checkpoint_that_is_gone_cut_or_another_is_named(tmp_path):
    spec = embed_spec(shared("gme_golden", "checkpoint"))
    gone = dataclasses.replace(spec.model, path=str(tmp_path / "none"))
    assert "no checkpoint folder" in str(checkpoint_error(gone))
    copied = shutil.copytree(spec.model.path, tmp_path / "copy")
    here = dataclasses.replace(spec.model, path=str(copied))
    assert checkpoint_error(here) is None
    other = dataclasses.replace(here, dtype="float16")
    assert "makes model_id" in str(checkpoint_error(other))
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cut or damaged" in str(checkpoint_error(here))


def test_a_machine_without_a_gpu_is_known_without_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_GPU_FILES", (str(tmp_path / "no-such-device"),))
    monkeypatch.setattr(machine.subprocess, "run", None)
    machine.gpu_name.cache_clear()
    spec = embed_spec(shared("gme_golden", "checkpoint"), serving=ServingSpec(device="cuda"))
    assert described(spec)["device"] == "cpu"
    machine.gpu_name.cache_clear()
