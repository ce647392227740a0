"""Pictures of the drawn catalogue, drawn once, cut as the encoder cuts them, and mapped into memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from udfs.drawing import COMBINATIONS, Combination, draw_jpeg, split_of
from udfs.drawing.tasks import SIZE
from udfs.gme.patches import MERGE, PATCH, Patches
from udfs.gme.prepare import Row, RowPreparer
from udfs.training.spec import DrawnSpec


def train_combinations(spec: DrawnSpec) -> list[Combination]:
    """The combinations that training may see, in a fixed order."""
    return [c for c in COMBINATIONS if split_of(c, seed=spec.held_out_seed) == "train"]


class DrawnPictures:
    """uint8 patches (combinations x views, p, 3, 14, 14) of all train pictures in one file, and their grid."""

    def __init__(self, patches: npt.NDArray[np.uint8], grid: tuple[int, int]) -> None:
        self._patches = patches
        self.grid = grid

    def patches(self, picture: int, *, flipped: bool) -> Patches:
        """Patches of one picture, mirrored left to right where asked."""
        found = self._patches[picture]
        return flip_patches(found, self.grid) if flipped else np.ascontiguousarray(found)

    @classmethod
    def open(
        cls,
        spec: DrawnSpec,
        preparer: RowPreparer,
        *,
        rank: int = 0,
        world: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ) -> DrawnPictures:
        """The pictures from `spec.cache`; where they are not there yet, all processes draw their share of them.

        The processes must see one folder. The file's name covers everything that its content depends on.
        """
        combinations = train_combinations(spec)
        probe = preparer.prepare(_row(combinations[0], 0, spec))
        if probe.patches is None or probe.grid is None:
            raise AssertionError("a drawn picture has patches")
        name = f"{spec.views}/{spec.seed}/{spec.held_out_seed}/{probe.grid}".encode()
        key = hashlib.sha256(name + probe.patches.tobytes()).hexdigest()[:16]
        file = Path(spec.cache) / f"drawn-{key}.npy"
        if not file.is_file():
            partial = file.with_suffix(".part")
            shape = (len(combinations) * spec.views, *probe.patches.shape)
            if rank == 0:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.lib.format.open_memmap(str(partial), mode="w+", dtype=np.uint8, shape=shape)
            barrier()
            _draw(partial, combinations, spec, preparer=preparer, part=(rank, world))
            barrier()
            if rank == 0:
                partial.replace(file)
        barrier()
        return cls(np.load(file, mmap_mode="r"), probe.grid)


def flip_patches(patches: Patches, grid: tuple[int, int]) -> Patches:
    """Patches of the picture mirrored left to right; the order is `udfs.gme.patches.image_patches`'."""
    rows, columns = grid[0] // MERGE, grid[1] // MERGE
    blocks = patches.reshape(rows, columns, MERGE, MERGE, 3, PATCH, PATCH)
    return np.ascontiguousarray(blocks[:, ::-1, :, ::-1, :, :, ::-1]).reshape(patches.shape)


def random_cut(image: Image.Image, *, least: float, seed: int) -> Image.Image:
    """A random rectangle of the picture with at least the share `least` of its area, mirrored half of the time.

    Its sides are within 3:4 and 4:3 of the picture's own (Szegedy et al., 2015), and nearer where one would be longer
    than the picture's. Colours stay as they are.
    """
    rng = np.random.default_rng(seed)
    area = rng.uniform(least, 1.0)
    most = min(np.log(4 / 3), -np.log(area)) / 2  # sqrt(area) times its exponential is at most 1
    stretch = np.exp(rng.uniform(-1, 1) * most)
    sides = np.sqrt(area) * np.array([stretch, 1 / stretch])
    width, height = (
        min(whole, math.ceil(side * whole)) for side, whole in zip(sides, image.size, strict=True)
    )
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    cut = image.crop((left, top, left + width, top + height))
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def _row(combination: Combination, view: int, spec: DrawnSpec) -> Row:
    return Row(image=draw_jpeg(*combination, seed=f"train/{spec.seed}/{view}", size=SIZE))


def _draw(
    file: Path,
    combinations: list[Combination],
    spec: DrawnSpec,
    *,
    preparer: RowPreparer,
    part: tuple[int, int],
) -> None:
    target = np.load(file, mmap_mode="r+")
    rank, world = part
    for picture in range(rank, len(target), world):
        combination, view = combinations[picture // spec.views], picture % spec.views
        target[picture] = preparer.prepare(_row(combination, view, spec)).patches
    target.flush()
