"""A seeded drawing of a product catalogue: pictures, titles, descriptions and change texts, some rows broken on purpose."""

from udfs.drawing.catalogue import (
    CATALOGUE_INPUT,
    CATALOGUE_OUTPUT,
    CatalogueSpec,
    catalogue_row,
    catalogue_rows,
    draw_batches,
)
from udfs.drawing.scenes import COLOURS, KINDS, PATTERN_NAMES, draw_jpeg, draw_picture
from udfs.drawing.splits import COMBINATIONS, Combination, held_out, split_of

__all__ = [
    "CATALOGUE_INPUT",
    "CATALOGUE_OUTPUT",
    "COLOURS",
    "COMBINATIONS",
    "KINDS",
    "PATTERN_NAMES",
    "CatalogueSpec",
    "Combination",
    "catalogue_row",
    "catalogue_rows",
    "draw_batches",
    "draw_jpeg",
    "draw_picture",
    "held_out",
    "split_of",
]
