"""Scores, predictions, latency and memory of exported graphs."""
