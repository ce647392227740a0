"""Building an index: plan, train, shards, manifest, check of what a build costs."""
