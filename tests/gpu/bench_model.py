"""Rows per second of the model on a GPU, and what share of its matrix products' rate that is.

`python -m tests.gpu.bench_model`: no Spark, no Java, nothing downloaded; random weights in the published sizes.
`--size tiny --device cpu` tries every step of it where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from transformers import Qwen2VLConfig, Qwen2VLModel

from udfs.gme import attention
from udfs.gme.budget import Budget
from udfs.gme.forward import ForwardPass
from udfs.gme.model import EmbeddingModel
from udfs.gme.prepare import Prepared
from udfs.gme.vision import FoldedPatchEmbed
from udfs.specs import ServingSpec
from udfs.training.budget import PaddedBudget, pack_padded

IMAGE_TOKEN = 100
MIXED_LATER = "mixed, all sizes seen often"
PROMPT_TOKENS = 38  # around a picture: 22 of the template, and a short text
TEXT_TOKENS = 70
FIXED = {256: 16, 512: 16, 1280: 32}  # rows of tokens of pictures that are all of one size


@dataclass(frozen=True)
class Size:
    """Widths and depths of an architecture."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    vision: int
    blocks: int
    vision_heads: int


SIZES = {
    "2b": Size(1536, 28, 12, 2, 8960, 1280, 32, 16),
    "7b": Size(3584, 28, 28, 4, 18944, 1280, 32, 16),
    "tiny": Size(128, 2, 4, 2, 256, 96, 3, 4),
}


def build_stock(size: Size, *, device: torch.device, dtype: torch.dtype) -> Qwen2VLModel:
    """A stock model with random weights of 1/sqrt(fan-in)."""
    text = {
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_heads,
        "vocab_size": 151936 if size.hidden > 1000 else 2048,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
    }
    third = size.hidden // size.heads // 2 // 4
    text["rope_scaling"] = {"type": "mrope", "mrope_section": [third, third * 3 // 2, 0]}
    text["rope_scaling"]["mrope_section"][2] = size.hidden // size.heads // 2 - sum(
        text["rope_scaling"]["mrope_section"]
    )
    vision = {
        "depth": size.blocks,
        "embed_dim": size.vision,
        "hidden_size": size.hidden,
        "num_heads": size.vision_heads,
        "mlp_ratio": 4,
    }
    config = Qwen2VLConfig(
        **text, vision_config=vision, image_token_id=IMAGE_TOKEN, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen2VLModel(config)
    finally:
        torch.set_default_dtype(before)
    depth = math.sqrt(2 * size.layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                std = 0.1 if "embed_tokens" in name else math.sqrt(len(weight) / weight.numel())
                ends = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight"))
                weight.normal_(0.0, std / depth if ends or "fc2" in name else std)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.02)
    return model.eval().requires_grad_(False)


def stock_vectors(
    model: Qwen2VLModel, rows: list[Prepared], *, budget: Budget, device: torch.device
) -> torch.Tensor:
    """Vectors of the stock model over right-padded batches: what everything is compared with."""
    embed = FoldedPatchEmbed.of(model.visual.patch_embed)
    vectors = torch.empty(len(rows), model.config.text_config.hidden_size)
    padded = PaddedBudget(budget.tokens, budget.patches, waste=2048)
    batches = pack_padded([r.tokens for r in rows], [r.patch_count for r in rows], budget=padded)
    patch_embed, model.visual.patch_embed = model.visual.patch_embed, embed
    for batch in batches:
        some = [rows[row] for row in batch]
        lengths = torch.tensor([row.tokens for row in some])
        ids = np.zeros((len(some), int(lengths.max())), dtype=np.int64)
        for number, row in enumerate(some):
            ids[number, : row.tokens] = row.input_ids
        pictures = [row for row in some if row.patches is not None]
        pixels = {}
        if pictures:
            flat = torch.from_numpy(np.concatenate([row.patches for row in pictures])).to(device)
            pixels["pixel_values"] = embed.normalise(flat)
            pixels["image_grid_thw"] = torch.tensor([(1, *row.grid) for row in pictures]).to(device)
        with torch.inference_mode():
            hidden = model(
                input_ids=torch.from_numpy(ids).to(device),
                position_ids=torch.arange(ids.shape[1], device=device).expand(3, *ids.shape),
                use_cache=False,
                **pixels,
            ).last_hidden_state
            pooled = hidden[torch.arange(len(some)), lengths - 1].float()
            vectors[batch] = torch.nn.functional.normalize(pooled, dim=-1).cpu()
    model.visual.patch_embed = patch_embed
    return vectors


def text_row(rng: np.random.Generator, tokens: int = TEXT_TOKENS) -> Prepared:
    """A row of random words."""
    return Prepared(rng.integers(200, 2000, tokens, dtype=np.int32))


def picture_row(rng: np.random.Generator, tokens: int) -> Prepared:
    """A row with a picture of about so many tokens, and a short text."""
    rows = FIXED.get(tokens) or round(math.sqrt(tokens * rng.uniform(0.6, 1.6)))
    grid = (2 * rows, 2 * (tokens // rows))
    count = grid[0] * grid[1]
    ids = rng.integers(200, 2000, count // 4 + PROMPT_TOKENS, dtype=np.int32)
    ids[16 : 16 + count // 4] = IMAGE_TOKEN
    coarse = rng.integers(0, 256, (count, 3, 7, 7), dtype=np.uint8)
    return Prepared(ids, coarse.repeat(2, axis=2).repeat(2, axis=3), grid)


def row_sets(scale: float) -> dict[str, list[Prepared]]:
    """The rows of the table; `scale` shrinks their number."""
    rng = np.random.default_rng(0)

    def times(number: int) -> range:
        return range(max(4, int(number * scale)))

    mixed = [
        text_row(rng, int(rng.integers(30, 120)))
        if rng.random() < 0.3
        else picture_row(rng, int(np.exp(rng.uniform(math.log(256), math.log(1280)))))
        for _ in times(256)
    ]
    return {
        f"text, {TEXT_TOKENS} tokens": [text_row(rng) for _ in times(4096)],
        "picture of 256 tokens": [picture_row(rng, 256) for _ in times(384)],
        "picture of 512 tokens": [picture_row(rng, 512) for _ in times(128)],
        "picture of 1,280 tokens": [picture_row(rng, 1280) for _ in times(64)],
        "mixed": mixed,
        MIXED_LATER: mixed,
    }


def count_flops(row: Prepared, size: Size) -> float:
    """Floating-point operations of a row: two for each multiplication, attention where it looks."""
    heads = size.hidden // size.heads
    width = (
        size.hidden * (2 * size.hidden + 2 * size.key_heads * heads) + 3 * size.hidden * size.mlp
    )
    total = 2.0 * size.layers * width * row.tokens
    total += 2.0 * size.layers * row.tokens**2 * size.hidden  # causal: half
    patches = row.patch_count
    total += size.blocks * (24.0 * patches * size.vision**2 + 4.0 * patches**2 * size.vision)
    merged = 4 * size.vision
    return total + 2.0 * patches * 588 * size.vision + patches / 2 * merged * (merged + size.hidden)


def measure_product(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations per second of an n³ matrix product on random numbers."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in "ab")
    seconds = median_seconds(lambda: a @ b, device, repeat=20)
    return 2.0 * n**3 / seconds


def median_seconds(work: Callable[[], object], device: torch.device, *, repeat: int) -> float:
    """Median seconds of `work`, after three runs to warm up."""
    taken = []
    for _ in range(repeat + 3):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return float(np.median(taken[3:]))


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def best_seconds(work: Callable[[], object], *, runs: int) -> float:
    """The best of some runs after one to warm up; `work` itself waits for its result."""
    taken = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def measure_start(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds until compiled functions have answered once, with nothing kept from before and with all of it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton",
        }
        command = [sys.executable, "-m", "tests.gpu.bench_model", "--start"]
        command += ["--size", arguments.size, "--dtype", arguments.dtype]
        command += ["--device", arguments.device]
        found = {}
        for name in ("cold", "warm"):
            done = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])["seconds"]
        return found


def print_start(arguments: argparse.Namespace) -> None:
    """In a process of its own: seconds that compiling adds to the first batches."""
    size, device, dtype = chosen(arguments)
    small = Size(**(vars(size) | {"layers": 2, "blocks": 2}))
    forward = ForwardPass(build_stock(small, device=device, dtype=dtype), device=device)
    model = EmbeddingModel(forward, device=device, budget=budget_of(arguments))
    rows = row_sets(0.02)["mixed"]
    started = time.perf_counter()
    model.embed(rows)
    first = time.perf_counter()
    model.embed(rows)
    again = time.perf_counter() - first
    print(json.dumps({"seconds": round(first - started - again, 2)}))


def chosen(arguments: argparse.Namespace) -> tuple[Size, torch.device, torch.dtype]:
    """What the command line asks for."""
    return (
        SIZES[arguments.size],
        torch.device(arguments.device),
        getattr(torch, arguments.dtype),
    )


def budget_of(arguments: argparse.Namespace) -> Budget:
    """The budget of a model batch."""
    return Budget(arguments.tokens, arguments.patches)


def measure(arguments: argparse.Namespace) -> None:
    """Print the table."""
    size, device, dtype = chosen(arguments)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{where}; torch {torch.__version__}, transformers {transformers.__version__}; ", end="")
    print(f"{arguments.size}, {arguments.dtype}")
    rate = measure_product(device, dtype, 8192 if device.type == "cuda" else 1024)
    print(f"matrix product: {rate / 1e12:.4g} TFLOP/s")
    sets = row_sets(arguments.scale)
    stock = build_stock(size, device=device, dtype=dtype)
    budget = budget_of(arguments)
    expected, table = {}, {name: [] for name in sets}

    def row_of(name: str, work: Callable[[], object]) -> None:
        rows = sets[name]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        speed = len(rows) / best_seconds(work, runs=arguments.runs)
        share = speed * sum(count_flops(row, size) for row in rows) / len(rows) / rate
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
        table[name].append(f"{speed:,.4g}; {share:.1%}; {peak:.1f} GiB")

    for name, rows in list(sets.items())[:-1]:
        expected[name] = stock_vectors(stock, rows, budget=budget, device=device)
        if arguments.stock:
            row_of(name, lambda: stock_vectors(stock, rows, budget=budget, device=device))  # noqa: B023
    forward = ForwardPass(stock, device=device)
    model = EmbeddingModel(forward, device=device, budget=budget)
    worst = 1.0
    for name, rows in list(sets.items())[:-1]:
        found = model.embed(rows)
        assert found.errors == [None] * len(rows), found.errors
        worst = min(worst, float((expected[name].numpy() * found.vectors).sum(axis=1).min()))
        row_of(name, lambda: model.embed(rows))  # noqa: B023
    attention._PAIRS_TO_PREPARE = 0
    row_of(MIXED_LATER, lambda: model.embed(sets[MIXED_LATER]))
    print(f"rows: {'stock, padded | ' * arguments.stock}this model: rows/s; share; peak memory")
    for name, cells in table.items():
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"lowest cosine to the stock model's vectors: {worst}")
    if arguments.starts:
        print(f"seconds that first rows take longer than later ones: {measure_start(arguments)}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="2b")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=ServingSpec.token_budget)
    parser.add_argument("--patches", type=int, default=ServingSpec.patch_budget)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--stock", action="store_true", help="time stock transformers too")
    parser.add_argument("--starts", action="store_true", help="time cold and warm starts too")
    parser.add_argument("--start", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        print_start(arguments)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
