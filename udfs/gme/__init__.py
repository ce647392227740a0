"""What GME does to a row: prompt, image, patches, token-budget batches, forward pass, vector."""

from udfs.gme.encoder import EncodedBatch, Encoder
from udfs.gme.prepare import Row

__all__ = ["EncodedBatch", "Encoder", "Row"]
