"""Architectures of encoders: one entry a family, and the registry that the rest of the job reads."""
