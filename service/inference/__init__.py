"""Tokenization, batching and running of inputs on one loaded model."""
