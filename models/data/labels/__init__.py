"""Labels of the rows of a table: their cells, names and indices, and probabilities in their place."""
