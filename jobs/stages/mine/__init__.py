"""mine_negatives: pairs staged, positives embedded and indexed, queries searched, negatives chosen and written."""
