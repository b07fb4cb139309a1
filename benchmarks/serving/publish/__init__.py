"""Targets and page of the serving benchmark, from its results."""
