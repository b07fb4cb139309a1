"""Metrics, logs, traces, and the record of a request that feeds them."""
