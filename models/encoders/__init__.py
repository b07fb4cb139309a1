"""Encoder networks: checkpoints, their layers and structure, and how they are made smaller."""
