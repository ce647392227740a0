"""The model on a GPU against the same model in float32 on a CPU. Needs no Spark and no Java; skipped where there is
no GPU.
"""

import numpy as np
import pytest
import torch

from udfs.gme import Encoder, Row, attention, elementwise
from udfs.gme.budget import Budget
from udfs.gme.prepare import Prepared
from udfs.gme.scratch import write_scratch_checkpoint
from udfs.specs import ModelProfile

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")

PROFILE = ModelProfile(min_image_tokens=4, max_image_tokens=200, blank_text="embed")
HALVES = ("float16", "bfloat16")
LOWEST = {"float32": 0.999999, "float16": 0.9999, "bfloat16": 0.999}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    texts = [f"a {colour} {kind}" for colour in ("red", "blue") for kind in ("mug", "kite")]
    return write_scratch_checkpoint(
        tmp_path_factory.mktemp("scratch"), texts=texts, vocab=320, hidden=256, layers=4
    )


@pytest.fixture(scope="module")
def on_cpu(checkpoint):
    return Encoder.load(checkpoint, profile=PROFILE)


@pytest.fixture(scope="module", params=LOWEST)
def on_gpu(request, checkpoint):
    return Encoder.load(checkpoint, dtype=request.param, device="cuda", profile=PROFILE)


@pytest.fixture(scope="module")
def rows(on_cpu):
    """Prepared rows: texts, pictures of many sizes and of one, with and without text."""
    rng = np.random.default_rng(0)
    prepare = on_cpu._preparer
    found = [prepare.prepare(Row("mug " * int(n))) for n in rng.integers(1, 60, 20)]
    sizes = [(2 * int(a), 2 * int(b)) for a, b in rng.integers(1, 12, (16, 2))] + [(8, 8)] * 8
    for number, grid in enumerate(sizes):
        patches = rng.integers(0, 256, (grid[0] * grid[1], 3, 14, 14), dtype=np.uint8)
        text = "a red kite" if number % 2 else None
        found.append(prepare.with_patches(Row(text), patches, grid))
    return [found[number] for number in rng.permutation(len(found))]


def embed(encoder, rows: list[Prepared]):
    found = encoder._model.embed(rows)
    assert found.errors == [None] * len(rows)
    return found.vectors


def lowest_cosine(a, b):
    return float((a * b).sum(axis=1).min())


def test_vectors_are_those_of_a_cpu(on_cpu, on_gpu, rows):
    assert lowest_cosine(embed(on_gpu, rows), embed(on_cpu, rows)) > LOWEST[on_gpu._dtype]


def test_neighbours_do_not_matter(on_gpu, rows):
    together = embed(on_gpu, rows)
    alone = np.concatenate([embed(on_gpu, [row]) for row in rows])
    some = np.concatenate([embed(on_gpu, rows[start : start + 5]) for start in range(0, 44, 5)])
    for other in (alone, some):
        assert lowest_cosine(together, other) > LOWEST[on_gpu._dtype]


@pytest.mark.parametrize("pairs", [0, float("inf")])
def test_pictures_of_one_size_by_either_kernel(on_cpu, on_gpu, rows, monkeypatch, pairs):
    monkeypatch.setattr(attention, "_PAIRS_TO_PREPARE", pairs)
    pictures = [row for row in rows if row.patches is not None]
    assert lowest_cosine(embed(on_gpu, pictures), embed(on_cpu, pictures)) > LOWEST[on_gpu._dtype]


def test_several_batches_under_way(on_cpu, on_gpu, rows, monkeypatch):
    monkeypatch.setattr(on_gpu._model, "_budget", Budget(tokens=150, patches=600))
    assert lowest_cosine(embed(on_gpu, rows * 3), embed(on_cpu, rows * 3)) > LOWEST[on_gpu._dtype]


@pytest.mark.parametrize("dtype", HALVES)
def test_kernels_are_those_of_plain_torch(dtype):
    """At the widths of the published models, with rows that no block divides."""
    kind = getattr(torch, dtype)
    fast = elementwise.choose_elementwise(torch.device("cuda"), kind)
    assert fast.late_bias, "Triton or a C compiler is missing"
    torch.manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=kind)

    for width in (1280, 1536, 3584):
        total, update, bias, weight, shift = normal(77, width), normal(77, width), *normal(3, width)
        for slow, name, more in (
            (elementwise.add_rms_norm, "add_rms_norm", (1e-6,)),
            (elementwise.add_layer_norm, "add_layer_norm", (shift, 1e-6)),
        ):
            found = getattr(fast, name)(total, update, bias, weight, *more)
            for a, b in zip(found, slow(total, update, bias, weight, *more), strict=True):
                torch.testing.assert_close(a, b, atol=0.06, rtol=0.02)
    for heads, width in ((32, 80), (14, 128)):
        some = normal(77, heads + 4, width)[:, :heads]
        angles = torch.rand(77, width // 2, device="cuda") * 100
        given = (some, normal(heads * width), angles.cos(), angles.sin())
        torch.testing.assert_close(
            fast.rotate(*given), elementwise.rotate(*given), atol=0.06, rtol=0.02
        )
    wide, bias = normal(77, 2 * 8960), normal(2 * 8960)
    torch.testing.assert_close(
        fast.gated_silu(wide), elementwise.gated_silu(wide), atol=0.06, rtol=0.02
    )
    torch.testing.assert_close(
        fast.activate(wide, bias), elementwise.quick_gelu(wide, bias), atol=0.06, rtol=0.02
    )


def test_running_out_of_memory_halves_batches(on_cpu, on_gpu, rows, monkeypatch):
    """In earnest: under a limit that a batch of everything does not fit."""
    many = rows * 40
    monkeypatch.setattr(on_gpu._model, "_budget", Budget(10**9, 10**9))
    passes = []
    forward = on_gpu._model._forward
    monkeypatch.setattr(
        on_gpu._model, "_forward", lambda some: passes.append(len(some)) or forward(some)
    )
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + (96 << 20)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        found = embed(on_gpu, many)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert passes[0] == len(many) and len(passes) > 2
    assert lowest_cosine(found, embed(on_cpu, many)) > LOWEST[on_gpu._dtype]
