"""The Triton kernels in Triton's interpreter, which needs no GPU, against plain torch."""

import os
import subprocess
import sys

import pytest
import torch

from udfs.gme import elementwise

pytest.importorskip("triton", reason="Triton comes with torch on Linux only")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 8e-3, torch.bfloat16: 6e-2}
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the inner run")
def test_all_below_in_a_process_that_interprets():
    """Triton decides at its import whether it compiles or interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "15 passed, 1 skipped" in done.stdout


@pytest.fixture
def kernels():
    if not INTERPRETED:
        pytest.skip("runs in the process that interprets")
    from udfs.gme import kernels

    return kernels


@pytest.fixture(params=TOLERANCE)
def dtype(request):
    return request.param


def normal(*shape, dtype, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def near(found, expected, dtype):
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("biased", [False, True])
def test_norms(kernels, dtype, biased):
    total, update = normal(5, 96, dtype=dtype), normal(5, 96, dtype=dtype, seed=1)
    bias, weight, shift = normal(3, 96, dtype=dtype, seed=2)
    given = (total, update, bias if biased else None, weight)
    for name, more in (("add_rms_norm", (1e-6,)), ("add_layer_norm", (shift, 1e-6))):
        found = getattr(kernels, name)(*given, *more)
        expected = getattr(elementwise, name)(*given, *more)
        for a, b in zip(found, expected, strict=True):
            near(a, b, dtype)


@pytest.mark.parametrize("biased", [False, True])
def test_rotation_of_heads_beside_others(kernels, dtype, biased):
    heads = normal(5, 9, 20, dtype=dtype)[:, :6]
    bias = normal(120, dtype=dtype, seed=1) if biased else None
    angles = torch.linspace(0, 9, 50).view(5, 10)
    found = kernels.rotate(heads, bias, angles.cos(), angles.sin())
    near(found, elementwise.rotate(heads, bias, angles.cos(), angles.sin()), dtype)


def test_activations_of_rows_wider_than_a_block(kernels, dtype):
    wide = normal(3, 2200, dtype=dtype)
    near(kernels.gated_silu(wide), elementwise.gated_silu(wide), dtype)
    bias = normal(2200, dtype=dtype, seed=1)
    near(kernels.quick_gelu(wide, bias), elementwise.quick_gelu(wide, bias), dtype)
