"""The forward pass: prepared rows in, L2-normalised vectors out. Imports torch; only the server and Encoder load it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from udfs.errors import CheckpointError, SettingsError
from udfs.gme.budget import Budget, pack
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.prepare import EncodedBatch, Prepared
from udfs.gme.vision import FoldedPatchEmbed
from udfs.gme.weights import check_weights
from udfs.specs import Dtype

# A forward pass costs a GPU milliseconds of kernel launches whatever its size. On a CPU padding is what costs, and
# batches beyond its caches only cost memory (measured: 15 % slower at the GPU's budgets).
_GPU_WASTE = 2048
_CPU_BUDGET = Budget(tokens=2048, patches=4096, waste=64)
_NO_MEMORY = ("allocate memory", "ALLOC_FAILED")  # torch's CPU allocator; cuBLAS and cuDNN handles
_HARMLESS = {"lm_head.weight"}  # of untied (7B) checkpoints; an embedder has no use for it


class EmbeddingModel:
    """One loaded model on one device. Not thread-safe: one forward pass at a time."""

    def __init__(
        self, model: Any, *, device: torch.device, budget: Budget, threads: int | None = None
    ) -> None:
        self._model = model
        self._device = device
        self._budget = budget
        self._threads = threads
        self.dim = int(model.config.text_config.hidden_size)
        self.vocabulary = int(model.get_input_embeddings().num_embeddings)
        self.image_token = int(model.config.image_token_id)

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
        model = model.eval().requires_grad_(False).to(place)
        model.visual.patch_embed = FoldedPatchEmbed.of(model.visual.patch_embed)
        budget = _budget(place, tokens=token_budget, patches=patch_budget)
        return cls(model, device=place, budget=budget, threads=threads)

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
        while todo:
            batch = todo.pop()
            with _torch_threads(self._threads):
                found = self._try_forward([rows[row] for row in batch])
            if found is not None:
                vectors[batch] = found
            elif len(batch) > 1:
                middle = len(batch) // 2
                todo += [batch[middle:], batch[:middle]]
            else:
                errors[batch[0]] = _out_of_memory(rows[batch[0]], self._device)
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)):
            vectors[row] = np.nan
            errors[row] = errors[row] or "not_finite: the model gave a vector with NaN or infinity"
        return EncodedBatch(vectors, errors)

    def _try_forward(self, rows: list[Prepared]) -> npt.NDArray[np.float32] | None:
        """Vectors of one model batch, or None where the device ran out of memory."""
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

    @torch.inference_mode()
    def _forward(self, rows: list[Prepared]) -> npt.NDArray[np.float32]:
        """Right-padded causal pass; positions count 0..L-1 for image tokens too, as in GME's own code.

        No attention mask: under causal attention a row never sees the padding to its right, and the pooled
        position is known from its length. Attention then runs its fast causal kernels.
        """
        lengths = torch.tensor([row.tokens for row in rows])
        width = int(lengths.max())
        ids = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : row.tokens] = row.input_ids
        positions = torch.arange(width, device=self._device).expand(3, len(rows), width)
        hidden = self._model(
            input_ids=torch.from_numpy(ids).to(self._device),
            position_ids=positions,
            use_cache=False,
            **self._pixels(rows),
        ).last_hidden_state
        pooled = hidden[torch.arange(len(rows)), lengths - 1].float()
        vectors: npt.NDArray[np.float32] = (
            torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        )
        return vectors

    def _pixels(self, rows: list[Prepared]) -> dict[str, torch.Tensor]:
        """Vision input of the rows that have an image, in row order; empty where none has."""
        patches = [row.patches for row in rows if row.patches is not None]
        if not patches:
            return {}
        flat = torch.from_numpy(np.concatenate(patches)).to(self._device)
        grids = torch.tensor([(1, *row.grid) for row in rows if row.grid is not None])
        return {
            "pixel_values": self._model.visual.patch_embed.normalise(flat),
            "image_grid_thw": grids.to(self._device),
        }


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


def _budget(device: torch.device, *, tokens: int, patches: int) -> Budget:
    if device.type != "cpu":
        return Budget(tokens, patches, waste=_GPU_WASTE)
    best = _CPU_BUDGET
    return Budget(min(tokens, best.tokens), min(patches, best.patches), waste=best.waste)


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
