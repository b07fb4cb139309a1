"""Load of the serving benchmark: texts, a generator process and the search for the highest rate."""
