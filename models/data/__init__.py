"""Labelled text, from files to tokens: loading, columns, labels, splitting and tokenization."""
