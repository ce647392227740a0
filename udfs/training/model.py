"""A Qwen2-VL checkpoint as a trainable embedder, whole or through LoRA adapters, and back to a checkpoint. Imports torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from udfs.errors import SettingsError
from udfs.gme.checkpoint import Checkpoint
from udfs.gme.patches import TOKEN_PIXELS
from udfs.gme.prepare import Prepared
from udfs.gme.scratch import hub_layout, write_weights
from udfs.specs import Dtype, ModelProfile
from udfs.training.budget import PaddedBudget, pack_padded
from udfs.training.forward import Forward
from udfs.training.grad_cache import encode_batches
from udfs.training.spec import ModelOptions

# All linear layers of the language model; the vision tower keeps its weights, as in GME's recipe.
_LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_COPIED = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


class TrainableEncoder(nn.Module):
    """Prepared rows in, vectors with gradients out."""

    def __init__(self, model: Any, *, options: ModelOptions, folder: Path) -> None:
        super().__init__()
        self.model = model
        self.folder = folder
        self._options = options
        self._budget = PaddedBudget(options.token_budget, options.patch_budget, options.waste)
        self._forward = Forward(model, options)

    @classmethod
    def load(cls, path: str | Path, *, options: ModelOptions, seed: int = 0) -> TrainableEncoder:
        """Weights of a checkpoint folder in float32; `seed` is that of new adapters."""
        from transformers import Qwen2VLModel

        checkpoint = Checkpoint.read(path)
        model = Qwen2VLModel.from_pretrained(
            str(path), dtype=torch.float32, trust_remote_code=False, local_files_only=True
        )
        if options.lora_rank:
            model = _with_adapters(model, options, seed=seed)
        return cls(model.train(), options=options, folder=checkpoint.path)

    def forward(self, rows: Sequence[Prepared]) -> torch.Tensor:
        """L2-normalised float32 (n, d) of the rows, in their order, in model batches under the options' budget."""
        batches = pack_padded(
            [row.tokens for row in rows], [row.patch_count for row in rows], budget=self._budget
        )
        with torch.autocast(
            self._device.type,
            dtype=torch.bfloat16,
            enabled=self._options.precision == "bfloat16",
        ):
            vectors = encode_batches(
                self._encode,
                [[rows[number] for number in batch] for batch in batches],
                cached=self._options.gradient_cache,
            )
        order = torch.tensor([number for batch in batches for number in batch]).argsort()
        return vectors[order.to(vectors.device)]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self.model.language_model.embed_tokens.weight.device
        return device

    def _encode(self, rows: list[Prepared]) -> torch.Tensor:
        ids = np.zeros((len(rows), max(row.tokens for row in rows)), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : row.tokens] = row.input_ids
        pictures = [
            (torch.tensor(row.patches, device=self._device), row.grid)
            for row in rows
            if row.patches is not None and row.grid is not None
        ]
        lengths = torch.tensor([row.tokens for row in rows], device=self._device)
        return self._forward.vectors(torch.from_numpy(ids).to(self._device), lengths, pictures)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that training changes, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def save(self, path: str | Path, *, dtype: Dtype, profile: ModelProfile | None = None) -> Path:
        """Write the checkpoint in the hub layout, adapters merged into the weights; tokenizer as it was.

        With the `profile` that it was trained under, preprocessor_config.json tells that budget of image tokens.

        Raises SettingsError where the Encoder would read it as another model than was trained.
        """
        options = self._options
        if (options.pooling, options.attention) != ("last", "causal"):
            raise SettingsError(
                f"a model with {options.pooling} pooling and {options.attention} attention cannot be written as a "
                "GME checkpoint, which is read with last-token pooling and causal attention"
            )
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = hub_layout(merge_weights(self.model))
        wanted = getattr(torch, dtype)
        halved = {name: tensor.to("cpu", wanted) for name, tensor in weights.items()}
        for name in _COPIED:
            if (self.folder / name).is_file() and folder.resolve() != self.folder.resolve():
                shutil.copyfile(self.folder / name, folder / name)
        if profile is not None:
            _write_budget(folder / "preprocessor_config.json", profile)
        config = Checkpoint.read(self.folder).config | {"torch_dtype": dtype}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        write_weights(halved, folder)
        return folder


def _write_budget(file: Path, profile: ModelProfile) -> None:
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    said |= {
        "min_pixels": profile.min_image_tokens * TOKEN_PIXELS,
        "max_pixels": profile.max_image_tokens * TOKEN_PIXELS,
    }
    file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def merge_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights of the stock model by its own names, W + scale x B A where a layer has an adapter."""
    from peft.tuners.lora import LoraLayer

    weights = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            delta = layer.get_delta_weight("default").detach()
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + delta
    return weights


def _with_adapters(model: Any, options: ModelOptions, *, seed: int) -> Any:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=options.lora_rank, lora_alpha=options.lora_alpha, target_modules=_LORA_TARGETS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = inject_adapter_in_model(config, model)
    for name, value in model.named_parameters():
        value.requires_grad_(".lora_" in name)
    return model
