"""Turn an RGB image into the uint8 patches that the vision tower sees, with GME's two resizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from udfs.specs import ModelProfile

PATCH = 14  # pixels a side of one vision patch
MERGE = 2  # patches a side that become one language-model token
FACTOR = PATCH * MERGE
TOKEN_PIXELS = FACTOR * FACTOR
PRE_RESIZE_TOKENS = (4, 16384)  # step B: qwen-vl-utils' fetch_image
MAX_RATIO = 200  # longer side / shorter side
# CLIP's channel statistics, as in GME's preprocessor_config.json (pixels scaled to 0..1).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

Patches = npt.NDArray[np.uint8]


def smart_resize(height: int, width: int, *, min_tokens: int, max_tokens: int) -> tuple[int, int]:
    """The (height, width) in pixels, multiples of 28, that holds the ratio within a budget of image tokens.

    Qwen2-VL's formula; `round` is Python's, half to even.
    """
    low, high = min_tokens * TOKEN_PIXELS, max_tokens * TOKEN_PIXELS
    new_height = max(FACTOR, round(height / FACTOR) * FACTOR)
    new_width = max(FACTOR, round(width / FACTOR) * FACTOR)
    if new_height * new_width > high:
        beta = math.sqrt(height * width / high)
        new_height = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        new_width = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    elif new_height * new_width < low:
        beta = math.sqrt(low / (height * width))
        new_height = math.ceil(height * beta / FACTOR) * FACTOR
        new_width = math.ceil(width * beta / FACTOR) * FACTOR
    return new_height, new_width


def clamp_ratio(height: int, width: int) -> tuple[int, int]:
    """Shorten the longer side to 200 times the shorter one, as GME's pre-resize does (it warns and goes on)."""
    limit = MAX_RATIO * min(height, width)
    return min(height, limit), min(width, limit)


def target_sizes(height: int, width: int, *, profile: ModelProfile) -> list[tuple[int, int]]:
    """The (height, width) after each resize, in order: one entry, or two with `profile.pre_resize`."""
    sizes = []
    if profile.pre_resize:
        low, high = PRE_RESIZE_TOKENS
        height, width = smart_resize(height, width, min_tokens=low, max_tokens=high)
        height, width = clamp_ratio(height, width)
        sizes.append((height, width))
    else:
        height, width = clamp_ratio(height, width)
    low, high = profile.min_image_tokens, profile.max_image_tokens
    sizes.append(smart_resize(height, width, min_tokens=low, max_tokens=high))
    return sizes


def image_patches(image: Image.Image, *, profile: ModelProfile) -> tuple[Patches, tuple[int, int]]:
    """Resize `image` (RGB) and cut it: uint8 patches (P, 3, 14, 14) and their grid (rows, columns), P = rows x columns.

    The order is that of Qwen2-VL's image processor: the four patches of one token stand together. Values are raw
    0..255; the model normalises them on its device, which moves 8 times fewer bytes than float pixels.
    """
    for height, width in target_sizes(image.height, image.width, profile=profile):
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    rows, columns = image.height // PATCH, image.width // PATCH
    pixels: npt.NDArray[Any] = np.asarray(image)
    blocks = pixels.reshape(rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3)
    patches = blocks.transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, PATCH, PATCH)
    return np.ascontiguousarray(patches), (rows, columns)
