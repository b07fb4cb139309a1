"""Comparison of variants: on request, by traffic split, and in shadow runs."""
