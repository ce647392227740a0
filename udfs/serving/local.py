"""Placement `worker`: the same model inside the Python worker, where a platform forbids child processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache

from udfs.errors import ServingError
from udfs.gme.prepare import Prepared
from udfs.serving.device import task_device
from udfs.serving.limits import check_tokenizer
from udfs.serving.loading import load_model
from udfs.serving.window import Loaded
from udfs.serving.wire import EncodeReply
from udfs.specs import ModelSpec, ServingSpec


class LocalModel:
    """The interface of `ServerClient` without a server: no overlap, one model a Python worker."""

    def __init__(self, model: ModelSpec, serving: ServingSpec, *, tokenizer: str | None) -> None:
        """Load, or reuse what this process has loaded already.

        `tokenizer` is the sha-256 of the tokenizer.json that rows are prepared with; ServingError unless it is the
        model's.
        """
        self._loaded = _load(model, serving)
        check_tokenizer(tokenizer, self._loaded, model)
        self.server = self._loaded.server
        self.load_report = self._loaded.load_report

    def embed_stream(self, requests: Iterable[list[Prepared]]) -> Iterator[EncodeReply]:
        """One answer a request, in order. ServingError where the model fails."""
        for rows in requests:
            started = time.perf_counter()
            try:
                encoded = self._loaded.model.embed(rows)
            except Exception as exc:
                _load.cache_clear()  # after a CUDA error the next task must not get this model again
                raise ServingError(f"the model failed over {len(rows)} rows: {exc}") from exc
            seconds = time.perf_counter() - started
            yield EncodeReply(
                vectors=encoded.vectors,
                errors=encoded.errors,
                server=self.server,
                model_seconds=seconds,
                budget_tokens=encoded.budget_tokens,
                load_seconds=self._loaded.tell_load(),
            )

    def close(self) -> None:
        """Nothing to close: the model stays for the process's next task."""

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@lru_cache(maxsize=1)  # two models at once would not fit beside each other's tasks
def _load(model: ModelSpec, serving: ServingSpec) -> Loaded:
    device = task_device(serving.device)
    if device.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device.gpu  # before torch looks for devices
    # Spark gave this worker OMP_NUM_THREADS = task.cpus, and other workers run beside it: 0 leaves that.
    return load_model(model, serving, device=device.torch, threads=serving.threads or None)
