"""Tables from files: CSV, TSV, JSON, Parquet and Arrow, compressed or not, known by their content."""
