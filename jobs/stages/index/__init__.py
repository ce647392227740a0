"""build_index: plan, train once, build shards in tasks, check them, commit with one row of `indexes`."""
