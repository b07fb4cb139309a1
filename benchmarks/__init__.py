"""Scripts that measure, and the results that they wrote."""
