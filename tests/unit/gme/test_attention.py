"""Attention over ragged sequences: every division into parts gives what each sequence gives alone."""

import contextlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from udfs.gme import attention
from udfs.gme.attention import AttentionByLength, RaggedAttention

CPU = torch.device("cpu")
HEADS, KEY_HEADS, WIDTH = 4, 2, 8


def alone(q, k, v, causal):
    """One sequence; fewer queries than keys are the last."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    found = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    return found[0].transpose(0, 1)


def one_after_another(q, k, v, a, b, causal):
    """What a ragged kernel does."""
    assert a.edges.dtype == b.edges.dtype == torch.int32
    ends = list(zip(a.edges[:-1], a.edges[1:], b.edges[:-1], b.edges[1:], strict=True))
    assert max(int(e[1] - e[0]) for e in ends) == a.longest
    assert max(int(e[3] - e[2]) for e in ends) == b.longest
    return torch.cat([alone(q[e[0] : e[1]], k[e[2] : e[3]], v[e[2] : e[3]], causal) for e in ends])


@pytest.fixture
def ragged(monkeypatch):
    monkeypatch.setattr(attention, "sdpa_kernel", lambda _: contextlib.nullcontext())
    return RaggedAttention(one_after_another, device=CPU, prepares=True)


def tensors(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    return (
        torch.randn(total, HEADS, WIDTH, generator=generator),
        *torch.randn(2, total, KEY_HEADS, WIDTH, generator=generator),
    )


def check(attend, lengths, *, causal):
    q, k, v = tensors(lengths)
    bounds = attend.divide(lengths, causal=causal)
    expected = [
        alone(*some, causal) for some in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
    ]
    found = attend(q, k, v, bounds, bounds, causal)
    torch.testing.assert_close(found, torch.cat(expected))
    ends = bounds.last_tokens()
    assert ends.tolist() == [sum(lengths[: n + 1]) - 1 for n in range(len(lengths))]
    if causal:
        last = attend(q[ends], k, v, bounds.one_each(), bounds, False)
        torch.testing.assert_close(last, torch.cat([found[-1:] for found in expected]))
    return bounds


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=12), causal=st.booleans())
@settings(max_examples=50, deadline=None)
def test_neighbours_of_one_length_go_together(lengths, causal):
    bounds = check(AttentionByLength(), lengths, causal=causal)
    changes = sum(a != b for a, b in itertools.pairwise(lengths))
    assert len(bounds.parts) == 1 + changes


@pytest.mark.parametrize("causal", [True, False])
def test_a_ragged_kernel_gets_all_in_one_call(ragged, causal):
    bounds = check(ragged, [3, 1, 1, 7, 2], causal=causal)
    assert len(bounds.parts) == 1


def test_pictures_of_one_size_go_to_cudnn_once_that_has_paid(ragged, monkeypatch):
    lengths = [6] * 5 + [4, 3, 3, 2]
    monkeypatch.setattr(attention, "_PAIRS_TO_PREPARE", 4 * 6**2)
    assert [part.rows for part in check(ragged, lengths, causal=False).parts] == [9]
    second = check(ragged, lengths, causal=False)  # four of six patches have been seen before
    assert [(part.rows, part.edges is None) for part in second.parts] == [(4, True), (5, False)]
    for _ in range(40):
        bounds = check(ragged, lengths, causal=False)
    assert [part.rows for part in bounds.parts] == [4, 1, 1, 2, 1]
    assert all(part.edges is None for part in bounds.parts)


def test_texts_never_go_to_cudnn(ragged, monkeypatch):
    monkeypatch.setattr(attention, "_PAIRS_TO_PREPARE", 0)
    assert len(check(ragged, [3, 3, 3, 3], causal=True).parts) == 1


def test_a_cpu_has_no_ragged_kernel():
    for dtype in (torch.float32, torch.bfloat16):
        assert isinstance(attention.choose_attention(CPU, dtype), AttentionByLength)
