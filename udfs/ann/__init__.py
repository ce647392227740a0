"""The index: quantizer training, shard files, sharded search, exact re-ranking, recall."""
