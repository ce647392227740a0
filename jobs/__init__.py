"""DRIVER: one file a job, verb_noun, thin: settings, read, transform, write."""
