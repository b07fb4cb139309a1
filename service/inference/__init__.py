"""Tokenization, batching and inference with loaded models."""
