"""tune_index: candidates up the ladder, priced and measured, the cheapest point to a target, kept with the index."""
