"""What GME does to a row: prompt, image, patches, token-budget batches, forward pass, vector."""

from udfs.gme.encoder import Encoder
from udfs.gme.prepare import EncodedBatch, Row

__all__ = ["EncodedBatch", "Encoder", "Row"]
