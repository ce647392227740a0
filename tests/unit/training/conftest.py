"""What the training tests share: a profile with small pictures, rows, and a pairs file."""

import io
import random

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from udfs.gme.prepare import Row, RowPreparer
from udfs.specs import ModelProfile
from udfs.training.data import write_pairs
from udfs.training.spec import ModelOptions, OptimiserOptions, PairsSpec, TrainSpec

PROFILE = ModelProfile(name="test", min_image_tokens=4, max_image_tokens=9)
COLOURS = {"red": (200, 30, 30), "blue": (30, 60, 200), "green": (30, 150, 60), "grey": (130,) * 3}


def picture(colour, *, width=56, height=56, seed=0):
    noise = np.random.default_rng(seed).integers(-25, 25, (height, width, 3))
    pixels = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def preparer(checkpoint):
    return RowPreparer.load(checkpoint, profile=PROFILE)


@pytest.fixture(scope="session")
def rows():
    """Text, pictures of two grids, fused, with and without instruction."""
    return [
        Row("a red mug"),
        Row(image=picture("red")),
        Row(image=picture("blue", width=112, height=56)),
        Row(
            "a long text about a blue kite that nobody has ever flown",
            picture("blue"),
            "Find it.",
            True,
        ),
        Row("shoe", None, "Find an image that matches the given text.", True),
        Row(image=picture("green", seed=1)),
        Row("the same but in red", picture("grey", width=112, height=56), None, True),
    ]


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    """48 text-to-image pairs, 16 image-to-image ones with two hard negatives each."""
    rng = random.Random(0)
    pairs = []
    for number in range(64):
        colour = rng.choice(list(COLOURS))
        others = [c for c in COLOURS if c != colour]
        pair = {
            "instruction": "Find an image that matches the given text.",
            "positive_image": picture(colour, seed=number),
            "positive_id": colour,
            "query_text": f"a {colour} {rng.choice(['mug', 'kite', 'shoe'])}",
        }
        if number >= 48:
            del pair["query_text"]
            pair["query_image"] = picture(colour, seed=1000 + number)
            pair["negatives"] = [{"image": picture(c, seed=number)} for c in others[:2]]
        pairs.append(pair)
    file = tmp_path_factory.mktemp("pairs") / "pairs.arrow"
    return write_pairs(file, pa.Table.from_pylist(pairs, schema=_schema()).to_batches())


def _schema():
    from udfs.training.data import PAIRS_SCHEMA

    return PAIRS_SCHEMA


@pytest.fixture
def train_spec(checkpoint, pairs_file, tmp_path):
    """A training of a few steps on pairs; change it with dataclasses.replace."""
    return TrainSpec(
        base=str(checkpoint),
        output=str(tmp_path / "out"),
        work=str(tmp_path / "work"),
        profile=PROFILE,
        pairs=PairsSpec(path=str(pairs_file)),
        batch=8,
        steps=6,
        temperature=0.05,
        model=ModelOptions(),
        optimiser=OptimiserOptions(lr=1e-3),
        checkpoint_every=2,
        dtype="float32",
    )
