"""Sizes and patch order of GME's two resizes, against the measured table of the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from udfs.gme.patches import image_patches, target_sizes
from udfs.specs import GME, ModelProfile

MEASURED = [  # input, after the pre-resize, final (width x height), tokens, tokens without the pre-resize
    ((1, 1), (56, 56), (448, 448), 256, 256),
    ((336, 336), (336, 336), (448, 448), 256, 256),
    ((640, 480), (644, 476), (644, 476), 391, 391),
    ((1024, 1024), (1036, 1036), (980, 980), 1225, 1225),
    ((1240, 1754), (1232, 1764), (812, 1176), 1218, 1260),
    ((2000, 1500), (1988, 1512), (1148, 868), 1271, 1230),
    ((4000, 3000), (4004, 2996), (1148, 840), 1230, 1230),
    ((100, 2000), (112, 1988), (112, 1988), 284, 284),
    ((8000, 3), (5600, 28), (6356, 56), 454, None),
]


@pytest.mark.parametrize(("size", "middle", "final", "tokens", "tokens_once"), MEASURED)
def test_sizes_of_the_reference(size, middle, final, tokens, tokens_once):
    width, height = size
    sizes = target_sizes(height, width, profile=GME)
    assert sizes == [middle[::-1], final[::-1]]
    assert final[0] * final[1] // 784 == tokens
    if tokens_once is not None:
        ((once_height, once_width),) = target_sizes(
            height, width, profile=ModelProfile(pre_resize=False)
        )
        assert once_height * once_width // 784 == tokens_once


@given(width=st.integers(1, 100_000_000), height=st.integers(1, 4000))
def test_any_size_ends_near_the_budget(width, height):
    for final_height, final_width in (
        target_sizes(height, width, profile=GME)[-1],
        target_sizes(width, height, profile=ModelProfile(pre_resize=False))[-1],
    ):
        assert final_height % 28 == final_width % 28 == 0
        assert 256 <= final_height * final_width // 784 <= 1280


def test_four_patches_of_a_token_stand_together():
    """Each 14x14 square has its own colour: patch p must be the square that Qwen2-VL's order puts there."""
    rows, columns = 32, 34
    squares = np.arange(rows * columns).reshape(rows, columns)
    pixels = squares.repeat(14, axis=0).repeat(14, axis=1)
    image = Image.fromarray(
        np.stack([pixels % 251, pixels // 251, pixels * 0], -1).astype(np.uint8)
    )
    patches, grid = image_patches(image, profile=GME)
    assert grid == (rows, columns)
    assert patches.shape == (rows * columns, 3, 14, 14) and patches.dtype == np.uint8
    seen = patches[:, 0, 5, 5].astype(int) + 251 * patches[:, 1, 5, 5].astype(int)
    assert seen[:8].tolist() == [0, 1, columns, columns + 1, 2, 3, columns + 2, columns + 3]
    assert sorted(seen) == list(range(rows * columns))
