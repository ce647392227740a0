"""The drawing: repeatable, varied, and with pictures that differ where their attributes do."""

import io
import time

import pytest
from PIL import Image, ImageChops, ImageStat

from udfs.drawing import COLOURS, COMBINATIONS, KINDS, PATTERN_NAMES, draw_jpeg, draw_picture
from udfs.drawing.sheet import CELL, contact_sheet


def difference(a: Image.Image, b: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return sum(ImageStat.Stat(ImageChops.difference(a, b)).mean) / 3


def test_there_are_enough_combinations():
    assert len(KINDS) >= 16 and len(COLOURS) == 12 and len(PATTERN_NAMES) == 6
    assert len(set(COMBINATIONS)) == len(COMBINATIONS) == len(KINDS) * 72


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others():
    again = draw_jpeg("mug", "red", "dots", seed=4)
    assert draw_jpeg("mug", "red", "dots", seed=4) == again
    assert draw_jpeg("mug", "red", "dots", seed=5) != again


@pytest.mark.parametrize("size", [64, 112, 224])
def test_pictures_have_the_size_asked_for(size):
    picture = Image.open(io.BytesIO(draw_jpeg("kite", "teal", "stars", seed=1, size=size)))
    assert picture.format == "JPEG" and picture.mode == "RGB" and picture.size == (size, size)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_its_colour_and_its_pattern(kind):
    red, blue, green = (COLOURS[c] for c in ("red", "blue", "green"))
    for colour, others in (("red", (blue, green)), ("blue", (red, green)), ("green", (red, blue))):
        pixels = list(draw_picture(kind, colour, "plain", seed=3, size=64).get_flattened_data())
        near = [
            sum(max(map(abs, map(int.__sub__, p, c))) < 40 for p in pixels)
            for c in (COLOURS[colour], *others)
        ]
        assert near[0] > 0.05 * len(pixels), "the product's colour covers too little of the picture"
        assert near[0] > 4 * max(near[1:])


def test_patterns_leave_the_colour_the_larger_part_of_the_product():
    for pattern in PATTERN_NAMES[1:]:
        pixels = list(
            draw_picture("t-shirt", "black", pattern, seed=2, size=112).get_flattened_data()
        )
        black = sum(max(p) < 60 for p in pixels)
        white = sum(min(p) > 244 for p in pixels)
        assert black > white > 0.02 * len(pixels), pattern


def test_an_unknown_attribute_is_an_error():
    with pytest.raises(KeyError, match="sofa"):
        draw_picture("sofa", "red", "plain", seed=0)


def test_views_of_one_product_differ_in_place_and_background():
    views = [draw_picture("car", "blue", "plain", seed=s, size=64) for s in range(6)]
    assert all(difference(a, b) > 5 for i, a in enumerate(views) for b in views[:i])


def test_drawing_is_quick_enough_for_a_demo():
    start = time.process_time()
    for i, (kind, colour, pattern) in enumerate(COMBINATIONS[::24]):
        draw_jpeg(kind, colour, pattern, seed=i)
    # About 5 ms on the machine this was written on; the bound catches an accidental slow path only.
    assert (time.process_time() - start) / len(COMBINATIONS[::24]) < 0.04


def test_contact_sheet_shows_every_kind():
    assert contact_sheet("patterns").size == (12 * CELL, len(KINDS) * CELL)
