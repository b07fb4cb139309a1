"""Tables, plots and page of the accuracy benchmark, from its results."""
