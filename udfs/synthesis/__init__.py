"""Training pairs from passages: what a language model is asked, what its answers are worth, and pictures of entities."""
