"""train-embedder and ablate-training: pairs as files, torch processes, scores, a registered version."""
