"""evaluate_retrieval: tasks as data, their documents embedded and ranked by the jobs' own code, metrics with intervals."""
