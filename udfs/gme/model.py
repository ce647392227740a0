"""Run the model: prepared rows in, L2-normalised vectors out. Imports torch; only the server and Encoder load it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from udfs.errors import CheckpointError, SettingsError
from udfs.gme.budget import Budget, pack
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.forward import Answer, ForwardPass
from udfs.gme.prepare import EncodedBatch, Prepared
from udfs.gme.weights import check_weights
from udfs.specs import Dtype

# Batches beyond a CPU's caches only cost memory (measured: 15 % slower at the GPU's budgets).
_CPU_BUDGET = Budget(tokens=2048, patches=4096)
_NO_MEMORY = ("allocate memory", "ALLOC_FAILED")  # torch's CPU allocator; cuBLAS and cuDNN handles
_HARMLESS = {"lm_head.weight"}  # of untied (7B) checkpoints; an embedder has no use for it


class EmbeddingModel:
    """One loaded model on one device. Not thread-safe: one forward pass at a time."""

    def __init__(
        self,
        forward: ForwardPass,
        *,
        device: torch.device,
        budget: Budget,
        threads: int | None = None,
    ) -> None:
        self._forward = forward
        self._device = device
        self._budget = budget
        self._threads = threads
        self.dim = forward.dim
        self.vocabulary = forward.vocabulary
        self.image_token = forward.image_token

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: Dtype = "float32",
        device: str = "auto",
        token_budget: int = 16_384,
        patch_budget: int = 65_536,
        threads: int | None = 0,
    ) -> EmbeddingModel:
        """Load a checkpoint folder with stock transformers, no remote code.

        `threads`: CPU threads of torch while this model works; 0: all cores it may use; None: what torch has.
        """
        from transformers import Qwen2VLModel

        check_weights(Checkpoint.read(path))  # says what is missing or cut; transformers says less
        place = resolve_device(device)
        threads = len(os.sched_getaffinity(0)) if threads == 0 else threads
        with _no_progress_bar(), _torch_threads(threads):
            model, info = Qwen2VLModel.from_pretrained(
                str(path),
                dtype=getattr(torch, dtype),
                attn_implementation="sdpa",
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        _check_loaded(path, info)
        forward = ForwardPass(model.eval().requires_grad_(False).to(place), device=place)
        budget = _budget(place, tokens=token_budget, patches=patch_budget)
        return cls(forward, device=place, budget=budget, threads=threads)

    def embed(self, rows: Sequence[Prepared]) -> EncodedBatch:
        """Embed prepared rows, in their order, in model batches under the budget.

        A row that does not fit the device's memory alone gets "out_of_memory: ...", one whose vector is not finite
        "not_finite: ..."; both a vector of NaN.
        """
        vectors = np.full((len(rows), self.dim), np.nan, dtype=np.float32)
        errors: list[str | None] = [None] * len(rows)
        todo = pack(
            [row.tokens for row in rows], [row.patch_count for row in rows], budget=self._budget
        )
        todo.reverse()
        under_way: deque[tuple[list[int], Answer]] = deque()
        budget_tokens = 0
        while todo or under_way:
            if todo:
                batch = todo.pop()
                with _torch_threads(self._threads):
                    answer = self._try_forward([rows[row] for row in batch])
                if answer is not None:
                    under_way.append((batch, answer))
                    tokens = sum(rows[row].tokens for row in batch)
                    budget_tokens += max(self._budget.tokens, tokens)
                elif len(batch) > 1:
                    middle = len(batch) // 2
                    todo += [batch[middle:], batch[:middle]]
                else:
                    errors[batch[0]] = _out_of_memory(rows[batch[0]], self._device)
            if under_way and (len(under_way) > 1 or not todo):
                batch, answer = under_way.popleft()  # while a GPU works on the next one
                vectors[batch] = answer.take()
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            vectors[row] = np.nan
            errors[row] = errors[row] or "not_finite: the model gave a vector with NaN or infinity"
        return EncodedBatch(vectors, errors, budget_tokens)

    def _try_forward(self, rows: list[Prepared]) -> Answer | None:
        """The answer to one model batch, or None where the device ran out of memory."""
        try:
            return self._forward(rows)
        except (torch.OutOfMemoryError, MemoryError):
            pass
        except RuntimeError as error:
            if not any(words in str(error) for words in _NO_MEMORY):
                raise
        if (
            self._device.type == "cuda"
        ):  # outside the handler, whose traceback would keep the tensors alive
            torch.cuda.empty_cache()
        return None


def resolve_device(device: str) -> torch.device:
    """The torch device that a setting names; "auto" is the first visible GPU, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"device {device!r} was asked for, but torch sees no GPU: use cpu or auto"
        )
    return place


def device_name(device: torch.device) -> str:
    """What torch calls a device: "cpu", or the name of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _budget(device: torch.device, *, tokens: int, patches: int) -> Budget:
    if device.type != "cpu":
        return Budget(tokens, patches)
    best = _CPU_BUDGET
    return Budget(min(tokens, best.tokens), min(patches, best.patches))


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Give torch so many CPU threads for a while: a Python worker or a notebook has other uses for it."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers' loading bar out of executor logs; put the caller's setting back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_loaded(path: str | Path, info: dict[str, Any]) -> None:
    unexpected = sorted(set(info["unexpected_keys"]) - _HARMLESS)
    missing = sorted(info["missing_keys"])
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"the weights in {path} are not those of its config.json: "
            f"missing {missing[:5]}, unexpected {unexpected[:5]}, of other shape {mismatched[:5]}"
        )


def _out_of_memory(row: Prepared, device: torch.device) -> str:
    return (
        f"out_of_memory: a row of {row.tokens} tokens and {row.patch_count} patches does not fit "
        f"{device} alone"
    )
