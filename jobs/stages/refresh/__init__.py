"""refresh-lake: plan, embed, index, verify, gate, promote, clean up."""
