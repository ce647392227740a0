"""Draw the pictures of udfs/gme/canaries/pictures, which stay as they are: other bytes would be other canaries.

    python scripts/draw_canaries.py FOLDER

The files there were drawn by Pillow 13.0.0; another Pillow encodes other bytes. Smooth colours show how pictures are
decoded, grain as fine as a pixel how they are made smaller and larger: of large.png and wide.tif one side grows and one
shrinks on its way to a multiple of 28 pixels, which Pillow 12 and 13 do in another order.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def draw_rings(width: int, height: int, *, turns: float) -> npt.NDArray[np.float64]:
    """(height, width) in 0..1: rings that become finer from the middle to the edge."""
    y, x = np.mgrid[0:height, 0:width]
    radius = np.hypot((x - width * 0.4) / width, (y - height * 0.55) / height)
    return 0.5 + 0.5 * np.sin(2 * np.pi * turns * radius**2)


def draw_colours(width: int, height: int, *, turns: float) -> npt.NDArray[np.uint8]:
    """(height, width, 3): rings over two slopes of colour, and a dark square with sharp edges."""
    y, x = np.mgrid[0:height, 0:width]
    rings = draw_rings(width, height, turns=turns)
    red, green = 255 * x / width, 255 * y / height
    picture = np.stack([0.6 * red + 80 * rings, 0.5 * green + 100 * (1 - rings), 255 - red], -1)
    picture[height // 5 : height // 2, width // 2 : width * 3 // 4] = (20, 30, 60)
    return np.clip(picture, 0, 255).astype(np.uint8)


def draw_all(folder: Path) -> None:
    """Write every picture."""

    def file(name: str) -> str:
        return str(folder / name)

    photo = Image.fromarray(draw_colours(640, 480, turns=60))
    photo.save(file("photo.jpg"), quality=70)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    Image.fromarray(draw_colours(420, 300, turns=9)).save(
        file("turned.jpg"), quality=80, progressive=True, exif=exif
    )
    cmyk = np.concatenate([draw_colours(200, 260, turns=5), np.full((260, 200, 1), 30)], -1)
    Image.fromarray(cmyk.astype(np.uint8), "CMYK").save(file("cmyk.jpg"), quality=75)
    grain = np.random.default_rng(0).integers(0, 2, (128, 1601)).astype(np.uint8)
    large = np.tile(grain, (10, 1))[:1215]  # many pixels in few bytes
    Image.fromarray(large * 255).convert("1").save(file("large.png"), optimize=True)
    glass = np.dstack([draw_colours(320, 320, turns=4), 255 * draw_rings(320, 320, turns=3)])
    Image.fromarray(glass.astype(np.uint8)).quantize(64).save(file("glass.png"), optimize=True)
    grey = (60_000 * draw_rings(100, 75, turns=3)).astype(np.uint16)
    Image.fromarray(grey).save(file("grey16.png"), optimize=True)
    Image.fromarray(draw_colours(500, 350, turns=15)).save(file("photo.webp"), quality=60)
    palette = Image.fromarray(draw_colours(120, 90, turns=2)).quantize(32)
    palette.save(file("small.gif"))
    Image.fromarray(draw_colours(12, 8, turns=1)).save(file("tiny.png"), optimize=True)
    grey = 60 + 60 * np.random.default_rng(1).integers(0, 4, (33, 1000)).astype(np.uint8)
    Image.fromarray(grey).save(file("wide.tif"), compression="tiff_adobe_deflate")


if __name__ == "__main__":
    draw_all(Path(sys.argv[1]))
