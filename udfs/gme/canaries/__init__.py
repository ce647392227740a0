"""Fixed inputs whose vectors are stored with a model: every load of it is compared with them before it serves."""
