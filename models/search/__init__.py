"""Search for the recipe and the level of compression that meet constraints on latency, size and accuracy."""
