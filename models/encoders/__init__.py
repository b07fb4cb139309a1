"""Encoder networks: checkpoints, layers, structure, and the transformations that make them smaller."""
