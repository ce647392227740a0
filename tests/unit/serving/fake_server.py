"""The real server around a model whose vectors tell which row they came from; started like udfs.serving.server."""

import os
import sys
import time
import uuid
from collections.abc import Sequence

import numpy as np

from udfs.errors import CanaryError, CheckpointError
from udfs.gme.prepare import EncodedBatch, Prepared
from udfs.serving.server import Options, main_with
from udfs.serving.window import Loaded

DIM = 4
VOCABULARY = 100_000
IMAGE_TOKEN = 99_999
TOKENIZER = "7" * 64
# First tokens of rows that misbehave.
REJECTED, SLOW, BROKEN = 99_001, 99_002, 99_003


class FakeModel:
    """A row's vector is [first token, tokens, patches, rows of the window]; special first tokens misbehave."""

    def embed(self, rows: Sequence[Prepared]) -> EncodedBatch:
        vectors = np.zeros((len(rows), DIM), np.float32)
        errors: list[str | None] = [None] * len(rows)
        for number, row in enumerate(rows):
            first = int(row.input_ids[0])
            if first == REJECTED:
                errors[number] = "out_of_memory: of this row: alone"
            if first == SLOW:
                time.sleep(0.3)
            if first == BROKEN:
                raise RuntimeError("CUDA error: an illegal memory access")
            patches = 0 if row.patches is None else int(row.patches.sum())
            vectors[number] = [first, row.tokens, patches, len(rows)]
        return EncodedBatch(vectors, errors)


def load(options: Options) -> Loaded:
    """What `path` says: "missing", "refused", "crash", "slow" or anything else."""
    if options.model.path == "missing":
        raise CheckpointError("no checkpoint folder at /nowhere: give a folder on local disk")
    if options.model.path == "refused":
        raise CanaryError(f"the model loaded in process {os.getpid()} makes other vectors")
    if options.model.path == "crash":
        print("the last words of a crash", file=sys.stderr, flush=True)
        os._exit(7)
    if options.model.path == "slow":
        time.sleep(0.5)
    print("threads", os.environ["OMP_NUM_THREADS"], options.model.canaries, flush=True)
    return Loaded(
        FakeModel(),
        server=f"fake:{os.getpid()}:{uuid.uuid4().hex}",
        load_report='{"python": "fake"}',
        dim=DIM,
        vocabulary=VOCABULARY,
        image_token=IMAGE_TOKEN,
        tokenizer_sha256=TOKENIZER,
    )


if __name__ == "__main__":
    main_with(load)
