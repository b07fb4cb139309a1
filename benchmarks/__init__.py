"""Benchmarks and their results. Each package has `run` to measure and `publish` to write its page."""
