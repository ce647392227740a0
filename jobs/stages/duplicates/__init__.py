"""find_duplicates: near duplicates among the vectors of the release: pairs by its index, clusters, a page of the largest."""
