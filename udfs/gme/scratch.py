"""Write a GME-architecture checkpoint with random weights: for tests, demo and bench, and as the start of training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from udfs.gme.patches import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH
from udfs.gme.scratch_tokenizer import SPECIAL_TOKENS, train_tokenizer

if TYPE_CHECKING:
    import torch

_RESIDUAL_OUTPUTS = ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.fc2.weight")
_PUBLISHED_PIXELS = (
    3136,
    12845056,
)  # as in the published file; GME's own budget exists only in code


def write_scratch_checkpoint(
    path: str | Path,
    *,
    texts: Iterable[str],
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    vision_dim: int = 96,
    vision_depth: int = 3,
    vocab: int = 2048,
) -> Path:
    """Write an untrained checkpoint in the hub layout of the published GME models and return its folder.

    The tokenizer is trained on `texts`. The same arguments give the same files. Sizes are widths and layer counts:
    `hidden` a multiple of 64, `vision_dim` of 16. Its vectors tell rows apart, but not what they mean.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLModel

    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(texts, vocab=vocab)
    config = _config(tokenizer, hidden=hidden, layers=layers, vocab=vocab)
    config["vision_config"] = _vision_config(vision_dim, depth=vision_depth, hidden=hidden)
    with torch.device("meta"):  # only names and shapes are wanted
        model = Qwen2VLModel(Qwen2VLConfig(**json.loads(json.dumps(config))))
    shapes = hub_layout(model.state_dict())
    weights = {name: torch.empty(tensor.shape) for name, tensor in shapes.items()}
    _initialise(weights, seed=seed, depths={"model": layers, "visual": vision_depth})
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    write_weights(weights, folder)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config())
    _write_json(folder / "preprocessor_config.json", _preprocessor_config())
    return folder


def write_weights(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Write `model.safetensors`, readable as any other file: executors run as other users than the driver."""
    from safetensors.torch import save_file

    file = folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})  # safetensors makes it the owner's alone
    file.chmod((folder / "config.json").stat().st_mode)


def hub_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a `Qwen2VLModel` under the published files' names: `model.*` and `visual.*`."""
    return {
        name.replace("language_model.", "model.", 1): tensor.contiguous()
        for name, tensor in state.items()
    }


def _initialise(weights: dict[str, torch.Tensor], *, seed: int, depths: dict[str, int]) -> None:
    """Normal weights of 1/sqrt(fan-in), 1/sqrt(2 x depth) of that where a block ends, 0.1 for embeddings.

    Trains better than transformers' 0.02, and makes positions and pixels matter from the start.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name in sorted(weights):
        tensor = weights[name]
        if name.endswith(".bias"):
            tensor.zero_()
        elif tensor.ndim == 1:
            tensor.fill_(1.0)
        else:
            std = 0.1 if "embed_tokens" in name else math.sqrt(tensor.shape[0] / tensor.numel())
            if name.endswith(_RESIDUAL_OUTPUTS):
                std /= math.sqrt(2 * depths[name.split(".", 1)[0]])
            tensor.normal_(0.0, std, generator=generator)


def _config(tokenizer: Tokenizer, *, hidden: int, layers: int, vocab: int) -> dict[str, Any]:
    """config.json in the flat spelling of the published files; their proportions, but for the feed-forward width."""
    head = 32 if hidden < 512 else 64
    if hidden % (2 * head):
        raise ValueError(f"hidden {hidden} is not a multiple of {2 * head}")
    heads = hidden // head
    third = (head // 2) // 3
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {
            "type": "mrope",
            "mrope_section": [head // 2 - 2 * third, third, third],
        },
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "vocab_size": vocab,
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "vision_token_id": tokenizer.token_to_id("<|vision_pad|>"),
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
    }


def _vision_config(dim: int, *, depth: int, hidden: int) -> dict[str, Any]:
    if dim % 16:
        raise ValueError(f"vision_dim {dim} is not a multiple of 16")
    return {
        "model_type": "qwen2_vl",
        "depth": depth,
        "embed_dim": dim,
        "hidden_size": hidden,
        "in_channels": 3,
        "mlp_ratio": 2,
        "num_heads": dim // 64 if dim >= 512 and dim % 64 == 0 else 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 32768,
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
    }


def _preprocessor_config() -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": _PUBLISHED_PIXELS[0],
        "max_pixels": _PUBLISHED_PIXELS[1],
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
