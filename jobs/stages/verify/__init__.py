"""verify_index: every row in one place, every file as committed; repair_index: what is damaged is made again."""
