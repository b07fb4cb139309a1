"""Pruning: which weights become zero, by which score, and when.

One method a file, all behind `method.PruningMethod`; `schedules` says how much, `masks` holds what is kept.
"""
