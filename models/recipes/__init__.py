"""Recipes: the schema, loading, and the shipped recipes."""
