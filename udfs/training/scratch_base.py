"""A fresh checkpoint to train from: its tokenizer sees the training's texts, and none of held-out products."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from udfs.drawing.tasks import ATTRIBUTES, VALUES
from udfs.drawing.training_rows import INSTRUCTIONS
from udfs.drawing.words import change_text, description, query_text, title
from udfs.strings import is_utf8, python_values
from udfs.training.pictures import train_combinations
from udfs.training.spec import DrawnSpec, PairsSpec

_DRAWN_TEXTS = 4000


def training_texts(drawn: DrawnSpec | None, pairs: PairsSpec | None, *, seed: int) -> Iterator[str]:
    """Texts of the kinds that the training will show, for `write_scratch_checkpoint`."""
    if drawn:
        rng = random.Random(f"texts/{seed}")
        combinations = train_combinations(drawn)
        yield from INSTRUCTIONS.values()
        for _ in range(_DRAWN_TEXTS):
            yield rng.choice((title, description, query_text))(*rng.choice(combinations), rng=rng)
            attribute = rng.choice(ATTRIBUTES)
            yield change_text(attribute, rng.choice(VALUES[attribute]), rng=rng)
    if pairs:
        with pa.memory_map(str(Path(pairs.path))) as source:
            table = pa.ipc.open_file(source).read_all()
        for name in ("instruction", "query_text", "positive_text"):
            for text in python_values(table[name]):
                if text and is_utf8(text):  # the others are no rows to train on either
                    yield text
