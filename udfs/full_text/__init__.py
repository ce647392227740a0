"""Full-text search of the rows of an index: BM25 over their texts, and its fusion with the search by vectors."""
