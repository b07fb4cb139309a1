"""From constraints on latency, size and accuracy to the recipe and the level of compression that meet them."""
