"""Vectors of a real model for benches of the index: gme-tiny's of drawn products, as texts, pictures and both.

    python -m tests.bench.drawn_vectors build/drawn --rows 100000

writes xb.npy, xq.npy (float16: unit vectors, 128 numbers), kinds_b.npy and kinds_q.npy (text, image, both) into the
folder. Rows and queries are of different seeds; queries are a third texts, pictures and both, too.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from udfs.drawing.catalogue import CatalogueSpec, catalogue_row
from udfs.gme import Encoder, Row
from udfs.specs import GME

KINDS = ("text", "image", "both")
CHECKPOINT = Path(__file__).parents[2] / "conf" / "gme-tiny"
TINY = replace(GME, name="tiny", min_image_tokens=16, max_image_tokens=16)  # as conf/models.yaml
BATCH = 256


def main() -> None:
    """Draw, embed, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for name, rows, seed in (("b", arguments.rows, 0), ("q", arguments.queries, 1)):
            starts = range(0, rows, BATCH)
            x = np.concatenate(list(pool.map(partial(_embed, seed=seed, rows=rows), starts)))
            np.save(arguments.folder / f"x{name}.npy", x.astype(np.float16))
            np.save(arguments.folder / f"kinds_{name}.npy", np.array(KINDS)[np.arange(rows) % 3])


def read_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows and queries of a folder that this wrote: float32 (n, 128) and (q, 128), of unit length again."""
    xb, xq = (unit(np.load(folder / f"x{n}.npy").astype(np.float32)) for n in "bq")
    return xb, xq


def unit(x: np.ndarray) -> np.ndarray:
    """Each row divided by its length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@cache
def encoder() -> Encoder:
    import torch

    torch.set_num_threads(1)
    return Encoder.load(CHECKPOINT, profile=TINY)


def _embed(start: int, *, seed: int, rows: int) -> np.ndarray:
    spec = CatalogueSpec(seed=seed, no_picture=0, no_description=0, broken=0)
    asked = [_row(n, spec) for n in range(start, min(start + BATCH, rows))]
    return encoder().encode(asked).vectors


def _row(number: int, spec: CatalogueSpec) -> Row:
    drawn, kind = catalogue_row(number, spec=spec), KINDS[number % 3]
    text = f"{drawn['title']} {drawn['description']}" if kind != "image" else None
    return Row(text=text, image=drawn["image"] if kind != "text" else None)


if __name__ == "__main__":
    main()
