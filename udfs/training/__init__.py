"""Contrastive training of GME-style embedders; only the training processes import torch."""
