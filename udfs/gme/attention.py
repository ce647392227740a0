"""Attention over sequences that stand one after another in one tensor, without padding."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# cuDNN attends to pictures of one size 1.6 times as fast as the ragged kernel, but prepares itself 45 ms for each
# number and size (H100, torch 2.11): as long as it saves over so many pairs of patches in 32 blocks.
_PAIRS_TO_PREPARE = 2e8


class Stretch(NamedTuple):
    """Neighbouring sequences that are attended to in one call, `rows` sequences between two tokens."""

    start: int
    end: int
    rows: int
    edges: torch.Tensor | None  # int32 (rows + 1,) from 0; None: they are of one length
    longest: int


@dataclass(frozen=True, eq=False)
class Bounds:
    """Where sequences end, and how they are divided into parts."""

    lengths: tuple[int, ...]
    parts: tuple[Stretch, ...]

    def last_tokens(self) -> torch.Tensor:
        """Position of the last token of each sequence, int64 (n,)."""
        return torch.tensor(self.lengths).cumsum(0) - 1

    def one_each(self) -> Bounds:
        """Bounds of sequences of one token, divided in the same way."""
        parts, start = [], 0
        for part in self.parts:
            end, edges = start + part.rows, part.edges
            if edges is not None:
                edges = torch.arange(part.rows + 1, dtype=edges.dtype, device=edges.device)
            parts.append(Stretch(start, end, part.rows, edges, 1))
            start = end
        return Bounds((1,) * len(self.lengths), tuple(parts))


# Queries, keys, values, the part of the queries and that of the keys, causal → (Tq, heads, d).
Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Stretch, Stretch, bool], torch.Tensor]


class Attention(ABC):
    """Attention on one device."""

    @abstractmethod
    def divide(self, lengths: Sequence[int], *, causal: bool) -> Bounds:
        """Bounds of sequences of these lengths, made once a batch."""

    @abstractmethod
    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        a: Stretch,
        b: Stretch,
        causal: bool,
    ) -> torch.Tensor:
        """Attention of one stretch of queries, `a`, to one of keys, `b`: their own rows alone."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        queries: Bounds,
        keys: Bounds,
        causal: bool,
    ) -> torch.Tensor:
        """Queries (Tq, heads, d), keys and values (Tk, key heads, d), whose last axis is contiguous → (Tq, heads, d).

        Where causal, a sequence has as many queries as keys.
        """
        return _join(
            self.attend(q[a.start : a.end], k[b.start : b.end], v[b.start : b.end], a, b, causal)
            for a, b in zip(queries.parts, keys.parts, strict=True)
        )


def choose_attention(device: torch.device, dtype: torch.dtype) -> Attention:
    """The fastest attention that is there.

    On a GPU in half precision a kernel for ragged sequences: flash-attention 3 (`flash_attn_interface`) on Hopper, else
    torch's own, from torch 2.10 on.
    """
    if device.type != "cuda" or dtype == torch.float32:
        return AttentionByLength()
    hopper = torch.cuda.get_device_capability(device)[0] == 9
    if hopper and importlib.util.find_spec("flash_attn_interface"):
        return RaggedAttention(_flash_attention_3(), device=device, prepares=False)
    if importlib.util.find_spec("torch.nn.attention.varlen"):
        prepares = hopper and torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
        return RaggedAttention(_torch_varlen(), device=device, prepares=prepares)
    return AttentionByLength()


class AttentionByLength(Attention):
    """torch's own attention, called once for neighbours of one length."""

    def divide(self, lengths: Sequence[int], *, causal: bool) -> Bounds:
        """Runs of one length."""
        runs = ((length, len(list(same))) for length, same in itertools.groupby(lengths))
        parts, start = [], 0
        for length, rows in runs:
            parts.append(Stretch(start, start + rows * length, rows, None, length))
            start += rows * length
        return Bounds(tuple(lengths), tuple(parts))

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        a: Stretch,
        b: Stretch,
        causal: bool,
    ) -> torch.Tensor:
        """As in `Attention`."""
        return _attend_dense(q, k, v, b.rows, causal)


class RaggedAttention(Attention):
    """A kernel for ragged sequences; cuDNN's for pictures of one size, once that has paid."""

    def __init__(self, kernel: Kernel, *, device: torch.device, prepares: bool) -> None:
        """`prepares`: cuDNN is there, and faster than the kernel."""
        self._kernel = kernel
        self._device = device
        self._prepares = prepares
        self._pairs: Counter[tuple[int, int]] = Counter()

    def divide(self, lengths: Sequence[int], *, causal: bool) -> Bounds:
        """One ragged part, but for pictures of one size: powers of two of them."""
        found: list[tuple[int, int | None]] = []  # rows, and their one length
        for length, same in itertools.groupby(lengths):
            rows = len(list(same))
            for power in reversed(range(rows.bit_length())):
                if rows >> power & 1:
                    dense = not causal and self._pays(1 << power, length)
                    if dense or not found or found[-1][1] is not None:
                        found.append((1 << power, length if dense else None))
                    else:
                        found[-1] = (found[-1][0] + (1 << power), None)
        return Bounds(tuple(lengths), tuple(self._parts(lengths, found)))

    def _pays(self, rows: int, length: int) -> bool:
        if not self._prepares:
            return False
        self._pairs[rows, length] += rows * length**2
        return self._pairs[rows, length] > _PAIRS_TO_PREPARE

    def _parts(
        self, lengths: Sequence[int], found: list[tuple[int, int | None]]
    ) -> Iterator[Stretch]:
        start = row = 0
        for rows, length in found:
            some = lengths[row : row + rows]
            edges = None
            if length is None:
                here = torch.zeros(
                    rows + 1, dtype=torch.int32, pin_memory=self._device.type == "cuda"
                )
                torch.cumsum(torch.tensor(some), 0, out=here[1:])
                edges = here.to(self._device, non_blocking=True)
            yield Stretch(start, start + sum(some), rows, edges, max(some))
            start, row = start + sum(some), row + rows

    def attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        a: Stretch,
        b: Stretch,
        causal: bool,
    ) -> torch.Tensor:
        """As in `Attention`."""
        if b.edges is None:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return _attend_dense(q, k, v, b.rows, causal)
        return self._kernel(q, k, v, a, b, causal)


def _torch_varlen() -> Kernel:
    from torch.nn.attention.varlen import varlen_attn

    attend: Any = varlen_attn
    known = inspect.signature(attend).parameters
    grouped = {"enable_gqa": True} if "enable_gqa" in known else {}

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: Stretch, b: Stretch, causal: bool
    ) -> torch.Tensor:
        window = (-1, 0) if causal else (-1, -1)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # as measured: newer torch prefers cuDNN
            found: torch.Tensor = attend(
                q, k, v, a.edges, b.edges, a.longest, b.longest, window_size=window, **grouped
            )
        return found

    return kernel


def _flash_attention_3() -> Kernel:
    attend = importlib.import_module("flash_attn_interface").flash_attn_varlen_func

    def kernel(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: Stretch, b: Stretch, causal: bool
    ) -> torch.Tensor:
        found = attend(q, k, v, a.edges, b.edges, a.longest, b.longest, causal=causal)
        out: torch.Tensor = found[0] if isinstance(found, tuple) else found  # first versions
        return out

    return kernel


def _attend_dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int, causal: bool
) -> torch.Tensor:
    """Sequences of one length."""
    q, k, v = (x.view(rows, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    found = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
    return found.transpose(1, 2).flatten(0, 1)


def _join(parts: Iterator[torch.Tensor]) -> torch.Tensor:
    found = list(parts)
    return found[0] if len(found) == 1 else torch.cat(found)
