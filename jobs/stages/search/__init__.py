"""search: read and check queries, embed them with the release's model, search in tasks, write and show results."""
