"""Pruning methods, masks and schedules. README.md lists the methods with their papers and trade-offs."""
