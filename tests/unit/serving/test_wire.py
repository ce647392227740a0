"""Frames carry rows and answers unchanged, and refuse what is not theirs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.embed_specs import SMALL_IMAGES
from udfs.errors import CheckpointError, ServingError
from udfs.gme.prepare import Prepared
from udfs.serving import wire
from udfs.serving.limits import frame_limit
from udfs.serving.wire import EncodeReply, Kind

grids = st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4))
ids = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20)


def _row(tokens: list[int], grid: tuple[int, int] | None, seed: int) -> Prepared:
    patches = None
    if grid is not None:
        size = (grid[0] * grid[1], 3, 14, 14)
        patches = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return Prepared(np.array(tokens, np.int32), patches, grid)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(ids, grids), max_size=6))
def test_rows_return_as_they_went(cells: list[tuple[list[int], tuple[int, int] | None]]) -> None:
    rows = [_row(tokens, grid, seed) for seed, (tokens, grid) in enumerate(cells)]
    back = wire.decode_rows(wire.encode_rows(rows))
    assert len(back) == len(rows)
    for row, copy in zip(rows, back, strict=True):
        assert copy.input_ids.dtype == np.int32
        np.testing.assert_array_equal(row.input_ids, copy.input_ids)
        assert row.grid == copy.grid
        assert (row.patches is None) == (copy.patches is None)
        if row.patches is not None and copy.patches is not None:
            assert copy.patches.dtype == np.uint8
            np.testing.assert_array_equal(row.patches, copy.patches)


def test_an_answer_returns_as_it_went() -> None:
    vectors = np.array([[1, np.nan], [0.25, -3]], np.float32)
    answer = EncodeReply(vectors, [None, "not_finite: NaN"], "host:1:abc", 0.1, 2048.5, 1 / 3)
    back = wire.decode_answer(wire.encode_answer(answer))
    np.testing.assert_array_equal(back.vectors, vectors)
    assert (back.errors, back.server, back.model_seconds) == (answer.errors, "host:1:abc", 0.1)
    assert (back.budget_tokens, back.load_seconds) == (2048.5, 1 / 3)


def test_a_frame_of_another_program_or_another_time_is_refused() -> None:
    limits = {Kind.EMBED: 1000, Kind.STATS: 10}
    assert wire.parse_head(wire.pack_head(Kind.EMBED, 1000), limits=limits) == (Kind.EMBED, 1000)
    for head in (b"HTTP/1.1 200 ", b"GMEL\x09" + bytes(8)):
        with pytest.raises(ServingError, match="not a frame of the model server"):
            wire.parse_head(head, limits=limits)
    with pytest.raises(ServingError, match="EMBED or STATS expected, found HELLO"):
        wire.parse_head(wire.pack_head(Kind.HELLO, 1), limits=limits)
    for kind, limit in limits.items():
        with pytest.raises(ServingError, match=f"{kind.name} of .* bytes .* limit is {limit:,}"):
            wire.parse_head(wire.pack_head(kind, limit + 1), limits=limits)


def test_the_largest_request_that_a_worker_sends_fits_its_limit() -> None:
    """Rows are added until REQUEST_BYTES are reached, so the last one may come on top of nearly as many."""
    tokens = SMALL_IMAGES.max_image_tokens
    largest = Prepared(
        np.full(SMALL_IMAGES.max_length, 1, np.int32),
        np.zeros((4 * tokens, 3, 14, 14), np.uint8),
        (2, 2 * tokens),
    )
    below = (wire.REQUEST_BYTES - 1) // (wire.REQUEST_ROWS - 1)
    others = [Prepared(np.full(below // 4, 1, np.int32))] * (wire.REQUEST_ROWS - 1)
    assert sum(row.nbytes for row in others) < wire.REQUEST_BYTES
    size = len(wire.encode_rows([*others, largest]))
    assert wire.REQUEST_BYTES < size <= frame_limit(SMALL_IMAGES)


def test_damaged_payloads_are_refused() -> None:
    good = wire.encode_rows([_row([1, 2], (2, 2), 0)])
    with pytest.raises(ServingError):
        wire.decode_rows(good[: len(good) // 2])
    with pytest.raises(ServingError, match="expected, found"):
        wire.decode_rows(wire.encode_answer(EncodeReply(np.zeros((1, 2)), [None], "s", 0.0)))
    with pytest.raises(ServingError, match="do not fit a grid"):
        wire.decode_rows(
            wire.encode_rows(
                [Prepared(np.ones(1, np.int32), np.zeros((3, 3, 14, 14), np.uint8), (2, 2))]
            )
        )
    with pytest.raises(ServingError, match="not JSON"):
        wire.decode_json(b"{")


def test_offsets_that_lead_out_of_the_payload_are_refused() -> None:
    data = bytearray(wire.encode_rows([_row([1, 2, 3], (2, 2), 0)]))
    patches = np.int64(4 * 588).tobytes()
    assert data.count(patches) >= 1
    at = data.rindex(patches)  # the end of the picture's bytes, among the offsets
    data[at : at + 8] = np.int64(1 << 40).tobytes()
    with pytest.raises(ServingError, match="does not hold one Arrow record batch"):
        wire.decode_rows(data)


def test_a_failure_fits_its_frame_and_keeps_the_last_words() -> None:
    told = wire.failure(CheckpointError("first " + "\U0001f600" * 100_000 + " last"))
    assert len(wire.encode_json(told)) <= wire.FAILURE_BYTES
    assert told["message"].startswith("first ") and told["message"].endswith(" last")


def test_failures_keep_their_kind() -> None:
    with pytest.raises(CheckpointError, match="no folder"):
        wire.raise_failure(wire.failure(CheckpointError("no folder")))
    with pytest.raises(ServingError, match="ValueError: odd"):
        wire.raise_failure(wire.failure(ValueError("odd")))
