"""Scores, predictions and latency of exported graphs."""
