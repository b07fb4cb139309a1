"""Labelled text from files to splits: loading, columns, labels, splitting, tokenization."""
